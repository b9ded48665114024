"""Control and worker processes that a test starts in the supervisor's place, each in a new interpreter."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self

from llm_gateway.inherited import PREPARED, READY, STOP, Inherited, to_arguments
from llm_gateway.settings import Settings
from llm_gateway.settings_reader import encode_settings

PATIENCE_S = 60.0
PROGRAM = """
import ctypes, json, os, sys
from llm_gateway.{name}.__main__ import main
code = main()
is_dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) if sys.platform == "linux" else None  # PR_GET_DUMPABLE, prctl(2)
with open(os.environ["AT_THE_END"], "w") as file:
    json.dump([list(sys.modules), is_dumpable], file)
sys.exit(code)
"""


class StartedChild:
    """A child process, `control` or `worker`, with its leash; leaving the context kills it if it still runs.

    Args:
        name: which process, and the name of its output files.
        folder: folder of its output files.
        settings: its settings.
        listener: socket of a worker.
    """

    def __init__(self, name: str, folder: Path, settings: Settings, listener: socket.socket | None = None) -> None:
        self._output = folder / f"{name}.out"
        self._end = folder / f"{name}.end"
        self.leash, theirs = socket.socketpair()
        self.leash.settimeout(PATIENCE_S)
        with TemporaryFile() as file, theirs, self._output.open("wb") as output:
            file.write(encode_settings(settings))
            file.flush()
            inherited = Inherited(settings=file.fileno(), leash=theirs.fileno())
            if listener is not None:
                inherited.listener, inherited.number = listener.fileno(), 1
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM.format(name=name), *to_arguments(inherited)],
                env={**os.environ, "AT_THE_END": str(self._end)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=inherited.descriptors,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leash.close()
        self.process.kill()
        self.process.wait()

    @property
    def output(self) -> str:
        """What it wrote to stdout and stderr so far."""
        return self._output.read_text()

    @property
    def events(self) -> list[str]:
        """The events that it logged so far."""
        return [json.loads(line)["event"] for line in self.output.splitlines()]

    @property
    def modules(self) -> Collection[str]:
        """The modules that it had imported at its end."""
        return list(json.loads(self._end.read_text())[0])

    @property
    def is_dumpable(self) -> int | None:
        """1 if its memory could be read and dumped at its end, 0 if not; None where the system does not tell."""
        found: int | None = json.loads(self._end.read_text())[1]
        return found

    def wait_ready(self) -> None:
        """Wait until it has written that it is ready."""
        received = b""
        while not received.endswith(READY):
            piece = self.leash.recv(100)
            received += piece
            if not piece:
                self.ended()
                raise AssertionError((received, self.output))
        assert received.removeprefix(PREPARED) == READY

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal as the supervisor does when the gateway stops, and wait for the end. Returns the exit code."""
        self.leash.send(STOP)
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end. Returns the exit code."""
        return self.process.wait(PATIENCE_S)
