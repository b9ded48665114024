"""Take log events: the gateway's own, and those of other libraries' loggers."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from llm_gateway.telemetry.console import Event

PLAIN = (str, int, float, list, tuple, dict, type(None))
"""Values that are rendered later as they are; others are written down at once, since they may hold much or change."""


def configure_logging(*, level: str, write: Callable[..., None]) -> Callable[..., None]:
    """Set logging up, once, and return `log(event, level="info", at_once=True, **fields)`.

    `write(fields, at_once=…)` takes the events. `at_once=False` is for events that can come in floods, whose fields are
    texts and numbers: they cost little more than an entry in a queue. Other libraries' loggers come the same way, from
    warnings up.
    """
    threshold = getattr(logging, level.upper())
    levels = {name.lower(): number for name, number in logging.getLevelNamesMapping().items()}

    def log(event: str, *, level: str = "info", at_once: bool = True, exc_info: Any = None, **fields: Any) -> None:
        if levels[level] < threshold:
            return
        line: Event = {"timestamp": datetime.now(UTC), "level": level, "event": event, **fields}
        if exc_info:
            line["exception"] = _formatted(exc_info)
        if at_once:
            for name, value in fields.items():
                if not isinstance(value, PLAIN):
                    line[name] = repr(value)
        write(line, at_once=at_once)

    logging.basicConfig(handlers=[_Bridge(log)], level=max(threshold, logging.WARNING), force=True)
    return log


def _formatted(exc_info: Any) -> str:
    """The plain traceback; one with local variables would show prompts and keys."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif not isinstance(exc_info, BaseException):
        exc_info = sys.exc_info()[1]
    return "".join(traceback.format_exception(exc_info)).rstrip("\n")


class _Bridge(logging.Handler):
    """The standard library's log records, sent the gateway's way."""

    def __init__(self, log: Callable[..., None]) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        name = record.levelname.lower()
        level = name if name in ("debug", "info", "warning", "error", "critical") else "info"
        try:
            message = record.getMessage()
        except Exception:  # edge: arguments that do not fit must not break whoever logs, as in logging's own handlers
            message = str(record.msg)
        self._log(message, level=level, logger=record.name, exc_info=record.exc_info)
