"""Log lines of the supervisor, in the formats of the gateway's other log lines (`telemetry`)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import stat
import time

STDOUT = 1
LEVELS = ("debug", "info", "warning", "error")
QUOTED = frozenset(" =\"'")
"""Characters that would make it unclear where a value ends; a value with one of them is quoted."""


class SupervisorLog:
    """Write events of at least `level` to stdout, each in one call; drop and count them while a pipe there is full.

    `dropped` is the number of events that could not be written, without those that `take_dropped` returned.
    """

    def __init__(self, level: str, form: str) -> None:
        self.dropped = 0
        self._descriptor = _unblocking_stdout()
        self.configure(level, form)

    def configure(self, level: str, form: str) -> None:
        """Write from now on events of at least this level, in this form."""
        self._threshold = LEVELS.index(level)
        self._is_console = form == "console" or (form == "auto" and os.isatty(STDOUT))

    def take_dropped(self, most: int) -> int:
        """Return the number of dropped events, but at most `most` of them, and count these no longer."""
        taken = min(self.dropped, most)
        self.dropped -= taken
        return taken

    def __call__(self, event: str, *, level: str = "info", **fields: str | float) -> None:
        """Write one event."""
        if LEVELS.index(level) < self._threshold:
            return
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1000:06d}Z"
        if self._is_console:
            texts = [f"{name}={_console_value(value)}" for name, value in sorted(fields.items())]
            line = " ".join([moment, f"[{level:<9}]", event, *texts])
        else:
            line = json.dumps({"timestamp": moment, "level": level, "event": event, **fields})
        data = f"{line}\n".encode()
        written = 0
        with contextlib.suppress(OSError):
            if select.select([], [self._descriptor], [], 0)[1]:
                written = os.write(self._descriptor, data)
        self.dropped += written < len(data)


def _unblocking_stdout() -> int:
    """Return a descriptor to write to stdout. If that is a pipe, no write waits, even if another process has filled it.

    The pipe is opened anew, since all processes with the same open file share its flags (open(2)).
    """
    with contextlib.suppress(OSError):
        if stat.S_ISFIFO(os.fstat(STDOUT).st_mode):
            return os.open(f"/proc/self/fd/{STDOUT}", os.O_WRONLY | os.O_NONBLOCK)
    return STDOUT


def _console_value(value: str | float) -> str:
    is_plain = isinstance(value, str) and value.isprintable() and QUOTED.isdisjoint(value)
    return str(value) if is_plain else repr(value)
