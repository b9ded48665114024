"""The log writer writes every line once and whole, never blocks a caller, and survives a log that cannot be written."""

from __future__ import annotations

import json
import os
import re
import resource
import time
from pathlib import Path

import msgspec
import pytest

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.telemetry import LogWriter
from tests.telemetry.harness import LOOKS_SECRET, SECRET, Pipe, record, written

RUNBOOK = Path(__file__).parents[2] / "docs" / "RUNBOOK.md"


def test_every_request_is_written_as_one_line_of_json() -> None:
    failed = record(id="r-2", outcome="failed", status=502, error_code="provider_error", provider=None, attempts=[])
    first, second = (json.loads(line) for line in written([record(), failed]).splitlines())
    assert first == {
        "timestamp": "2023-11-14T22:13:20.250Z", "level": "info", "event": "request", "request_id": "r-1",
        "client_request_id": None, "key": "k", "surface": "generate", "service": "s", "user_id": "u",
        "task_type": "general", "outcome": "ok", "status": 200, "provider": "p", "model": "m", "attempts": 1,
        "failures": [], "input_tokens": 10, "output_tokens": 5, "cost_usd": 0.0000015, "queued_ms": 0,
        "first_token_ms": None, "latency_ms": 250, "error_code": None, "traceparent": None,
    }  # fmt: skip
    assert (second["level"], second["error_code"], second["attempts"]) == ("warning", "provider_error", 0)


def failed_over() -> UsageRecord:
    """Return the record of a stream that two providers failed to answer, one of them with a text of its own."""
    [served] = record().attempts
    refused = msgspec.structs.replace(served, provider="a", model="x", status=503, error="quotes the secret prompt")
    silent = msgspec.structs.replace(served, provider="b", model="y", status=None, error="b", why="failover:503")
    served = msgspec.structs.replace(served, why="failover:timeout")
    return record(attempts=[refused, silent, served], surface="chat", first_token_ms=120, queued_ms=30)


def test_the_line_of_a_request_says_why_attempts_failed_and_how_long_the_first_token_took() -> None:
    text = written([failed_over()])
    line = json.loads(text)
    assert (line["attempts"], line["failures"]) == (3, ["a/x: 503", "b/y: timeout"])
    assert (line["surface"], line["first_token_ms"], line["queued_ms"]) == ("chat", 120, 30)
    assert "secret" not in text
    shown = written([failed_over()], console=True)
    assert "250 ms (first 120)  's' for 'u' (failed: a/x: 503, b/y: timeout) r-1" in shown


def test_the_runbook_lists_the_fields_of_the_line_of_a_request() -> None:
    text = RUNBOOK.read_text("utf-8").partition("### Requests\n")[2].partition("\n## ")[0]
    rows = text.partition("| field | what |")[2].splitlines()
    listed = {name for row in rows if row.startswith("| `") for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert listed | {"timestamp", "level", "event"} == json.loads(written([record()])).keys()


def test_console_lines_of_requests_show_status_cost_and_ids() -> None:
    failed = record(outcome="no_provider", status=503, error_code="no_provider", provider=None, user_id="a\nb\x1b[31m")
    first, second = written([record(client_request_id="own"), failed], console=True).splitlines()
    assert first == "22:13:20.250 200 ok           p/m 10+5 tokens $0.000002 250 ms  's' for 'u' r-1 (own)"
    assert "503 no_provider  - " in second
    assert second.endswith(r"'s' for 'a\nb\x1b[31m' no_provider r-1")


def test_secrets_are_removed_from_request_lines() -> None:
    text = written([record(user_id=SECRET, service=f"x {LOOKS_SECRET}", task_type=f"Bearer {'t' * 20}")] * 250)
    assert len(text.splitlines()) == 250
    for secret in (SECRET, "abcdefgh", "tttt"):
        assert secret not in text


def test_lines_are_written_while_the_writer_runs() -> None:
    pipe = Pipe()
    with LogWriter(console=False, redact=str, fd=pipe.write_end) as log:
        log.request(record())
        assert json.loads(os.read(pipe.read_end, 65536))["request_id"] == "r-1"
    assert pipe.text() == ""


def test_an_event_at_once_does_not_wait_for_the_flush_interval() -> None:
    pipe = Pipe()
    with LogWriter(console=False, redact=str, fd=pipe.write_end, flush_s=3600) as log:
        log.request(record())
        log.event({"event": "an event"})
        read = b""
        while not read.endswith(b'an event"}\n'):
            read += os.read(pipe.read_end, 65536)
    assert read.startswith(b'{"timestamp"'), "lines keep their order"
    assert pipe.text() == ""


def test_a_slow_reader_gets_every_line_up_to_the_queue_limit() -> None:
    pipe = Pipe()
    log = LogWriter(console=False, redact=str, fd=pipe.write_end, max_waiting=1000, close_s=30)
    for _ in range(1234):
        log.request(record())
    for number in range(3):
        log.event({"event": "one of many", "number": number}, at_once=False)
    for number in range(1007):
        log.event({"event": "event", "number": number})
    assert log.dropped == 244
    os.set_blocking(pipe.write_end, False)
    with os.fdopen(pipe.read_end, "rb") as file:
        with log:
            text = [json.loads(file.readline()) for _ in range(2001)]
        os.close(pipe.write_end)
        assert file.read() == b""
    assert [line["event"] for line in text[:-1]] == ["request"] * 1000 + ["event"] * 1000
    assert (text[-1]["event"], text[-1]["level"], text[-1]["count"]) == ("log lines dropped", "warning", 244)


def test_no_caller_waits_for_a_reader_that_stopped() -> None:
    pipe = Pipe()
    with LogWriter(console=False, redact=str, fd=pipe.write_end, close_s=0.05) as log:
        for _ in range(5000):  # more than a pipe holds
            log.request(record())
            log.event({"event": "x" * 100})
    assert log.is_stuck
    os.close(pipe.read_end)  # ends the thread, whose write fails
    log._thread.join()
    os.close(pipe.write_end)


def test_closing_gives_up_on_a_full_non_blocking_pipe() -> None:
    pipe = Pipe()
    os.set_blocking(pipe.write_end, False)
    with LogWriter(console=False, redact=str, fd=pipe.write_end, close_s=0.05) as log:
        for _ in range(5000):
            log.request(record())
    log._thread.join()
    assert log.dropped > 0
    os.close(pipe.read_end)
    os.close(pipe.write_end)


def test_lines_are_counted_as_dropped_when_the_pipe_is_closed() -> None:
    pipe = Pipe()
    os.close(pipe.read_end)
    with LogWriter(console=False, redact=str, fd=pipe.write_end) as log:
        for _ in range(250):
            log.request(record())
    assert (log.dropped, log.is_stuck) == (250, False)
    os.close(pipe.write_end)


@pytest.mark.parametrize("console", [False, True])
def test_a_log_that_works_again_says_how_many_lines_are_missing(tmp_path: Path, console: bool) -> None:
    """The disk has space for 10 bytes first, later for everything: the torn line is ended before the next one."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, most))
    try:
        with LogWriter(console=console, redact=str, fd=fd, close_s=30) as log:
            log.request(record(id="lost"))
            while log.dropped < 1:
                time.sleep(0.001)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            log.request(record(id="kept"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    os.close(fd)
    torn, *kept = path.read_text().splitlines()
    assert len(torn) == 10
    assert sorted("dropped" if "log lines dropped" in line else "kept" for line in kept) == ["dropped", "kept"]
    assert log.dropped == 1


def test_a_line_that_cannot_be_rendered_does_not_end_the_log() -> None:
    endless: list[object] = []
    endless.append(endless)
    pipe = Pipe()
    with LogWriter(console=False, redact=str, fd=pipe.write_end) as log:
        log.event({"event": "broken", "value": endless})
        log.event({"event": "next"})
    first, second = (json.loads(line) for line in pipe.text().splitlines())
    assert (first["event"], second["event"]) == ("log line cannot be rendered", "next")
