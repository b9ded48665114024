"""Log of a process: which requests its level lets through."""

from __future__ import annotations

import pytest

from llm_gateway.telemetry import LogWriter
from llm_gateway.telemetry.process_log import ProcessLog
from llm_gateway.telemetry.redaction import Redactor
from tests.telemetry.harness import Pipe, record


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", ["ok", "failed"]), ("info", ["ok", "failed"]), ("warning", ["failed"]), ("error", [])],
)
def test_the_level_decides_which_requests_are_logged(level: str, expected: list[str]) -> None:
    pipe = Pipe()
    writer = LogWriter(console=False, redact=str, fd=pipe.write_end)
    write = ProcessLog(writer, lambda *_, **__: None, Redactor([]), level).request_lines()
    assert (write is None) == (level == "error")
    with writer:
        for line in (record(id="ok"), record(id="failed", status=502, outcome="failed")):
            if write is not None:
                write(line)
    text = pipe.text()
    assert [name for name in ("ok", "failed") if f'"request_id":"{name}"' in text] == expected
