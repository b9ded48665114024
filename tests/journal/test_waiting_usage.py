"""Disk space for the usage that waits in the journals."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from llm_gateway.data_dir import lock_directory
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal import shipper as shipping
from llm_gateway.journal import waiting_usage
from llm_gateway.journal.free_segments import SHORT_BYTES
from llm_gateway.journal.quarantined import reimport
from llm_gateway.journal.record_delivery import BATCH_RECORDS
from llm_gateway.journal.segments import JournalDir, Position
from llm_gateway.journal.shipper import Shipper
from llm_gateway.journal.waiting_usage import (
    AMPLE_BYTES,
    FIRST_BYTES,
    MOST_LEFT_BYTES,
    SHORT_BATCH_RECORDS,
    TURN,
    BatchSize,
    needed_bytes,
    taking_space,
    waiting_bytes,
)
from tests.journal.disk import Open, accepts, refuses, until_async
from tests.journal.samples import Database, Heard, frame, intent, request_id, settled_frames
from tests.journal.shipping import SEGMENT_BYTES, Journal, until
from tests.waiting import until as in_loop

Disk = namedtuple("Disk", ["f_bavail", "f_frsize"])


class Space:
    """Free bytes that the disk reports."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 10 * SHORT_BYTES
        monkeypatch.setattr(os, "statvfs", lambda _path: Disk(self.free, 1))


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Space:
    return Space(monkeypatch)


def test_usage_waits_from_each_writers_checkpoint_to_its_position(journal: Journal, tmp_path: Path) -> None:
    other = Journal(tmp_path / "journal" / "other")
    content = settled_frames(range(3))
    assert waiting_bytes(journal.root) == 0

    journal.append(content)
    other.rotate()
    other.append(content)
    assert waiting_bytes(journal.root) == 2 * len(content) + SEGMENT_BYTES

    other.directory.keep_checkpoint(Position(2, len(content)))
    (journal.root / "no-page").mkdir()
    assert waiting_bytes(journal.root) == len(content)
    other.crash()


def leave_space(root: Path, size: int) -> None:
    with taking_space(root, size):
        pass


def test_the_database_needs_space_until_a_segment_is_freed_and_less_for_each_further_one() -> None:
    """Measured with records as large as they get: 32 to 36 MiB free for a segment of 16 MiB, then 5 for each."""
    mebibyte = 1024 * 1024
    needed = [needed_bytes(waiting * mebibyte) // mebibyte for waiting in (0, 1, 4, 15, 60, 120, 10_000)]
    assert needed == [0, 18, 30, 45, 60, 80, 256]


def test_the_journal_leaves_the_space_that_usage_needs_which_waits(journal: Journal, space: Space) -> None:
    size = 1000
    space.free = size
    leave_space(journal.root, size)

    journal.append(content := settled_frames(range(3)))
    space.free = size + needed_bytes(len(content))
    leave_space(journal.root, size)
    space.free -= 1
    with pytest.raises(OSError, match="not in the database yet") as refused:
        leave_space(journal.root, size)
    assert refused.value.errno == errno.ENOSPC

    for _ in range(100):
        journal.rotate()
    space.free = size + FIRST_BYTES + 100 * SEGMENT_BYTES
    leave_space(journal.root, size)
    space.free = size + MOST_LEFT_BYTES
    leave_space(journal.root, size)


def test_two_writers_do_not_take_the_same_space(journal: Journal, space: Space) -> None:
    size, taken, refused = 1000, list[int](), list[int | None]()
    journal.append(content := settled_frames(range(3)))
    space.free = 2 * size + (needed := needed_bytes(len(content))) - 1
    both = threading.Barrier(2)

    def take() -> None:
        both.wait(5)
        try:
            with taking_space(journal.root, size):
                time.sleep(0.1)  # while the file is made
                space.free -= size
                taken.append(space.free)
        except OSError as error:
            refused.append(error.errno)

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert (taken, refused) == ([size + needed - 1], [errno.ENOSPC])


def test_a_writer_that_is_stopped_in_its_turn_stops_no_other(
    journal: Journal, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_usage, "TURN_S", 0.05)
    space.free = SEGMENT_BYTES
    leave_space(journal.root, SEGMENT_BYTES)
    stopped = lock_directory(journal.root / TURN)
    assert stopped is not None
    leave_space(journal.root, SEGMENT_BYTES)
    os.close(stopped)


def test_a_reimport_runs_while_a_writer_takes_space(journal: Journal, tmp_path: Path, space: Space) -> None:
    space.free = SEGMENT_BYTES
    with taking_space(journal.root, SEGMENT_BYTES):
        assert reimport(tmp_path, LittleSpace()) == (0, 0, 0)


def test_where_directories_cannot_be_locked_writers_have_no_turns(
    journal: Journal, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    space.free = SEGMENT_BYTES
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", refuse)
        leave_space(journal.root, SEGMENT_BYTES)


async def test_a_writer_takes_no_segment_that_the_database_needs(open_writer: Open, heard: Heard, space: Space) -> None:
    space.free = 150_000
    writer = open_writer()
    await in_loop(lambda: writer.directory.segments() == [1, 2])
    number = 0
    while await accepts(writer, number):
        writer.settle(request_id(number), b"x" * 500)
        await writer.durable()
        number += 1
    assert writer.directory.segments() == [1, 2]
    assert [fields["reason"] for _, fields in heard.events] == [
        "[Errno 28] what is left of the disk is for usage that is not in the database yet"
    ]
    assert await refuses(writer, number)

    JournalDir(writer.directory.path).keep_checkpoint(Position(2, 90_000))
    await until_async(lambda: accepts(writer, number))


async def test_records_that_cost_nothing_wait_for_more_space_than_the_database_needs(
    open_writer: Open, space: Space
) -> None:
    space.free = 150_000
    writer = open_writer()
    await in_loop(lambda: writer.directory.segments() == [1, 2])
    number = 0
    while await accepts(writer, number):
        writer.settle(request_id(number), b"x" * 500)
        await writer.durable()
        number += 1
    before = writer.appended
    writer.settle(request_id(number), b"x" * 40_000)
    assert writer.appended == before

    JournalDir(writer.directory.path).keep_checkpoint(Position(2, 90_000))
    await until_async(lambda: accepts(writer, number + 1))
    assert writer.appended == before + 1  # the intent alone

    space.free = AMPLE_BYTES
    await in_loop(lambda: writer.appended == before + 2)


def test_batches_are_small_after_a_failed_or_full_one_until_the_disk_is_not_short(tmp_path: Path, space: Space) -> None:
    size = BatchSize(tmp_path)
    space.free = SHORT_BYTES - 1
    size.note(BATCH_RECORDS - 1, is_stored=True)
    assert (size.records, size.is_small) == (BATCH_RECORDS, False)

    for records, is_stored in ((1, False), (BATCH_RECORDS, True)):
        space.free = SHORT_BYTES - 1
        size.note(records, is_stored=is_stored)
        assert (size.records, size.is_small) == (SHORT_BATCH_RECORDS, True)
        size.note(1, is_stored=True)
        assert size.is_small

        space.free = SHORT_BYTES
        size.note(1, is_stored=True)
        assert (size.records, size.is_small) == (BATCH_RECORDS, False)
        size.note(records, is_stored=is_stored)
        assert not size.is_small


class LittleSpace(Database):
    """A database with space for `room` records at a time; each larger batch fails."""

    room = 0

    def __call__(self, records: list[UsageRecord]) -> None:
        self.is_down = StoreUnavailable("The disk is full.") if len(records) > self.room else None
        super().__call__(records)


def test_usage_is_stored_in_small_batches_where_a_large_one_finds_no_space(journal: Journal, space: Space) -> None:
    database = LittleSpace()
    database.room = 2 * SHORT_BATCH_RECORDS
    shipper = Shipper(journal.root, database, log=Heard())
    space.free = SHORT_BYTES - 1
    journal.append(settled_frames(range(BATCH_RECORDS)))
    shipper.start()

    assert shipper.flush(10)
    assert database.numbers() == [*range(BATCH_RECORDS)]
    assert len(database.batches[0]) == BATCH_RECORDS
    assert {len(batch) for batch in database.batches[1:]} == {SHORT_BATCH_RECORDS}
    shipper.stop(5)


def test_writers_are_shipped_one_after_the_other_while_the_disk_is_short(
    journal: Journal, tmp_path: Path, space: Space
) -> None:
    """A segment is freed as a whole: of two that are half stored, none makes space."""
    database = LittleSpace()
    other = Journal(tmp_path / "journal" / "another")
    shipper = Shipper(journal.root, database, log=Heard())
    space.free = SHORT_BYTES - 1
    journal.append(settled_frames(range(1)))
    shipper.start()
    assert not shipper.flush(0.1)

    journal.append(settled_frames(range(1, 1000)))
    other.append(settled_frames(range(1000, 2000)))
    database.room = BATCH_RECORDS
    assert shipper.flush(10)

    first = {request_id(number) for number in range(1000, 2000)}
    writers = ["another" if batch[0] in first else "writer" for batch in database.batches if len(batch) > 1]
    assert len(writers) > 4
    assert writers == sorted(writers)
    shipper.stop(5)
    other.crash()


def test_a_writer_whose_segments_are_freed_leaves_the_others_their_turn(
    journal: Journal, tmp_path: Path, space: Space
) -> None:
    """It fills each at once: by its name it would be the first one again and again."""

    class Following(LittleSpace):
        def __call__(self, records: list[UsageRecord]) -> None:
            super().__call__(records)
            if records[0].id in own and len(own) < 100 * SHORT_BATCH_RECORDS:
                fill()

    database, own, other = Following(), set[str](), Journal(tmp_path / "journal" / "another")

    def fill() -> None:
        numbers = range(10_000 + len(own), 10_000 + len(own) + SHORT_BATCH_RECORDS)
        own.update(map(request_id, numbers))
        other.append(settled_frames(numbers))
        other.rotate()

    shipper = Shipper(journal.root, database, log=Heard())
    space.free = SHORT_BYTES - 1
    journal.append(settled_frames(range(1)))
    shipper.start()
    assert not shipper.flush(0.1)

    fill()
    fill()
    journal.append(settled_frames(range(1, 10)))
    database.room = BATCH_RECORDS
    until(lambda: request_id(9) in database.stored)
    assert len(own) < 100 * SHORT_BATCH_RECORDS
    shipper.stop(5)
    other.crash()


def test_a_writer_that_ends_with_a_full_batch_on_a_short_disk_is_followed_by_the_others(
    journal: Journal, tmp_path: Path, space: Space
) -> None:
    """A killed one's last batch is filled by the requests that it left open: it is gone once that is stored."""
    space.free = SHORT_BYTES - 1
    database, other = Database(), Journal(tmp_path / "journal" / "another")
    other.append(settled_frames(range(1000)))
    other.rotate()
    other.append(
        settled_frames(range(1000, BATCH_RECORDS - 1)) + frame("I", BATCH_RECORDS - 1, intent(BATCH_RECORDS - 1))
    )
    other.crash()
    journal.append(settled_frames(range(BATCH_RECORDS, BATCH_RECORDS + 3)))
    shipper = Shipper(journal.root, database, log=Heard())
    shipper.start()

    until(lambda: len(database.stored) == BATCH_RECORDS + 3)
    assert len(database.batches[0]) == BATCH_RECORDS
    assert shipper.flush(5)
    shipper.stop(5)


def test_the_shipper_looks_for_space_as_often_as_the_writers(
    journal: Journal, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "BACKOFF_S", shipping.LONGEST_BACKOFF_S)
    database = LittleSpace()
    shipper = Shipper(journal.root, database, log=Heard())
    space.free = SHORT_BYTES - 1
    journal.append(settled_frames(range(1)))
    shipper.start()
    until(lambda: database.batches)

    database.room, space.free = 1, 10 * SHORT_BYTES
    until(lambda: len(database.batches) > 1, timeout_s=2 * shipping.HASTY_BACKOFF_S)
    assert shipper.flush(5)
    shipper.stop(5)
