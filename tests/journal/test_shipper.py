from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.segments import Position, WriterDir
from llm_gateway.journal.shipper import Shipper
from llm_gateway.journal.writer import JournalWriter, Written
from tests.journal.samples import (
    Database,
    Heard,
    frame,
    intent,
    open_files,
    record,
    request_id,
    settled,
    settled_frames,
)


class Journal:
    """What a shipper sees of a writer, written by hand."""

    def __init__(self, path: Path) -> None:
        self.directory = WriterDir.make(path)
        self.recent: dict[str, UsageRecord] = {}
        self.written = Written(1, 0, 0)
        self.appended = 0
        self.is_closed = False
        self.directory.segment(1).write_bytes(bytes(1_000_000))

    def append(self, content: bytes) -> None:
        segment, offset, entries = self.written
        with self.directory.segment(segment).open("r+b") as file:
            file.seek(offset)
            file.write(content)
        self.appended = entries + content.count(b"\n")
        self.written = Written(segment, offset + len(content), self.appended)

    def rotate(self) -> None:
        number = self.written.segment + 1
        self.directory.segment(number).write_bytes(bytes(1_000_000))
        self.written = self.written._replace(segment=number, offset=0)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal" / "writer")


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def shipper(journal: Journal, database: Database, heard: Heard) -> Iterator[Shipper]:
    shipper = Shipper(journal, database, log=heard)
    shipper.start()
    yield shipper
    database.is_down = None
    shipper.stop(5)


def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_records_are_shipped_by_themselves(journal: Journal, database: Database, shipper: Shipper) -> None:
    journal.append(settled_frames(range(3)))

    until(lambda: database.numbers() == [0, 1, 2], timeout_s=1)


def test_a_flush_ships_what_was_appended_before(journal: Journal, database: Database, shipper: Shipper) -> None:
    for number in range(5):
        journal.append(settled_frames(range(number, number + 1)))
        assert shipper.flush(5)
        assert number in database.numbers()


def test_a_flush_waits_for_what_is_not_written_yet(journal: Journal, database: Database, shipper: Shipper) -> None:
    journal.append(settled_frames(range(1)))
    journal.appended += 2
    began = time.monotonic()
    assert not shipper.flush(0.2)
    assert time.monotonic() - began < 0.4

    journal.append(settled_frames(range(1, 2)))

    assert shipper.flush(5)
    assert database.numbers() == [0, 1]


def test_flushes_from_many_threads(journal: Journal, database: Database, shipper: Shipper) -> None:
    journal.append(settled_frames(range(100)))
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(shipper.flush(5))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [True] * 10
    assert len(database.stored) == 100


def test_records_wait_while_the_database_is_down(
    journal: Journal, database: Database, heard: Heard, shipper: Shipper
) -> None:
    database.is_down = StoreUnavailable("The database is locked.")
    journal.append(settled_frames(range(1000)))
    assert not shipper.flush(0.5)
    assert journal.directory.checkpoint() == Position(1, 0)
    assert len({tuple(batch) for batch in database.batches}) == 1
    assert len(database.batches) < 8

    database.is_down = None

    assert shipper.flush(5)
    assert database.numbers() == list(range(1000))
    assert heard.events == [
        ("usage records wait in the journal", {"level": "warning", "reason": "The database is locked."}),
        ("usage records are stored again", {}),
    ]


def test_an_ambiguous_commit_is_sent_again(journal: Journal, database: Database, shipper: Shipper) -> None:
    database.after = [StoreUnavailable("the connection is lost")]
    journal.append(settled_frames(range(3)))

    assert shipper.flush(5)

    assert len(database.batches) == 2
    assert database.batches[0] == database.batches[1]
    assert database.numbers() == [0, 1, 2]


def test_whatever_the_sink_raises_the_records_are_tried_again(
    journal: Journal, database: Database, heard: Heard, shipper: Shipper
) -> None:
    database.before = [KeyError("a defect")]
    journal.append(settled_frames(range(3)))

    assert shipper.flush(5)

    assert database.numbers() == [0, 1, 2]
    assert heard.events[0][1]["reason"] == "KeyError('a defect')"


class Spoilt(dict[str, UsageRecord]):
    """Fails when it is asked for one record the first time, in the midst of others."""

    def pop(self, key: str, *default: object) -> UsageRecord | None:
        if key == request_id(5) and key not in self:
            self[key] = record(5)
            raise MemoryError("no space for one more")
        return super().pop(key, None)


def test_a_defect_amid_a_batch_loses_none_of_it(journal: Journal, database: Database, heard: Heard) -> None:
    journal.append(settled_frames(range(3)))
    journal.recent = Spoilt()
    shipper = Shipper(journal, database, log=heard)
    shipper.start()
    assert shipper.flush(5)
    journal.append(settled_frames(range(3, 10)))
    descriptors = open_files()

    assert shipper.flush(5)

    assert database.numbers() == list(range(10))
    assert open_files() <= descriptors
    assert heard.events == [
        (
            "usage records wait in the journal",
            {"level": "error", "reason": "MemoryError('no space for one more')"},
        ),
        ("usage records are stored again", {}),
    ]
    assert shipper.stop(5)


def test_a_journal_that_cannot_be_read_is_read_later(
    journal: Journal, database: Database, heard: Heard, shipper: Shipper
) -> None:
    journal.append(settled_frames(range(3)))
    assert shipper.flush(5)
    journal.rotate()
    journal.directory.segment(2).unlink()
    journal.directory.segment(2).mkdir()
    journal.written = journal.written._replace(offset=10)
    until(lambda: heard.names() == ["usage records wait in the journal"])

    journal.directory.segment(2).rmdir()
    journal.directory.segment(2).write_bytes(bytes(10_000))
    journal.written = journal.written._replace(offset=0)
    journal.append(settled_frames(range(3, 5)))

    assert shipper.flush(5)
    assert database.numbers() == list(range(5))


def test_a_log_that_fails_does_not_end_it(journal: Journal, database: Database) -> None:
    def no_log(event: str, **fields: object) -> None:
        raise OSError("the log is full")

    shipper = Shipper(journal, database, log=no_log)
    assert not shipper.is_alive
    shipper.start()
    database.before = [KeyError("a defect"), StoreUnavailable("gone")]
    journal.append(settled_frames(range(3)))

    assert shipper.flush(5)

    assert shipper.is_alive
    assert database.numbers() == [0, 1, 2]
    assert shipper.stop(5)
    assert not shipper.is_alive


def test_every_reason_is_told_once(journal: Journal, database: Database, heard: Heard, shipper: Shipper) -> None:
    down = [StoreUnavailable("locked"), StoreUnavailable("locked"), KeyError("a defect"), StoreUnavailable("locked")]
    for _ in range(2):
        database.before = list(down)
        journal.append(settled_frames(range(1)))
        assert shipper.flush(10)

    told = [(fields["level"], fields["reason"]) for _, fields in heard.events if fields]
    assert told == 2 * [("warning", "locked"), ("error", "KeyError('a defect')"), ("warning", "locked")]


def test_a_refused_record_does_not_hold_the_others_up(journal: Journal, database: Database, shipper: Shipper) -> None:
    database.refused = {request_id(7)}
    journal.append(settled_frames(range(20)))

    assert shipper.flush(5)

    assert database.numbers() == [n for n in range(20) if n != 7]
    assert len((journal.directory.path.parent / "quarantine.jsonl").read_bytes().splitlines()) == 1


def test_shipped_segments_are_deleted(journal: Journal, database: Database, shipper: Shipper) -> None:
    journal.append(settled_frames(range(3)))
    journal.rotate()
    journal.append(settled_frames(range(3, 6)))

    assert shipper.flush(5)

    assert journal.directory.segments() == [2]
    assert journal.directory.checkpoint() == Position(2, journal.written.offset)


def test_stopping_ships_the_rest_and_removes_the_directory(
    journal: Journal, database: Database, shipper: Shipper
) -> None:
    journal.append(settled_frames(range(600)))
    journal.is_closed = True

    assert shipper.stop(5)

    assert len(database.stored) == 600
    assert not journal.directory.path.exists()


def test_a_request_that_is_still_open_keeps_the_directory_for_the_next_start(
    journal: Journal, database: Database, shipper: Shipper
) -> None:
    journal.append(settled_frames(range(2)) + frame("I", 9, intent(9)))
    journal.is_closed = True

    assert shipper.stop(5)

    assert database.numbers() == [0, 1]
    assert journal.directory.segments() == [1]
    WriterDir(journal.directory.path).close()


def test_entries_that_were_never_written_keep_the_directory(journal: Journal, shipper: Shipper) -> None:
    journal.append(settled_frames(range(2)))
    journal.appended += 1
    journal.is_closed = True

    assert not shipper.stop(5)
    assert journal.directory.path.exists()


def test_the_directory_of_a_writer_that_goes_on_stays(journal: Journal, shipper: Shipper) -> None:
    assert shipper.stop(5)

    with pytest.raises(BlockingIOError):
        WriterDir(journal.directory.path)


def test_stopping_does_not_wait_longer_than_told_for_the_database(
    journal: Journal, database: Database, shipper: Shipper
) -> None:
    database.is_down = StoreUnavailable("gone")
    journal.append(settled_frames(range(2)))
    journal.is_closed = True
    until(lambda: len(database.batches) > 3)

    began = time.monotonic()
    assert not shipper.stop(0.3)

    assert 0.25 < time.monotonic() - began < 0.6
    assert journal.directory.segments() == [1]
    assert not shipper.flush(5)
    WriterDir(journal.directory.path).close()


def test_a_sink_that_hangs_does_not_hold_the_stop_up(journal: Journal, heard: Heard) -> None:
    gate = threading.Event()

    def hang(_: list[UsageRecord]) -> None:
        gate.wait(10)

    shipper = Shipper(journal, hang, log=heard)
    shipper.start()
    journal.append(settled_frames(range(2)))
    time.sleep(0.3)
    journal.is_closed = True

    assert not shipper.stop(0.0)

    with pytest.raises(BlockingIOError):
        WriterDir(journal.directory.path)
    gate.set()


async def test_a_writer_and_its_shipper(tmp_path: Path, database: Database, heard: Heard) -> None:
    writer = JournalWriter.open(tmp_path, fsync="always", segment_bytes=50_000)
    shipper = Shipper(writer, database, log=heard)
    shipper.start()

    async def one(number: int) -> None:
        writer.intent(request_id(number), intent(number))
        await asyncio.sleep(0)
        writer.settle(request_id(number), settled(number))
        await writer.durable()

    for batch in range(30):
        await asyncio.gather(*(one(number) for number in range(batch * 10, batch * 10 + 10)))
    assert await asyncio.to_thread(shipper.flush, 5)
    assert database.numbers() == list(range(300))
    assert len(writer.directory.segments()) <= 3

    await one(300)
    await writer.sync_and_close()
    assert shipper.stop()

    assert database.numbers() == list(range(301))
    assert list((tmp_path / "journal").iterdir()) == []
    assert heard.events == []


def test_a_directory_that_cannot_be_removed_is_left(journal: Journal, heard: Heard, shipper: Shipper) -> None:
    (journal.directory.path / "folder").mkdir()
    journal.is_closed = True

    assert shipper.stop(5)

    assert heard.names() == ["the usage journal's directory stays"]
    WriterDir(journal.directory.path).close()
