"""Collect log events from the gateway and from other libraries' loggers, and pass them to the log writer."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from llm_gateway.telemetry.console import Event

PLAIN = (str, int, float, list, tuple, dict, type(None))
"""Types whose values are rendered later, in the log's thread. Others are turned into text at once, since they may hold
much memory or change."""


def configure_logging(*, level: str, write: Callable[..., None]) -> Callable[..., None]:
    """Set up logging and return `log(event, level="info", at_once=True, **fields)`. Call it once per process.

        log = configure_logging(level="info", write=log_writer.event)
        log("circuit breaker opened", level="warning", provider="openai", seconds=30)

    Events below `level` are dropped. `write(fields, at_once=…)` receives the rest, and warnings and errors of other
    libraries' loggers. `at_once=False` is for events that can come in floods and have only texts and numbers as fields:
    they cost little more than an entry in a queue.
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
    """Format the traceback without local variables, which would show prompts and keys."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif not isinstance(exc_info, BaseException):
        exc_info = sys.exc_info()[1]
    return "".join(traceback.format_exception(exc_info)).rstrip("\n")


class _Bridge(logging.Handler):
    """Handler that turns log records of the standard library into events."""

    def __init__(self, log: Callable[..., None]) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        name = record.levelname.lower()
        level = name if name in ("debug", "info", "warning", "error", "critical") else "info"
        try:
            message = record.getMessage()
        except Exception:  # edge: wrong format arguments must not raise in the caller, as in logging's own handlers
            message = str(record.msg)
        self._log(message, level=level, logger=record.name, exc_info=record.exc_info)
