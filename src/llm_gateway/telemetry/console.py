"""Render log events for people: one event per line, followed by its traceback, indented.

`2026-11-27T09:32:17.715529Z [warning  ] circuit breaker opened model=m provider='my vendor' seconds=30`
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

Event: TypeAlias = dict[str, Any]
"""Fields of a log event: `timestamp` (a datetime in UTC), `level`, `event`, optionally `logger` (the name of another
library's logger) and `exception` (a traceback as text), and any others."""

INDENT = "    "
"""Precedes each line of a traceback, so that only an event starts at the margin."""

QUOTED = frozenset(" =\"'")
"""Characters that would make it unclear where a value ends; a value with one of them is quoted."""
BOLD, DIM, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = (f"\x1b[{code}m" for code in (1, 2, 31, 32, 33, 34, 35, 36))
RESET = "\x1b[0m"
LEVEL_COLORS = {"debug": GREEN, "info": GREEN, "warning": YELLOW, "error": RED, "critical": RED}


def event_text(event: Event, *, colors: bool) -> str:
    """Return the lines of an event without a final newline; `colors` adds ANSI escapes for terminals."""
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
    """Format a time in UTC as in RFC 3339, with microseconds."""
    return moment.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def printable(text: str) -> str:
    """Escape every character that is not `str.isprintable`, as `repr` does."""
    return text if text.isprintable() else "".join([c if c.isprintable() else repr(c)[1:-1] for c in text])


def _value(value: object) -> str:
    if isinstance(value, str) and value.isprintable() and QUOTED.isdisjoint(value):
        return value
    return repr(value)  # escapes everything unprintable


def _plain(_color: str, text: str) -> str:
    return text


def _colored(color: str, text: str) -> str:
    return f"{color}{text}{RESET}"
