"""Output formats: money, tables, tab-separated lines, JSON; control characters are escaped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from llm_gateway.cli import providers
from llm_gateway.cli.output import Column, Row, dollars, plain, print_fields, print_json, print_rows, printable
from tests.rows import each_row

ShownAt: TypeAlias = Callable[[int, Sequence[Row], Sequence[Column], Row | None], list[str]]

COLUMNS = (Column("name", "Name"), Column("cost", "Cost", "money"), Column("on", "On", "flag", on_terminal=False))


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "$0.00"),
        (0.000000001, "$0.000000001"),
        (1.5e-07, "$0.00000015"),
        (0.0000255, "$0.0000255"),
        (0.05, "$0.05"),
        (0.1234567, "$0.1235"),
        (0.00001125, "$0.00001125"),
        (0.015, "$0.015"),
        (2.345, "$2.345"),
        (99.995, "$100.00"),
        (0.999999, "$1.00"),
        (12.3456, "$12.35"),
        (1234567.891, "$1,234,567.89"),
        (-0.000002, "-$0.000002"),
        (Decimal(-3), "-$3.00"),
    ],
)
def test_money_shows_at_least_four_significant_digits(amount: float, shown: str) -> None:
    assert dollars(amount) == shown


@given(st.integers(-(10**18), 10**18))
def test_money_above_0_is_never_shown_as_0_and_is_off_by_less_than_a_percent(nanos: int) -> None:
    exact = Decimal(nanos) / 10**9
    shown = Decimal(dollars(exact).replace("$", "").replace(",", ""))
    assert (shown == 0) == (exact == 0)
    assert abs(shown - exact) <= abs(exact) / 100


@given(st.integers(0, 10**15))
def test_money_for_programs_is_exact(nanos: int) -> None:
    text = plain(nanos / 10**9)
    assert "e" not in text.lower()
    assert round(Decimal(text) * 10**9) == nanos


def test_values_for_programs_stay_in_one_field_of_one_line() -> None:
    values = [None, True, False, 3, 1e-09, ["a", "b"], {"a": 1}, "tab\tand\nline"]
    assert list(map(plain, values)) == [
        "", "true", "false", "3", "0.000000001", "a,b", '{"a": 1}', "tab\\u0009and\\u000aline",
    ]  # fmt: skip


@given(st.text())
def test_characters_that_control_a_terminal_are_escaped(text: str) -> None:
    shown = printable(text)
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in shown)
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029") & set(shown)
    shown.encode()


def test_tab_separated_lines_have_a_header_and_no_total(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "a\x1b[31m", "cost": 1e-9, "on": True}]
    print_rows(rows, COLUMNS, total={"name": "Total", "cost": 1e-9}, empty="Nothing.")
    assert capsys.readouterr().out == "name\tcost\ton\na\\u001b[31m\t0.000000001\ttrue\n"
    print_rows([], COLUMNS, empty="Nothing.")
    assert capsys.readouterr().out == "name\tcost\ton\n"


def test_a_single_row_is_printed_as_a_line_per_field(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"name": "a", "cost": 0.5, "on": None}, COLUMNS)
    assert capsys.readouterr().out == "name\ta\ncost\t0.5\non\t\n"


def test_json_decodes_to_the_value_and_escapes_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "é\u009b31m\u202e\x1b", "cost": 1e-09}
    print_json(value)
    shown = capsys.readouterr().out
    assert json.loads(shown) == value
    assert "é" in shown
    assert not {"\u009b", "\u202e", "\x1b"} & set(shown)


ROWS = [
    {"name": "openrouter", "models": ["gpt-4o-mini-2024-07-18", "meta/llama-3.3"], "cost": 1.5, "limit": 10_000_000},
    {"name": "a customer of many words", "models": [], "cost": 0.0000255, "limit": 60},
]
WIDE = (
    Column("name", "Name"),
    Column("models", "Models", "list"),
    Column("cost", "Cost", "money"),
    Column("limit", "Tokens/min", "count"),
)
WORDS = {
    "openrouter",
    "gpt-4o-mini-2024-07-18,",
    "meta/llama-3.3",
    "customer",
    "10,000,000",
    "$0.0000255",
    "Tokens/min",
}


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_words_stay_whole_however_narrow_the_terminal_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_rows(ROWS, WIDE, total={"name": "Total", "models": [], "cost": 1.5, "limit": 1})
    lines = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()
    assert {word for line in lines for word in line.split()} >= WORDS
    assert max(map(len, lines)) <= width
    assert any(line.startswith("Name  ") and "Models" in line for line in lines) == (width >= 80)


@pytest.fixture
def shown_at(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> ShownAt:
    """Print rows on a terminal of a given width and return the lines."""

    def show(width: int, rows: Sequence[Row], columns: Sequence[Column], total: Row | None) -> list[str]:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(width))
        print_rows(rows, columns, total=total)
        return re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()

    return show


@each_row("width", range(40, 121))
def test_the_list_of_providers_keeps_every_digit_at_every_width(shown_at: ShownAt, width: int) -> None:
    provider = {
        "id": "1", "name": "openrouter", "kind": "anthropic", "models": ["gpt-4o", "o3"], "is_enabled": True,
        "priority": 100, "rate_limit_rpm": 500, "rate_limit_tpm": 100000,
    }  # fmt: skip
    lines = shown_at(width, [provider], providers.COLUMNS, None)
    words = {word for line in lines for word in line.split()}
    assert words >= {"openrouter", "anthropic", "gpt-4o,", "o3", "yes", "100", "500", "100,000", "Tokens/min"}
    assert max(map(len, lines)) <= width


NAMES = st.lists(st.text("abc-é字", min_size=1, max_size=9), min_size=1, max_size=6).map(" ".join)
SOME_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "name": NAMES,
            "models": st.lists(NAMES, max_size=3),
            "cost": st.floats(0, 10**6).map(lambda amount: round(amount, 9)),
            "limit": st.integers(0, 10**9),
        }
    ),
    min_size=1,
    max_size=3,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=SOME_ROWS, width=st.integers(40, 120), has_total=st.booleans())
def test_every_word_of_every_cell_is_whole_at_every_width(
    shown_at: ShownAt, rows: list[dict[str, Any]], width: int, has_total: bool
) -> None:
    lines = shown_at(width, rows, WIDE, rows[-1] if has_total else None)
    words = {word for line in lines for word in line.split()}
    for row in rows:
        texts = [row["name"], ", ".join(row["models"]), dollars(row["cost"]), f"{row['limit']:,}"]
        assert words >= {word for text in texts for word in text.split()}
    assert words >= {word for column in WIDE for word in column.title.split()}
    assert max(map(cell_len, lines)) <= width
