"""Processes of a gateway, found in /proc: all that a supervisor started, told apart by the module they run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from tests.waiting import wait_until

ENDED_S = 20.0
PROC = Path("/proc")
STATE, PARENT, THREADS, STARTED = 0, 1, 17, 19
"""Fields of /proc/PID/stat (proc(5)), counted from the first after the process's name."""


class ProcessId(NamedTuple):
    """A process, even after the system has given its number to another one: `started` is its time of start."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the process that has this number now, or None if the number is free."""
        fields = _stat(pid)
        return cls(pid, int(fields[STARTED])) if fields else None

    @property
    def is_running(self) -> bool:
        """Whether any of its threads runs; a process that only waits to be collected by its parent has ended."""
        fields = _stat(self.pid)
        if not fields or int(fields[STARTED]) != self.started:
            return False
        return fields[STATE] not in "ZX" or int(fields[THREADS]) > 1

    @property
    def role(self) -> str:
        """Name of what it runs: `worker`, `control`; anything else for another program.

        A forked process has its parent's command line, so tests/fork_server.py gives it a name.
        """
        name = _read(self.pid, "comm").strip()
        words = _read(self.pid, "cmdline").split("\0")
        return next((word.rpartition(".")[2] for word in words if word.startswith("llm_gateway.")), name)

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def descendants(pid: int) -> list[ProcessId]:
    """Return the running processes that this one has started, and those that they have started."""
    numbers = (int(path.name) for path in PROC.iterdir() if path.name.isdigit())
    parents = {number: fields for number in numbers if (fields := _stat(number))}
    family = [pid]
    for one in family:  # the list grows while it is iterated
        family += [child for child, fields in parents.items() if int(fields[PARENT]) == one]
    found = [ProcessId(child, int(parents[child][STARTED])) for child in family[1:]]
    return [process for process in found if process.is_running]


def wait_for_end(processes: Iterable[ProcessId], seconds: float = ENDED_S) -> None:
    """Wait until all have ended.

    Raises:
        AssertionError: one still runs after this time.
    """
    for process in processes:
        wait_until(partial(_has_ended, process), seconds)


def _has_ended(process: ProcessId) -> bool:
    return not process.is_running


def _stat(pid: int) -> list[str]:
    return _read(pid, "stat").rpartition(")")[2].split()


def _read(pid: int, what: str) -> str:
    """Return a file of the process; empty if it has ended."""
    try:
        return (PROC / str(pid) / what).read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
