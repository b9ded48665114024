"""Command that runs the mock vendor and prints its port: `python -m tests.upstream --port 0 --journal FILE`."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

import uvloop

from tests.upstream.server import KEPT_CALLS, MockUpstream


async def _serve(arguments: argparse.Namespace) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with MockUpstream(
        port=arguments.port, journal=arguments.journal, fsync=arguments.fsync, kept_calls=arguments.kept_calls
    ) as mock:
        if arguments.behave:
            mock.behave(arguments.behave)
        print(mock.port, flush=True)  # noqa: T201 - it is a command
        await ended.wait()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description="A faulty mock vendor that bills.")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 (the default) takes a free one")
    parser.add_argument("--journal", type=Path, help="file that gets one JSON line per call, before its answer")
    parser.add_argument("--fsync", action="store_true", help="sync the journal for every call")
    parser.add_argument("--behave", help="treat every call so, for instance: status-500, slow-200, flaky-3+reset")
    parser.add_argument(
        "--kept-calls", type=int, default=KEPT_CALLS, help="how many calls GET /_calls shows (default: %(default)s)"
    )
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
