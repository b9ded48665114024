"""The shipper with several writers: what they have written is stored together, and none of them stops the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.record_delivery import BATCH_RECORDS
from llm_gateway.journal.segments import START, Position
from llm_gateway.journal.shipper import Shipper
from tests.journal.samples import Database, Heard, frame, intent, request_id, settled, settled_frames
from tests.journal.shipping import Journal
from tests.waiting import wait_until

WRITERS = 4


class Host:
    """Four writers with three finished requests each, for whose records answers wait as soon as `start` is called."""

    def __init__(self, root: Path, database: Callable[[list[UsageRecord]], None], heard: Heard) -> None:
        self.journals = [Journal(root / "journal" / f"writer-{number}") for number in range(WRITERS)]
        for number, journal in enumerate(self.journals):
            journal.append(settled_frames(range(3 * number, 3 * number + 3)))
        self.shipper = Shipper(root / "journal", database, log=heard, is_awaited=True)
        self.told: dict[str, list[int]] = {journal.directory.path.name: [] for journal in self.journals}

    def start(self) -> None:
        for journal in self.journals:
            name = journal.directory.path.name
            self.shipper.commit(name, journal.appended, self.told[name].append)
        self.shipper.start()

    def stop(self) -> None:
        """End the writers, and the shipper once everything is stored."""
        for journal in self.journals:
            journal.close()
        assert self.shipper.stop(5)

    def answered(self) -> set[int]:
        """Return the numbers of the writers whose answers may leave."""
        told = enumerate(zip(self.journals, self.told.values(), strict=True))
        return {number for number, (journal, entries) in told if journal.appended in entries}

    def checkpoints(self) -> list[Position]:
        return [journal.directory.checkpoint() for journal in self.journals]


@pytest.fixture(name="host")
def stored_host(tmp_path: Path, database: Database, heard: Heard) -> Iterator[Host]:
    host = Host(tmp_path, database, heard)
    yield host
    host.stop()


def test_answers_of_all_writers_wait_for_one_transaction(host: Host, database: Database) -> None:
    host.start()
    wait_until(lambda: len(host.answered()) == WRITERS, 20)

    assert database.batches == [[request_id(number) for number in range(12)]]
    assert list(host.told.values()) == [[6]] * WRITERS
    assert host.checkpoints() == [Position(1, journal.written.offset) for journal in host.journals]


def test_a_batch_of_all_writers_that_may_be_stored_is_sent_again_before_more_is_read(
    tmp_path: Path, database: Database, heard: Heard
) -> None:
    checkpoints: list[list[Position]] = []

    def store(records: list[UsageRecord]) -> None:
        database(records)
        if not checkpoints:
            checkpoints.append(host.checkpoints())
            host.journals[0].append(settled_frames(range(50, 51)))
            raise StoreUnavailable("the connection is lost")

    host = Host(tmp_path, store, heard)
    host.start()
    wait_until(lambda: len(database.stored) == 13, 20)

    first = [request_id(number) for number in range(12)]
    assert database.batches == [first, first, [request_id(50)]]
    assert checkpoints == [[START] * WRITERS]
    host.stop()


def test_of_a_refused_batch_the_refused_record_alone_is_not_stored(
    host: Host, database: Database, tmp_path: Path
) -> None:
    database.refused = {request_id(4)}
    host.start()
    wait_until(lambda: len(host.answered()) == WRITERS, 20)

    assert database.numbers() == [number for number in range(12) if number != 4]
    [line] = (tmp_path / "journal" / "quarantine.jsonl").read_text("utf-8").splitlines()
    assert request_id(4) in line


def test_a_journal_that_cannot_be_read_stops_no_other_writer(host: Host, database: Database, tmp_path: Path) -> None:
    segment, kept = host.journals[1].directory.segment(1), tmp_path / "kept"
    segment.rename(kept)
    segment.symlink_to(tmp_path, target_is_directory=True)
    host.start()
    wait_until(lambda: host.answered() == {0, 2, 3}, 20)
    assert database.batches == [[request_id(number) for number in (0, 1, 2, *range(6, 12))]]

    kept.rename(segment)
    wait_until(lambda: len(host.answered()) == WRITERS, 20)
    assert database.numbers() == list(range(12))


def test_answers_do_not_wait_for_a_writer_that_fails_again_and_again(
    host: Host, database: Database, tmp_path: Path
) -> None:
    segment, kept = host.journals[1].directory.segment(1), tmp_path / "kept"
    segment.rename(kept)
    segment.symlink_to(tmp_path, target_is_directory=True)
    host.start()
    wait_until(lambda: host.answered() == {0, 2, 3}, 20)
    waits: list[float] = []
    for number in range(100, 110):  # the pause of a writer that fails is a second by then, and more
        host.journals[0].append(settled_frames(range(number, number + 1)))
        asked = time.monotonic()
        told: list[int] = []
        host.shipper.commit("writer-0", host.journals[0].appended, told.append)
        wait_until(told.copy, 20)
        waits.append(time.monotonic() - asked)
        time.sleep(0.1)
    assert median(waits) < 0.1
    kept.rename(segment)
    assert host.shipper.flush(20)
    assert set(range(3, 6)) <= set(database.numbers())


def test_a_record_is_quarantined_once_however_often_its_writer_starts_again(tmp_path: Path, heard: Heard) -> None:
    database, looks = Database(), 0
    database.refused = {request_id(4)}

    def store(records: list[UsageRecord]) -> None:
        nonlocal looks
        ids = {record.id for record in records}
        if request_id(5) in ids and request_id(4) not in ids:  # a batch with both is refused first
            looks += 1
            if looks < 4:
                raise ValueError("a defect")
        database(records)

    host = Host(tmp_path, store, heard)
    host.start()
    wait_until(lambda: len(host.answered()) == WRITERS, 30)
    [line] = (tmp_path / "journal" / "quarantine.jsonl").read_text("utf-8").splitlines()
    assert request_id(4) in line
    host.stop()


def test_an_entry_that_cannot_be_quarantined_stops_no_other_writer(
    host: Host, database: Database, tmp_path: Path
) -> None:
    file, folder = tmp_path / "journal" / "quarantine.jsonl", tmp_path / "not there yet"
    file.symlink_to(folder / "quarantine.jsonl")
    host.journals[1].append(frame("S", 40, b"{"))
    host.start()
    wait_until(lambda: host.answered() >= {0, 2, 3}, 20)
    host.journals[3].append(settled_frames(range(50, 51)))
    wait_until(lambda: 50 in database.numbers(), 20)
    folder.mkdir()
    wait_until(lambda: 1 in host.answered(), 20)
    assert request_id(40) in file.read_text("utf-8")


def test_a_record_that_shows_a_defect_stops_no_other_writer(tmp_path: Path, heard: Heard) -> None:
    database, is_mended, of_all = Database(), False, list[list[str]]()

    def store(records: list[UsageRecord]) -> None:
        ids = {record.id for record in records}
        if not is_mended and request_id(4) in ids:
            database.batches.append([record.id for record in records])
            raise KeyError("a defect")
        if request_id(99) in ids:  # the shipper reads nothing meanwhile, so it finds the entries of all writers next
            for number, journal in enumerate(host.journals):
                journal.append(settled_frames(range(100 + number, 101 + number)))
        elif request_id(100) in ids:
            of_all.append([record.id for record in records])
        database(records)

    host = Host(tmp_path, store, heard)
    host.start()
    wait_until(lambda: host.answered() == {0, 2, 3}, 20)
    assert database.numbers() == [0, 1, 2, *range(6, 12)]
    assert heard.events[0][1]["reason"] == "KeyError('a defect')"

    is_mended = True
    wait_until(lambda: len(host.answered()) == WRITERS, 20)
    assert database.numbers() == list(range(12))
    host.journals[0].append(settled_frames(range(99, 100)))
    wait_until(lambda: 103 in database.numbers(), 20)
    assert of_all == [[request_id(number) for number in range(100, 104)]]  # they are stored together again
    host.stop()


def test_a_batch_of_all_writers_is_no_larger_than_that_of_one(host: Host, database: Database) -> None:
    for number, journal in enumerate(host.journals):
        first = 10_000 * (number + 1)
        journal.append(b"".join(frame("S", n, settled(n)) for n in range(first, first + 1200)))
    host.start()
    wait_until(lambda: len(host.answered()) == WRITERS, 20)

    assert len(database.stored) == WRITERS * 1203
    assert max(map(len, database.batches)) <= BATCH_RECORDS
    assert len(database.batches) <= 6


def test_a_backlog_that_no_answer_waits_for_does_not_lengthen_the_transactions_of_those_that_wait(
    host: Host, database: Database
) -> None:
    host.journals[0].append(b"".join(frame("S", n, settled(n)) for n in range(10_000, 13_000)))
    for journal in host.journals[1:]:
        name = journal.directory.path.name
        host.shipper.commit(name, journal.appended, host.told[name].append)
    host.shipper.start()
    wait_until(lambda: len(database.stored) == 3012, 20)

    assert {request_id(number) for number in range(3, 12)} <= set(database.batches[0])
    assert len(database.batches[0]) < 600
    assert max(map(len, database.batches)) > 1500  # once nobody waits


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_shipper_that_ends_before_the_checkpoints_of_a_stored_batch_loses_and_doubles_nothing(
    tmp_path: Path, database: Database, heard: Heard
) -> None:
    def store_and_end(records: list[UsageRecord]) -> None:
        database(records)
        raise SystemExit  # ends the thread as a kill does: nothing follows

    host = Host(tmp_path, store_and_end, heard)
    host.start()
    wait_until(lambda: database.stored and not host.shipper.is_alive, 20)
    assert host.checkpoints() == [START] * WRITERS
    assert host.answered() == set()

    host.journals[3].append(settled_frames(range(50, 51)))
    host.shipper = Shipper(tmp_path / "journal", database, log=heard, is_awaited=True)
    host.start()
    wait_until(lambda: len(host.answered()) == WRITERS, 20)
    assert database.numbers() == [*range(12), 50]
    assert host.checkpoints() == [Position(1, journal.written.offset) for journal in host.journals]
    host.stop()


def test_requests_that_a_killed_writer_left_open_share_the_transaction(
    host: Host, database: Database, heard: Heard
) -> None:
    killed = host.journals[2]
    killed.append(frame("I", 90, intent(90)))
    killed.crash()
    host.start()
    wait_until(lambda: host.answered() == {0, 1, 3} and not killed.directory.path.exists(), 20)

    assert [sorted(batch) for batch in database.batches] == [[request_id(number) for number in (*range(12), 90)]]
    assert database.stored[request_id(90)].error_code == "gateway_crashed"
    assert heard.events[0][1] == {"level": "warning", "journal": "writer-2", "cut_off": 1}
