"""Log lines of the supervisor, in the formats of the gateway's other log lines (`telemetry`)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import time

STDOUT = 1
LEVELS = ("debug", "info", "warning", "error")
QUOTED = frozenset(" =\"'")
"""Characters that would make it unclear where a value ends; a value with one of them is quoted."""


class SupervisorLog:
    """Write events of at least `level` to stdout, each in one call; drop them while a pipe there is full."""

    def __init__(self, level: str, form: str) -> None:
        self._threshold = LEVELS.index(level)
        self._is_console = form == "console" or (form == "auto" and os.isatty(STDOUT))

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
        with contextlib.suppress(OSError):
            if select.select([], [STDOUT], [], 0)[1]:
                os.write(STDOUT, f"{line}\n".encode())


def _console_value(value: str | float) -> str:
    is_plain = isinstance(value, str) and value.isprintable() and QUOTED.isdisjoint(value)
    return str(value) if is_plain else repr(value)
