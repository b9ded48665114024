"""The journal's format is promised (docs/VERSIONING.md): what a released version left is read by this one."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from llm_gateway.domain.usage import Usage
from llm_gateway.journal.record_delivery import quarantine_file
from llm_gateway.journal.replay import replay
from llm_gateway.journal.segments import WriterDir
from tests.journal.samples import Database, Heard, left_behind, request_id
from tests.journal.shipping import LoneTail


@pytest.mark.parametrize("version", ["0.1.0"])
def test_records_that_an_older_version_left_are_moved_to_the_database(tmp_path: Path, version: str) -> None:
    """The files were written by gateways of these versions: an answered request, and the intent of another one."""
    left_behind(tmp_path, {1: Path(__file__).with_name(f"journal-{version}.seg").read_bytes()})
    database = Database()

    report = replay(tmp_path, database, log=Heard())

    assert (report.records, report.abandoned) == (2, 1)
    answered, cut_off = sorted(database.stored.values(), key=lambda record: record.at_ms)
    assert (answered.user_id, answered.service, answered.provider) == ("alice", "shop", "trial")
    assert (answered.outcome, answered.usage) == ("ok", Usage(input_tokens=3, output_tokens=3))
    assert (cut_off.outcome, cut_off.usage) == ("cancelled", Usage(input_tokens=9, output_tokens=1000))
    assert not quarantine_file(tmp_path).exists()


@pytest.fixture
def from_before(tmp_path: Path) -> Path:
    """Return a directory that the writer had left, when killed, before entries bore the number of their segment.

    Made by that code: 12 requests over two segments and a spare, of which number 7 is open; page of version 1.
    """
    folder = tmp_path / "journal" / "writer"
    with tarfile.open(Path(__file__).with_name("journal-page-1.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_a_journal_without_numbers_in_its_entries_is_adopted(tmp_path: Path, from_before: Path) -> None:
    assert from_before.joinpath("000002.seg").read_bytes()[:3] == b"J1 "
    database, heard = Database(), Heard()

    report = replay(tmp_path, database, log=heard)

    assert (report.records, report.abandoned, heard.events) == (12, 1, [])
    assert database.stored[request_id(7)].outcome == "cancelled"
    assert not from_before.exists()


def test_a_writer_of_the_version_before_is_followed_while_it_lives(tmp_path: Path, from_before: Path) -> None:
    """As in a replacement of all processes: its segments are deleted, not written again, and its page is read."""
    lock, database, heard = WriterDir(from_before), Database(), Heard()
    tail = LoneTail(from_before, database, heard)
    while tail.step():
        pass

    assert database.numbers() == [number for number in range(12) if number != 7]
    assert lock.segments() == [1, 2, 3]  # the first is needed by the open request
    assert not lock.free.exists()
    assert heard.events == []
    tail.close()
    lock.close()
