"""Helpers for tests of logs and metrics: a log in a temporary file, a log in a pipe, and usage records."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

from llm_gateway.domain.usage import AttemptRecord, Usage, UsageRecord
from llm_gateway.telemetry import LogWriter, configure_logging
from llm_gateway.telemetry.redaction import Redactor

SECRET = "canary/with.odd:characters"
LOOKS_SECRET = "sk-abcdefgh12345678"
PATIENCE_S = 60.0
"""Seconds in which a log on a busy machine writes what is left."""


class Log:
    """A configured log that writes to a temporary file."""

    def __init__(self, level: str = "info", *, console: bool = False) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - read when all is written
        self._writer = LogWriter(console=console, redact=Redactor([SECRET]), fd=self._file.fileno(), close_s=PATIENCE_S)
        self.log = configure_logging(level=level, write=self._writer.event)

    def text(self) -> str:
        with self._writer:
            pass
        with self._file:
            self._file.seek(0)
            return self._file.read().decode()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


def record(**fields: Any) -> UsageRecord:
    attempt = AttemptRecord(
        id="a", provider_id="i", provider="p", kind="openai", model="m", started_ms=0, status=200,
        usage=Usage(input_tokens=10, output_tokens=5), cost_nanos=1500,
    )  # fmt: skip
    values: dict[str, Any] = {
        "id": "r-1", "at_ms": 1_700_000_000_000, "instance": "i", "key_name": "k", "user_id": "u", "service": "s",
        "task_type": "general", "surface": "generate", "outcome": "ok", "status": 200, "provider": "p", "model": "m",
        "usage": attempt.usage, "cost_nanos": 1500, "latency_ms": 250, "attempts": [attempt],
    }  # fmt: skip
    return UsageRecord(**{**values, **fields})


class Pipe:
    """A pipe for a log to write to; `text` reads it at the end."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()

    def text(self) -> str:
        os.close(self.write_end)
        with os.fdopen(self.read_end, "rb") as file:
            return file.read().decode()


def written(records: list[UsageRecord], *, console: bool = False) -> str:
    with tempfile.TemporaryFile() as file:
        with LogWriter(console=console, redact=Redactor([SECRET]), fd=file.fileno(), close_s=PATIENCE_S) as log:
            for one in records:
                log.request(one)
        file.seek(0)
        return file.read().decode()
