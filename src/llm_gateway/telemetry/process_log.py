"""Log of one process: its writer, the function that logs, and the redaction of its keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.telemetry.events import configure_logging
from llm_gateway.telemetry.redaction import Redactor
from llm_gateway.telemetry.writer import LogWriter


class ProcessLog(NamedTuple):
    """The log of a process. Enter `writer` before the first line is due; `log(event, level=…, **fields)` writes one."""

    writer: LogWriter
    log: Callable[..., None]
    redact: Redactor
    level: str

    def request_lines(self) -> Callable[[UsageRecord], None] | None:
        """Return the function that logs a finished request, or None where the level lets none through.

        Requests with status 5xx are logged as warnings, the others as info.
        """
        write = self.writer.request
        if self.level == "error":
            return None
        return (lambda record: write(record) if record.status >= 500 else None) if self.level == "warning" else write


def open_log(*, level: str, form: str, secrets: Iterable[str]) -> ProcessLog:
    """Set up the log of this process. Call it once.

    Args:
        level: the least severe level that is logged.
        form: `json`, `console`, or `auto` for console if standard output is a terminal.
        secrets: keys to redact.
    """
    redact = Redactor(secrets)
    console = form == "console" or (form == "auto" and os.isatty(1))
    writer = LogWriter(console=console, redact=redact)
    return ProcessLog(writer, configure_logging(level=level, write=writer.event), redact, level)
