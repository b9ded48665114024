"""Control's side in its own process: `python -m tests.forwarding.served <data directory>`.

Each line on stdout is a heartbeat, ten a second.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from tests.forwarding.harness import control


async def main(data_dir: Path) -> None:
    async with control(data_dir):
        while True:
            sys.stdout.write("alive\n")
            sys.stdout.flush()
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
