"""Render log events for people, one event a line; a traceback follows, indented.

`2026-11-27T09:32:17.715529Z [warning  ] circuit breaker opened model=m provider='my vendor' seconds=30`
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

Event: TypeAlias = dict[str, Any]
"""The fields of one log event: `timestamp` (a datetime in UTC), `level` and `event`, perhaps `logger` (of another
library) and `exception` (a traceback), and its own."""

INDENT = "    "
QUOTED = frozenset(" =\"'")
"""Characters that would make it unclear where a value ends."""
BOLD, DIM, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = (f"\x1b[{code}m" for code in (1, 2, 31, 32, 33, 34, 35, 36))
RESET = "\x1b[0m"
LEVEL_COLORS = {"debug": GREEN, "info": GREEN, "warning": YELLOW, "error": RED, "critical": RED}


def event_text(event: Event, *, colors: bool) -> str:
    """Return the lines of an event, without the last line's end; `colors` is for terminals."""
    paint = _colored if colors else _plain
    fields = dict(event)
    moment, level, text = fields.pop("timestamp"), fields.pop("level"), fields.pop("event")
    logger, exception = fields.pop("logger", None), fields.pop("exception", None)
    parts = [
        paint(DIM, iso(moment)),
        f"[{paint(LEVEL_COLORS.get(level, BOLD), f'{level:<9}')}]",
        paint(BOLD, printable(str(text))),
    ]
    if logger is not None:
        parts.append(f"[{paint(BLUE, printable(logger))}]")
    parts += [f"{paint(CYAN, name)}={paint(MAGENTA, _value(value))}" for name, value in sorted(fields.items())]
    lines = [" ".join(parts)]
    if exception is not None:
        lines += [INDENT + printable(line) for line in exception.split("\n")]
    return "\n".join(lines)


def iso(moment: datetime) -> str:
    """Return a time in UTC as RFC 3339 writes it, to the microsecond."""
    return moment.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def printable(text: str) -> str:
    """Escape every character that `str.isprintable` refuses, as Python does."""
    return text if text.isprintable() else "".join([c if c.isprintable() else repr(c)[1:-1] for c in text])


def _value(value: object) -> str:
    if isinstance(value, str) and value.isprintable() and QUOTED.isdisjoint(value):
        return value
    return repr(value)  # which leaves nothing unprintable


def _plain(_color: str, text: str) -> str:
    return text


def _colored(color: str, text: str) -> str:
    return f"{color}{text}{RESET}"
