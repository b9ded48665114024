"""The mock vendor in its own process, started and controlled by a test or a benchmark."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import msgspec

from tests.upstream.server import KEPT_CALLS, Override, Seen

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 5.0


class Process(Protocol):
    """The part of `subprocess.Popen` that is used."""

    @property
    def pid(self) -> int: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class UpstreamProcess:
    """A mock vendor's process: `with UpstreamProcess(journal=path) as mock: … mock.base_url … mock.seen().calls`."""

    def __init__(
        self, *, port: int = 0, journal: Path | None = None, fsync: bool = False, kept_calls: int = KEPT_CALLS
    ) -> None:
        self._arguments = [f"--port={port}", f"--kept-calls={kept_calls}"]
        if journal is not None:
            self._arguments.append(f"--journal={journal.resolve()}")
        if fsync:
            self._arguments.append("--fsync")
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._process: Process | None = None
        self.port = port

    def __enter__(self) -> Self:
        reading, writing = os.pipe()
        with os.fdopen(reading) as output:
            try:
                self._process = self._start(self._arguments, writing)
            finally:
                os.close(writing)
            line = output.readline()
        if not line:
            raise RuntimeError(f"The mock did not start: it ended with {self._process.wait()}")
        self.port = int(line)
        return self

    def _start(self, arguments: Sequence[str], output: int) -> Process:
        """Start the process; its standard output is the descriptor `output`."""
        return subprocess.Popen([sys.executable, "-m", "tests.upstream", *arguments], cwd=ROOT, stdout=output)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("The mock is not running")
        return self._process.pid

    @property
    def base_url(self) -> str:
        """The `base_url` of a provider at this mock."""
        return f"http://127.0.0.1:{self.port}/v1"

    def seen(self) -> Seen:
        """Return the calls received since the mock started or was reset."""
        return msgspec.json.decode(self._ask("/_calls"), type=Seen)

    def behave(self, behaviour: str | None, model: str | None = None, times: int | None = None) -> None:
        """Call `MockUpstream.behave` in the process."""
        self._ask("/_behave", msgspec.json.encode(Override(behaviour, model, times)))

    def reset(self) -> None:
        """Call `MockUpstream.reset` in the process."""
        self._ask("/_reset", b"{}")

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        with self._opener.open(f"http://127.0.0.1:{self.port}{path}", body, timeout=10) as response:
            answer: bytes = response.read()
        return answer
