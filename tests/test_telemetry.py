"""Logs and metrics: what they show, and that secrets are not in them."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from llm_gateway import telemetry
from llm_gateway.domain.redaction import Redactor
from llm_gateway.domain.usage import AttemptRecord, Usage, UsageRecord
from llm_gateway.telemetry import LogWriter, Metrics, configure_logging

PROMPT = "the customer's own words"
SECRET = "canary/with.odd:characters"
LOOKS_SECRET = "sk-abcdefgh12345678"


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


class Log:
    """A configured log and what it wrote."""

    def __init__(self, level: str = "info", *, console: bool = False) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - read when all is written
        self._writer = LogWriter(console=console, redact=Redactor([SECRET]), fd=self._file.fileno())
        self.log = configure_logging(level=level, console=console, write=self._writer.event)

    def text(self) -> str:
        with self._writer:
            pass
        with self._file:
            self._file.seek(0)
            return self._file.read().decode()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


def fails(prompt: str) -> None:
    key = f"Bearer {SECRET}"
    raise ValueError(f"refused {key} and {LOOKS_SECRET}, {len(prompt)} characters")


def caught() -> ValueError:
    try:
        fails(PROMPT)
    except ValueError as error:
        return error
    raise AssertionError


def test_an_event_is_a_line_of_json() -> None:
    out = Log()
    out.log("something happened", provider="p", count=3)
    [line] = out.lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {"event": "something happened", "level": "info", "provider": "p", "count": 3}


def test_levels() -> None:
    out = Log("warning")
    for level in ("debug", "info", "warning", "error"):
        out.log("event", level=level)
    assert [line["level"] for line in out.lines()] == ["warning", "error"]


def test_console_lines_are_for_people() -> None:
    out = Log(console=True)
    out.log("something happened", provider="p")
    output = out.text()
    assert re.search(r"\[info +\] something happened provider=p", output)
    assert len(output.splitlines()) == 1
    assert "\x1b" not in output, "colours are for terminals"


@pytest.mark.parametrize("console", [False, True])
def test_secrets_are_removed_exceptions_included(console: bool) -> None:
    out = Log(console=console)
    out.log(f"refused {SECRET}", key=LOOKS_SECRET, nested={"header": f"Bearer {SECRET}"}, url="https://x/?key=12345678")
    out.log("failed", level="error", exc_info=caught())
    output = out.text()
    assert output.count("[redacted]") >= 6
    assert SECRET not in output
    assert "abcdefgh" not in output
    assert "12345678" not in output
    assert "ValueError" in output
    assert "in fails" in output, "the traceback is there"
    assert "own words" not in output, "but the local variables are not"


@pytest.mark.parametrize("console", [False, True])
def test_other_libraries_loggers_come_the_same_way(console: bool) -> None:
    out = Log("debug", console=console)
    logger = logging.getLogger("some.library")
    logger.info("not shown")
    logger.warning("shown %s", SECRET)
    logger.critical("worst")
    logger.log(35, "of an own level")
    logger.warning("arguments %d do not fit", "x")
    logger.error("failed", exc_info=caught())
    output = out.text()
    assert "not shown" not in output
    assert SECRET not in output
    for text in ("shown [redacted]", "worst", "of an own level", "arguments %d do not fit", "some.library", "in fails"):
        assert text in output


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
    """What a request log writes to, read in the end."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()

    def text(self) -> str:
        os.close(self.write_end)
        with os.fdopen(self.read_end, "rb") as file:
            return file.read().decode()


def written(records: list[UsageRecord], *, console: bool = False) -> str:
    with tempfile.TemporaryFile() as file:
        with LogWriter(console=console, redact=Redactor([SECRET]), fd=file.fileno()) as log:
            for one in records:
                log.request(one)
        file.seek(0)
        return file.read().decode()


def test_every_request_has_a_line_of_json() -> None:
    failed = record(id="r-2", outcome="failed", status=502, error_code="provider_error", provider=None, attempts=[])
    first, second = (json.loads(line) for line in written([record(), failed]).splitlines())
    assert first == {
        "timestamp": "2023-11-14T22:13:20.250Z", "level": "info", "event": "request", "request_id": "r-1",
        "service": "s", "user_id": "u", "task_type": "general", "outcome": "ok", "status": 200, "provider": "p",
        "model": "m", "attempts": 1, "input_tokens": 10, "output_tokens": 5, "cost_usd": 0.0000015, "latency_ms": 250,
        "error_code": None,
    }  # fmt: skip
    assert (second["level"], second["error_code"], second["attempts"]) == ("warning", "provider_error", 0)


def test_console_lines_of_requests() -> None:
    failed = record(outcome="no_provider", status=503, error_code="no_provider", provider=None, user_id="a\nb\x1b[31m")
    first, second = written([record(), failed], console=True).splitlines()
    assert first == "22:13:20.250 200 ok           p/m 10+5 tokens $0.000002 250 ms  's' for 'u'"
    assert "503 no_provider  - " in second
    assert second.endswith(r"'s' for 'a\nb\x1b[31m' no_provider")


def test_secrets_are_removed_from_request_lines() -> None:
    text = written([record(user_id=SECRET, service=f"x {LOOKS_SECRET}", task_type=f"Bearer {'t' * 20}")] * 250)
    assert len(text.splitlines()) == 250
    for secret in (SECRET, "abcdefgh", "tttt"):
        assert secret not in text


def test_lines_come_while_it_runs() -> None:
    pipe = Pipe()
    with LogWriter(console=False, redact=str, fd=pipe.write_end) as log:
        log.request(record())
        assert json.loads(os.read(pipe.read_end, 65536))["request_id"] == "r-1"
    assert pipe.text() == ""


def test_an_event_does_not_wait_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "FLUSH_SECONDS", 3600)
    pipe = Pipe()
    with LogWriter(console=False, redact=str, fd=pipe.write_end) as log:
        log.request(record())
        log.event("an event\n")
        read = b""
        while not read.endswith(b"an event\n"):
            read += os.read(pipe.read_end, 65536)
    assert read.startswith(b'{"timestamp"'), "lines keep their order"
    assert pipe.text() == ""


def test_a_slow_reader_gets_everything_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "MAX_WAITING_LINES", 1000)
    pipe = Pipe()
    log = LogWriter(console=False, redact=str, fd=pipe.write_end)
    for _ in range(1234):
        log.request(record())
    for number in range(1007):
        log.event(f'{{"event": "event", "number": {number}}}\n')
    os.set_blocking(pipe.write_end, False)
    with os.fdopen(pipe.read_end, "rb") as file:
        with log:
            text = [json.loads(file.readline()) for _ in range(2001)]
        os.close(pipe.write_end)
        assert file.read() == b""
    assert [line["event"] for line in text[:-1]] == ["request"] * 1000 + ["event"] * 1000
    assert text[-1] == {"event": "log lines dropped", "level": "warning", "count": 241}


def test_nobody_waits_for_a_reader_that_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "CLOSE_SECONDS", 0.05)
    pipe = Pipe()
    with LogWriter(console=False, redact=str, fd=pipe.write_end) as log:
        for _ in range(5000):  # more than a pipe holds
            log.request(record())
            log.event("x" * 100)
    os.close(pipe.read_end)  # which ends the thread
    log._thread.join()
    os.close(pipe.write_end)


def test_a_reader_that_is_gone_does_not_matter() -> None:
    pipe = Pipe()
    os.close(pipe.read_end)
    with LogWriter(console=False, redact=str, fd=pipe.write_end) as log:
        log.request(record())
    os.close(pipe.write_end)


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample of the rendered text, as `name{label=value}`."""
    return {
        f"{sample.name}{{{','.join(f'{name}={value}' for name, value in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_metrics_count_and_can_be_parsed() -> None:
    gauges = [("g", "A gauge", {"provider": "p"}, 1.0), ("g", "A gauge", {"provider": 'q"\n'}, 0.5), ("n", "N", {}, 7)]
    metrics = Metrics(lambda: gauges)
    metrics(record())
    metrics(record(latency_ms=5))
    metrics(record(latency_ms=200_000))
    cut = AttemptRecord(id="b", provider_id="i", provider="p", kind="openai", model="m", started_ms=0)
    metrics(record(outcome="failed", error_code="provider_error", attempts=[cut], latency_ms=1))
    found = samples(metrics)
    assert found["llm_gateway_requests_total{error_code=,outcome=ok,surface=generate}"] == 3
    assert found["llm_gateway_requests_total{error_code=provider_error,outcome=failed,surface=generate}"] == 1
    assert found["llm_gateway_attempts_total{model=m,provider=p,status=200}"] == 3
    assert found["llm_gateway_attempts_total{model=m,provider=p,status=none}"] == 1
    assert found["llm_gateway_tokens_total{direction=input,model=m,provider=p}"] == 30
    assert found["llm_gateway_tokens_total{direction=output,model=m,provider=p}"] == 15
    assert found["llm_gateway_cost_usd_total{model=m,provider=p}"] == pytest.approx(4.5e-6)
    buckets = {bound: found[f"llm_gateway_latency_seconds_bucket{{le={bound},outcome=ok}}"] for bound in bounds()}
    assert (buckets["0.005"], buckets["0.1"], buckets["0.25"], buckets["120.0"], buckets["+Inf"]) == (1, 1, 2, 2, 3)
    assert list(buckets.values()) == sorted(buckets.values())
    assert found["llm_gateway_latency_seconds_count{outcome=ok}"] == 3
    assert found["llm_gateway_latency_seconds_sum{outcome=ok}"] == pytest.approx(200.255)
    assert (found["g{provider=p}"], found['g{provider=q"\n}'], found["n{}"]) == (1, 0.5, 7)


def bounds() -> list[str]:
    return [*(str(ms / 1000) for ms in telemetry.LATENCY_BUCKETS_MS), "+Inf"]


def test_metrics_without_requests() -> None:
    found = samples(Metrics(list))
    assert not [name for name in found if name.startswith("llm_gateway")]
    assert [name for name in found if name.startswith("process_cpu_seconds_total")]
