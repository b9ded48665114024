"""Log events as JSON and for people, without secrets."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime

import pytest

from llm_gateway.telemetry.console import event_text
from tests.telemetry.harness import LOOKS_SECRET, SECRET, Log

PROMPT = "the customer's own words"


def fails(prompt: str) -> None:
    key = f"Bearer {SECRET}"
    raise ValueError(f"refused {key} and {LOOKS_SECRET}, {len(prompt)} characters")


def caught() -> ValueError:
    try:
        fails(PROMPT)
    except ValueError as error:
        return error
    raise AssertionError


def test_an_event_is_written_as_one_line_of_json() -> None:
    out = Log()
    out.log("something happened", provider="p", count=3)
    [line] = out.lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {"event": "something happened", "level": "info", "provider": "p", "count": 3}


def test_events_below_the_level_are_dropped() -> None:
    out = Log("warning")
    for level in ("debug", "info", "warning", "error"):
        out.log("event", level=level)
    assert [line["level"] for line in out.lines()] == ["warning", "error"]


def test_console_lines_have_time_level_event_and_fields() -> None:
    out = Log(console=True)
    out.log("something happened", provider="p")
    output = out.text()
    assert re.search(r"\[info +\] something happened provider=p", output)
    assert len(output.splitlines()) == 1
    assert "\x1b" not in output, "colours are for terminals"


def test_console_lines_show_fields_by_name_and_quote_values_with_gaps() -> None:
    out = Log(console=True)
    out.log("failed", level="warning", z="", provider="my vendor", model="m", count=3, said="a=b", of=[1, "x"])
    logging.getLogger("some.library").error("it\nfailed", exc_info=ValueError("odd"))
    first, second, *traceback = out.text().splitlines()
    assert first.endswith("Z [warning  ] failed count=3 model=m of=[1, 'x'] provider='my vendor' said='a=b' z=")
    assert second.endswith("Z [error    ] it\\nfailed [some.library]")
    assert traceback == ["    ValueError: odd"]


def test_console_lines_have_colors_on_a_terminal() -> None:
    moment = datetime(2026, 11, 27, 9, 32, 17, 715529, tzinfo=UTC)
    event = {"timestamp": moment, "level": "error", "event": "failed", "logger": "l", "provider": "p"}
    assert event_text(event, colors=True) == (
        "\x1b[2m2026-11-27T09:32:17.715529Z\x1b[0m [\x1b[31merror    \x1b[0m] \x1b[1mfailed\x1b[0m "
        "[\x1b[34ml\x1b[0m] \x1b[36mprovider\x1b[0m=\x1b[35mp\x1b[0m"
    )


@pytest.mark.parametrize("console", [False, True])
def test_secrets_are_removed_from_fields_and_exceptions(console: bool) -> None:
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
def test_warnings_of_other_libraries_loggers_are_written_as_events(console: bool) -> None:
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
