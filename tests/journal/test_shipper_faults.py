"""The shipper when the database, the journal or the log fails."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.record_delivery import BATCH_RECORDS
from llm_gateway.journal.segments import START, Position, WriterDir
from llm_gateway.journal.shipper import Shipper
from tests.journal.samples import (
    Database,
    Heard,
    frame,
    open_below,
    request_id,
    settled,
    settled_frames,
)
from tests.journal.shipping import Journal, until


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
    assert shipper.flush(5)
    assert database.numbers() == list(range(1000))
    assert heard.events == [
        (
            "usage records cannot be stored and wait in the journal",
            {"level": "warning", "reason": "The database is locked."},
        ),
        ("usage records are stored again", {}),
    ]


def test_an_ambiguous_commit_is_sent_again(journal: Journal, database: Database, shipper: Shipper) -> None:
    database.after = [StoreUnavailable("the connection is lost")]
    journal.append(settled_frames(range(3)))

    assert shipper.flush(5)

    assert len(database.batches) == 2
    assert database.batches[0] == database.batches[1]
    assert database.numbers() == [0, 1, 2]


def test_records_are_sent_again_after_any_exception_of_the_sink(
    journal: Journal, database: Database, heard: Heard, shipper: Shipper
) -> None:
    database.before = [KeyError("a defect")]
    journal.append(settled_frames(range(3)))

    assert shipper.flush(5)

    assert database.numbers() == [0, 1, 2]
    assert heard.events[0][1]["reason"] == "KeyError('a defect')"


class Spoilt:
    """A pause of the shipper that fails once after it was armed: entries were read, and nothing is delivered yet."""

    def __init__(self) -> None:
        self.is_armed = False

    def __call__(self) -> None:
        if self.is_armed:
            self.is_armed = False
            raise MemoryError("no space for one more")


def test_a_defect_amid_a_batch_loses_none_of_it(journal: Journal, database: Database, heard: Heard) -> None:
    journal.append(settled_frames(range(3)))
    pause = Spoilt()
    shipper = Shipper(journal.root, database, log=heard, pause=pause)
    shipper.start()
    assert shipper.flush(5)
    pause.is_armed = True
    journal.append(settled_frames(range(3, 10)))
    assert open_below(journal.directory.segment(1)) == 1

    assert shipper.flush(5)

    assert database.numbers() == list(range(10))
    assert open_below(journal.directory.segment(1)) == 1
    assert heard.events == [
        (
            "usage records cannot be stored and wait in the journal",
            {"level": "error", "reason": "MemoryError('no space for one more')"},
        ),
        ("usage records are stored again", {}),
    ]
    assert shipper.stop(5)


def test_an_unreadable_journal_is_read_again_later(
    journal: Journal, database: Database, heard: Heard, shipper: Shipper
) -> None:
    journal.append(settled_frames(range(3)))
    assert shipper.flush(5)
    journal.rotate()
    journal.directory.segment(2).unlink()
    journal.directory.segment(2).mkdir()
    journal.written = journal.written._replace(offset=10)
    until(lambda: heard.names() == ["usage records cannot be stored and wait in the journal"])

    journal.directory.segment(2).rmdir()
    journal.directory.segment(2).write_bytes(bytes(10_000))
    journal.written = journal.written._replace(offset=0)
    journal.append(settled_frames(range(3, 5)))

    assert shipper.flush(5)
    assert database.numbers() == list(range(5))


def test_without_a_free_descriptor_the_writers_that_are_known_are_shipped(
    journal: Journal, database: Database, heard: Heard, shipper: Shipper
) -> None:
    journal.append(settled_frames(range(3)))
    assert shipper.flush(5)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    journal.append(settled_frames(range(3, 5)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        until(lambda: database.numbers() == list(range(5)))
        assert not shipper.flush(0.4)  # it cannot tell whether there are other writers
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert shipper.flush(5)
    assert heard.names() == ["usage records cannot be stored and wait in the journal", "usage records are stored again"]
    assert "Too many open files" in heard.events[0][1]["reason"]


def test_a_log_that_raises_does_not_end_the_shipper(journal: Journal, database: Database) -> None:
    def no_log(event: str, **fields: object) -> None:
        raise OSError("the log is full")

    shipper = Shipper(journal.root, database, log=no_log)
    before = shipper.is_alive
    shipper.start()
    database.before = [KeyError("a defect"), StoreUnavailable("gone")]
    journal.append(settled_frames(range(3)))

    assert shipper.flush(5)

    during = shipper.is_alive
    assert database.numbers() == [0, 1, 2]
    assert shipper.stop(5)
    assert (before, during, shipper.is_alive) == (False, True, False)


def test_each_reason_of_a_series_is_logged_once(
    journal: Journal, database: Database, heard: Heard, shipper: Shipper
) -> None:
    down = [StoreUnavailable("locked"), StoreUnavailable("locked"), KeyError("a defect"), StoreUnavailable("locked")]
    for _ in range(2):
        database.before = list(down)
        journal.append(settled_frames(range(1)))
        assert shipper.flush(10)

    told = [(fields["level"], fields["reason"]) for _, fields in heard.events if fields]
    assert told == 2 * [("warning", "locked"), ("error", "KeyError('a defect')"), ("warning", "locked")]


def test_a_refused_record_does_not_delay_the_others(journal: Journal, database: Database, shipper: Shipper) -> None:
    database.refused = {request_id(7)}
    journal.append(settled_frames(range(20)))

    assert shipper.flush(5)

    assert database.numbers() == [n for n in range(20) if n != 7]
    assert len((journal.directory.path.parent / "quarantine.jsonl").read_bytes().splitlines()) == 1


def test_stopping_outlasts_a_defect(journal: Journal, database: Database, shipper: Shipper) -> None:
    database.before = [KeyError("a defect") for _ in range(3)]
    journal.append(settled_frames(range(3)))

    assert shipper.stop(10)

    assert database.numbers() == [0, 1, 2]


def test_stopping_reports_entries_that_were_never_written(
    journal: Journal, database: Database, shipper: Shipper
) -> None:
    journal.append(settled_frames(range(2)))
    journal.accept(1)
    journal.close()

    assert not shipper.stop(5)
    assert database.numbers() == [0, 1]
    assert not journal.directory.path.exists()


def test_stopping_waits_for_the_database_at_most_its_timeout(
    journal: Journal, database: Database, shipper: Shipper
) -> None:
    database.is_down = StoreUnavailable("gone")
    journal.append(settled_frames(range(2)))
    journal.close()
    until(lambda: len(database.batches) > 3)

    began = time.monotonic()
    assert not shipper.stop(0.3)

    assert 0.25 < time.monotonic() - began < 0.6
    assert journal.directory.segments() == [1]
    assert not shipper.flush(5)
    WriterDir(journal.directory.path).close()


def test_a_sink_that_hangs_does_not_delay_the_stop(journal: Journal, heard: Heard) -> None:
    released = threading.Event()

    def hang(_: list[UsageRecord]) -> None:
        released.wait(10)

    shipper = Shipper(journal.root, hang, log=heard)
    shipper.start()
    journal.append(settled_frames(range(2)))
    time.sleep(0.3)
    journal.close()

    assert not shipper.stop(0.0)

    assert journal.directory.segments() == [1]
    assert journal.directory.checkpoint() == START
    released.set()


def test_a_long_backlog_does_not_outlast_the_stop(journal: Journal, heard: Heard) -> None:
    batches = 0

    def store_slowly(_: list[UsageRecord]) -> None:
        nonlocal batches
        batches += 1
        time.sleep(0.4)

    backlog = b"".join(frame("S", number, settled(number)) for number in range(BATCH_RECORDS))
    for _ in range(6):
        journal.append(backlog)
        journal.rotate()
    shipper = Shipper(journal.root, store_slowly, log=heard)
    shipper.start()
    until(lambda: batches)

    assert not shipper.stop(0.1)

    assert not shipper.is_alive
    assert batches < 4
    journal.close()


def test_a_directory_that_cannot_be_deleted_is_logged(journal: Journal, heard: Heard, shipper: Shipper) -> None:
    (journal.directory.path / "folder").mkdir()
    journal.close()

    assert shipper.stop(5)

    assert heard.names() == ["cannot delete the usage journal's directory"]
    WriterDir(journal.directory.path).close()


ENDS = """
import asyncio, sys, time
from pathlib import Path
from llm_gateway.journal.segments import log_nothing
from llm_gateway.journal.shipper import Shipper
from llm_gateway.journal.writer import JournalWriter

async def main():
    writer = JournalWriter.open(Path(sys.argv[1]), fsync="always", segment_bytes=100_000)
    Shipper(Path(sys.argv[1]) / "journal", lambda records: time.sleep(100), log=log_nothing).start()
    writer.settle("0" * 36, b'{}')
    await writer.durable()

asyncio.run(main())
"""


def test_the_shipper_thread_does_not_keep_a_process_alive(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", ENDS, str(tmp_path)], check=False, timeout=30)

    assert run.returncode == 0
