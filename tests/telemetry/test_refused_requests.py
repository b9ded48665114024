"""Refused requests are counted by the log lines that report them."""

from __future__ import annotations

from llm_gateway.domain.metric_families import Sample
from llm_gateway.telemetry.refused_requests import RefusalCounter


def test_refused_requests_are_counted_and_every_line_is_passed_on() -> None:
    passed: list[tuple[str, dict[str, object]]] = []
    counter = RefusalCounter(lambda event, **fields: passed.append((event, fields)))
    for status, code in ((401, "unauthorized"), (401, "unauthorized"), (404, "not_found")):
        counter("request refused", level="info", status=status, error_code=code)
    counter("started")
    assert [event for event, _ in passed] == ["request refused"] * 3 + ["started"]
    assert passed[0][1] == {"level": "info", "status": 401, "error_code": "unauthorized"}
    assert counter.family().samples == [
        Sample("_total", {"status": "401", "error_code": "unauthorized"}, 2),
        Sample("_total", {"status": "404", "error_code": "not_found"}, 1),
    ]
