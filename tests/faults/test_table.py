"""The table of faults that the other tests' results are rendered in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.table import Case, Row, about_this_run, as_markdown, as_text, rows

CASES = [
    Case("down", "killed", "test_down[a]", "passed", 1.0, ["3 kills", "0 lost"]),
    Case("full", "a small disk", "test_full", "skipped", 0.0, ["only root can"]),
    Case("down", "killed", "test_down[b]", "failed", 2.0, []),
    Case("down", "pulled", "test_pulled", "passed", 0.5, []),
]


@pytest.fixture(autouse=True)
def row() -> None:
    """Replace the fixture that requires a fault mark of every test."""


def test_cases_of_one_fault_are_one_row_with_their_worst_result() -> None:
    assert rows(CASES) == [
        Row("down", "killed", "a: 3 kills, 0 lost; b: FAILED", 3.0, "failed"),
        Row("full", "a small disk", "only root can", 0.0, "skipped"),
        Row("down", "pulled", "", 0.5, "passed"),
    ]
    assert as_text(rows(CASES))[0] == "down  failed      3.0 s  a: 3 kills, 0 lost; b: FAILED"
    document = as_markdown(rows(CASES), about_this_run(Path(__file__).parents[2], Path(__file__)))
    assert "\n| down | killed | a: 3 kills, 0 lost; b: FAILED | 3 s | failed |\n" in document
    assert "\n- date: 20" in document
    assert "\n- commit: " in document
