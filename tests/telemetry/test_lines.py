"""Log injection: every character that could end a line or change what is displayed is escaped."""

from __future__ import annotations

import json
import logging
import sys
import unicodedata
from functools import cache
from typing import Any

import pytest

from tests.telemetry.harness import Log, record, written

CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
FORGED = "a{}2026-01-01T00:00:00Z [info     ] forged"
LABELS = ("user_id", "service", "task_type", "provider", "model", "client_request_id")


@cache
def hostile() -> list[str]:
    """Return all characters of CATEGORIES; not at import, since every worker imports this module."""
    return [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in CATEGORIES]


def physical_lines(text: str) -> list[str]:
    """Return the lines of a text; fail on an unprintable character, which another reader may take for a line end."""
    lines = text.split("\n")
    assert lines.pop() == ""
    for line in lines:
        assert line.isprintable(), [hex(ord(c)) for c in line if not c.isprintable()]
    return lines


def test_the_tested_characters_include_the_known_dangerous_ones() -> None:
    known = "\x00\x07\x08\t\n\x0b\x0c\r\x1b\x1c\x7f\x80\x85\x9b\xad\u061c\u200b\u200d\u200e\u200f\u2028\u2029"
    known += "\u202a\u202e\u2060\u2066\u2069\ufeff\ufff9\ud800\udfff\U000e0001\U000e007f"
    assert set(known) <= set(hostile())
    assert len(hostile()) > 2000


@pytest.mark.parametrize("console", [False, True])
@pytest.mark.parametrize("label", LABELS)
def test_no_character_in_a_label_of_a_request_makes_another_line(label: str, console: bool) -> None:
    records = [record(**{label: FORGED.format(c)}) for c in hostile()]
    lines = physical_lines(written(records, console=console))
    assert len(lines) == len(hostile())
    if not console:
        assert [json.loads(line)[label] for line in lines] == [FORGED.format(c) for c in hostile()]


@pytest.mark.parametrize("console", [False, True])
def test_no_character_in_an_event_makes_another_line(console: bool) -> None:
    out = Log(console=console)
    for c in hostile():
        text = FORGED.format(c)
        out.log(text, path=text, nested={"key": [text]}, other=text.encode("utf-8", "replace"))
    lines = physical_lines(out.text())
    assert len(lines) == len(hostile())
    if not console:
        decoded: list[dict[str, Any]] = [json.loads(line) for line in lines]
        for c, found in zip(hostile(), decoded, strict=True):
            text = FORGED.format(c)
            assert (found["event"], found["path"], found["nested"]) == (text, text, {"key": [text]})


@pytest.mark.parametrize("console", [False, True])
def test_no_character_in_another_librarys_message_makes_another_line(console: bool) -> None:
    out = Log(console=console)
    for c in hostile():
        logging.getLogger("library").warning("said %s", FORGED.format(c))
    assert len(physical_lines(out.text())) == len(hostile())


def test_no_character_in_an_exceptions_message_makes_another_line_of_json() -> None:
    out = Log()
    for c in hostile():
        out.log("failed", level="error", exc_info=ValueError(FORGED.format(c)))
    lines = physical_lines(out.text())
    assert len(lines) == len(hostile())
    for c, line in zip(hostile(), lines, strict=True):
        assert json.loads(line)["exception"] == f"ValueError: {FORGED.format(c)}"


def test_console_lines_indent_every_line_of_an_exception() -> None:
    out = Log(console=True)
    for c in hostile():
        out.log("failed", level="error", exc_info=ValueError(FORGED.format(c)))
    lines = physical_lines(out.text())
    assert len([line for line in lines if not line.startswith("    ")]) == len(hostile())


@pytest.mark.parametrize("console", [False, True])
def test_ordinary_text_of_any_language_is_not_escaped(console: bool) -> None:
    text = "Grüße, 世界, مرحبا, 🙂"
    assert text in written([record(user_id=text)], console=console)
