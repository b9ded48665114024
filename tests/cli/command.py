"""Run the command line in a test: in the test process, as a process with pipes, or on a pseudo-terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llm_gateway.cli.commands import run
from tests.e2e.process import GatewayProcess, until
from tests.fork_server import COMMAND_LINE, Surroundings, fork_server
from tests.upstream import UpstreamProcess

COMMAND = Path(sys.executable).with_name("llm-gateway")
PATIENCE_S = 60.0
CTRL_C = b"\x03"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Ran(NamedTuple):
    """Exit code and output of a command; a terminal has both streams in one."""

    code: int
    out: str
    err: str = ""

    @property
    def json(self) -> Any:
        assert (self.code, self.err) == (0, "")
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The output's lines, split into fields."""
        assert (self.code, self.err) == (0, "")
        return [line.split("\t") for line in self.out.splitlines()]

    @property
    def sentence(self) -> str:
        """The one line of the error message."""
        assert self.out == ""
        [line] = self.err.splitlines()
        assert line.startswith("llm-gateway: ")
        return line.removeprefix("llm-gateway: ")


class SetUp(NamedTuple):
    """A running gateway and the mock vendor for its providers."""

    gateway: GatewayProcess
    vendor: UpstreamProcess


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ran:
    """Run a command in this process. Output is no terminal, and standard input is empty."""
    capsys.readouterr()
    code = run(arguments)
    return Ran(code, *capsys.readouterr())


def execute(*arguments: str, stdin: str | bytes = "", **environment: str) -> Ran:
    """Run a command as a process with pipes."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    return Ran(*fork_server().run(COMMAND_LINE, arguments, Path.cwd(), {**os.environ, **environment}, given))


def execute_command(*arguments: str, **environment: str) -> Ran:
    """Run the installed command as a new process, interpreter start and imports included."""
    ended = subprocess.run(
        [COMMAND, *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Ran(ended.returncode, ended.stdout, ended.stderr)


def on_terminal(*arguments: str, typed: str = "", columns: int = 120, **environment: str) -> Ran:
    """Run a command on a pseudo-terminal and type `typed`. Colours are removed from its output."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    try:
        process = fork_server().start(
            COMMAND_LINE, arguments, (theirs,) * 3, Path.cwd(),
            {**os.environ, "TERM": "xterm", **environment}, Surroundings(terminal=True),
        )  # fmt: skip
    finally:
        os.close(theirs)
    # A hidden prompt discards what was typed before it.
    until(lambda: bool(select.select([ours], [], [], 0.01)[0]) or process.poll() is not None)
    try:
        shown = _converse(ours, typed.encode())
        return Ran(process.wait(PATIENCE_S), _ESCAPES.sub("", shown).replace("\r\n", "\n"))
    finally:
        os.close(ours)
        process.kill()
        process.wait()


def _converse(terminal: int, typed: bytes) -> str:
    """Type, and read until the other end is closed. Ctrl-C is repeated, since it can get lost just before a read."""
    shown, deadline = b"", time.monotonic() + PATIENCE_S
    os.write(terminal, typed)
    with contextlib.suppress(OSError):  # Linux: EIO once no process has the other end open
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 0.5)[0]:
                os.write(terminal, typed if typed == CTRL_C else b"")
                continue
            read = os.read(terminal, 65536)
            if not read:
                break
            shown += read
    return shown.decode()
