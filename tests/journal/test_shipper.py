from __future__ import annotations

import asyncio
import fcntl
import threading
import time
from pathlib import Path

import pytest

from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.position_page import PAGE_NAME
from llm_gateway.journal.segments import Position, WriterDir
from llm_gateway.journal.shipper import Shipper, pause_after
from llm_gateway.journal.writer import JournalWriter
from tests.journal.samples import (
    Database,
    Heard,
    frame,
    intent,
    open_below,
    request_id,
    settled,
    settled_frames,
)
from tests.journal.samples import until as in_time
from tests.journal.shipping import SEGMENT_BYTES, Journal, until


def test_records_are_shipped_without_a_flush(journal: Journal, database: Database, shipper: Shipper) -> None:
    journal.append(settled_frames(range(3)))

    until(lambda: database.numbers() == [0, 1, 2], timeout_s=1)


@pytest.mark.parametrize(("records", "seconds"), [(0, 0.3), (127, 0.3), (128, 1.0), (100_000, 1.0)])
def test_looks_are_rarer_under_load_so_that_batches_are_larger(records: int, seconds: float) -> None:
    assert pause_after(records) == seconds


def test_a_flush_waits_while_a_writer_cannot_publish_what_it_has_accepted(journal: Journal, shipper: Shipper) -> None:
    """The writer has locked its page (`PageWriter`): its numbers are too low."""
    with (journal.directory.path / PAGE_NAME).open("rb") as page:
        fcntl.flock(page, fcntl.LOCK_EX)
        assert not shipper.flush(1)
        fcntl.flock(page, fcntl.LOCK_UN)
        assert shipper.flush(5)


def test_a_flush_ships_what_was_appended_before(journal: Journal, database: Database, shipper: Shipper) -> None:
    for number in range(5):
        journal.append(settled_frames(range(number, number + 1)))
        assert shipper.flush(5)
        assert number in database.numbers()


def test_a_flush_returns_as_soon_as_everything_is_shipped(journal: Journal, shipper: Shipper) -> None:
    for number in range(3):
        journal.append(settled_frames(range(number, number + 1)))
        began = time.monotonic()
        assert shipper.flush(60)
        assert time.monotonic() - began < 20
    assert shipper.flush(60)


def test_a_flush_waits_for_the_first_entry(journal: Journal, database: Database, shipper: Shipper) -> None:
    database.is_down = StoreUnavailable("gone")
    journal.append(frame("S", 1, settled(1)))

    assert not shipper.flush(0.3)


def test_a_waiting_flush_ends_when_the_shipper_stops(journal: Journal, shipper: Shipper) -> None:
    journal.accept(1)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(shipper.flush(60)))
    thread.start()
    time.sleep(0.3)  # the flush is waiting by now

    assert not shipper.stop(5)
    thread.join(20)

    assert results == [False]
    assert not shipper.flush(60)


def test_a_flush_waits_for_what_is_not_written_yet(journal: Journal, database: Database, shipper: Shipper) -> None:
    journal.append(settled_frames(range(1)))
    journal.accept(2)
    began = time.monotonic()
    assert not shipper.flush(0.2)
    assert time.monotonic() - began < 0.4

    journal.append(settled_frames(range(1, 2)))

    assert shipper.flush(5)
    assert database.numbers() == [0, 1]


def test_flushes_from_many_threads_all_return(journal: Journal, database: Database, shipper: Shipper) -> None:
    journal.append(settled_frames(range(100)))
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(shipper.flush(5))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [True] * 10
    assert len(database.stored) == 100


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
    journal.close()

    assert shipper.stop(5)

    assert len(database.stored) == 600
    assert not journal.directory.path.exists()


def test_a_second_stop_has_no_effect(journal: Journal, heard: Heard, shipper: Shipper) -> None:
    journal.append(settled_frames(range(3)))
    assert shipper.flush(5)
    assert open_below(journal.root) >= 4  # the writer's lock and page, the shipper's page and segment
    journal.close()

    assert shipper.stop(5)
    assert shipper.stop(5)

    assert heard.events == []
    assert open_below(journal.root) == 0


def test_a_request_that_is_still_open_when_its_writer_closes_is_recorded_as_cut_off(
    journal: Journal, database: Database, heard: Heard, shipper: Shipper
) -> None:
    journal.append(settled_frames(range(2)) + frame("I", 9, intent(9)))
    journal.close()

    assert shipper.stop(5)

    assert database.numbers() == [0, 1, 9]
    assert database.stored[request_id(9)].error_code == "gateway_crashed"
    assert database.stored[request_id(9)].cost_nanos == 210_000
    assert not journal.directory.path.exists()
    assert heard.events == []


def test_stopping_keeps_the_directory_of_an_open_writer(journal: Journal, shipper: Shipper) -> None:
    assert shipper.stop(5)

    with pytest.raises(BlockingIOError):
        WriterDir(journal.directory.path)


async def test_entries_of_a_real_writer_are_shipped(tmp_path: Path, database: Database, heard: Heard) -> None:
    writer = JournalWriter.open(tmp_path, fsync="always", segment_bytes=50_000)
    shipper = Shipper(tmp_path / "journal", database, log=heard)
    shipper.start()

    async def one(number: int) -> None:
        await writer.intent(request_id(number), intent(number))
        await asyncio.sleep(0)
        writer.settle(request_id(number), settled(number))
        await writer.durable()

    for batch in range(30):
        # On a busy machine the spare segment may come late.
        await in_time(lambda: writer._segments._spare is not None)
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


def test_the_lag_grows_while_the_database_is_down_and_ends_with_it(
    journal: Journal, database: Database, shipper: Shipper
) -> None:
    assert shipper.flush(5)  # the shipper has found the writer
    assert shipper.behind() == (0, 0.0)
    database.is_down = StoreUnavailable("gone")
    frames = settled_frames(range(3))
    journal.append(frames)
    first = shipper.behind()
    assert first.size == len(frames)
    time.sleep(0.5)
    journal.append(frames)
    second = shipper.behind()
    assert second.size == 2 * len(frames)
    assert second.seconds >= 0.5  # at least the age of the oldest entry

    database.is_down = None
    assert shipper.flush(10)

    assert shipper.behind() == (0, 0.0)
    journal.append(frames)
    assert shipper.behind().seconds < 0.5  # the age counts from the last complete shipment, not from the start
    until(lambda: shipper.behind() == (0, 0.0))


def test_the_lag_in_bytes_counts_across_segments(journal: Journal, database: Database, shipper: Shipper) -> None:
    assert shipper.flush(5)
    database.is_down = StoreUnavailable("gone")
    journal.append(settled_frames(range(3)))
    journal.rotate()
    frames = settled_frames(range(3, 6))
    journal.append(frames)

    assert shipper.behind().size == SEGMENT_BYTES + len(frames)
