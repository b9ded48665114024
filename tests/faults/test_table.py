"""The table of faults that the other tests' results are rendered in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.table import (
    Case,
    Row,
    about_this_machine,
    as_markdown,
    as_text,
    known_faults,
    ran_whole,
    rows,
    rows_of,
    this_run,
    updated,
)

HERE = Path(__file__).parent

CASES = [
    Case("down", "killed", "test_down[a]", "passed", 1.0, ["3 kills", "0 lost"]),
    Case("full", "a small disk", "test_full", "skipped", 0.0, ["only root can"]),
    Case("down", "killed", "test_down[b]", "failed", 2.0, []),
    Case("cut", "pulled", "test_pulled", "passed", 0.5, []),
]


@pytest.fixture(autouse=True)
def row() -> None:
    """Replace the fixture that requires a fault mark of every test."""


def test_cases_of_one_fault_are_one_row_with_their_worst_result() -> None:
    assert rows(CASES) == [
        Row("down", "killed", "a: 3 kills, 0 lost; b: FAILED", 3.0, "failed"),
        Row("full", "a small disk", "only root can", 0.0, "skipped"),
        Row("cut", "pulled", "", 0.5, "passed"),
    ]
    assert as_text(rows(CASES))[0] == "down  failed      3.0 s  a: 3 kills, 0 lost; b: FAILED"


def test_a_run_replaces_its_rows_of_the_document_and_keeps_the_others() -> None:
    about = (about_this_machine(HERE), "worker processes of a gateway: 1")
    before = rows(CASES, "2026-11-27 10:00, 0123456789ab")
    document = as_markdown(before, about)
    assert all(line in document for line in about)
    assert "\n| down | killed | a: 3 kills, 0 lost; b: FAILED | 3 s | failed | 2026-11-27 10:00, 01234567" in document
    again = rows([Case("down", "killed twice", "test_down", "passed", 4.0, ["3 | 0"])], this_run(HERE))
    now = updated(rows_of(document), again, {"down", "full", "not run yet"})
    assert now == [again[0], before[1]]
    assert rows_of(as_markdown(now, about))[0] == Row("down", "killed twice", "3 / 0", 4.0, "passed", again[0].run)


def test_a_run_that_ended_before_all_cases_of_a_fault_writes_no_row_of_it() -> None:
    assert ran_whole(CASES, {"down": 2, "full": 1, "cut": 1}) == {"down", "full", "cut"}
    assert ran_whole(CASES, {"down": 3, "full": 1, "cut": 1, "not run yet": 1}) == {"full", "cut"}


def test_every_row_of_the_documents_is_of_a_fault_test() -> None:
    known = known_faults(HERE)
    assert len(known) == len(set(known)) > 40, "each has a name of its own"
    documents = sorted((HERE.parents[1] / "docs").glob("FAULTS*.md"))
    assert documents
    for document in documents:
        unknown = {row.fault for row in rows_of(document.read_text())} - {*known}
        assert not unknown, f"{document.name} has rows of tests that are gone: run `make faults FAULTS=--write`"
