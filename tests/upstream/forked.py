"""The mock vendor in a process that is forked from one which has imported everything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tests.fork_server import MOCK, ROOT, ForkedProcess, fork_server
from tests.upstream.process import UpstreamProcess


class ForkedUpstream(UpstreamProcess):
    """An `UpstreamProcess` that starts in 20 ms of CPU time instead of 300."""

    def _start(self, arguments: Sequence[str], output: int) -> ForkedProcess:
        with Path(os.devnull).open("rb") as nothing:
            return fork_server().start(MOCK, arguments, (nothing.fileno(), output, 2), ROOT, os.environ)
