"""The benchmarks in a process that has imported the gateway already: they fork its gateways, without their imports.

The figures say even less than those of a quick run; what a run does, prints and accounts for is the same.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

import llm_gateway.__main__ as gateway_program
from benchmarks import __main__ as bench
from benchmarks.targets import Gateway
from tests.fork_server import ForkingLauncher

OPEN_FILES = 4096


class ForkedGateway(Gateway):
    """A gateway that is forked from this process."""

    def _launch(
        self, command: Sequence[str | Path], environment: Mapping[str, str], cwd: Path, log: BinaryIO
    ) -> subprocess.Popen[bytes]:
        def serve() -> NoReturn:
            """Be the gateway instead of executing the command."""
            os.closerange(3, OPEN_FILES)  # what Popen would close, and the pipe on which it waits for the execution
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            os.environ.clear()
            os.environ.update(environment)
            code: object = 1
            try:
                code = gateway_program.main(ForkingLauncher())
            except SystemExit as end:
                code = end.code
            finally:
                os._exit(code if isinstance(code, int) else 0 if code is None else 1)

        return subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log, preexec_fn=serve)  # noqa: PLW1509 - one thread


def main() -> None:
    """Run the benchmark that the command line names."""
    sys.exit(bench.main(gateway=ForkedGateway))
