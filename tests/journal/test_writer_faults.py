"""The journal writer on a disk that fails."""

from __future__ import annotations

import asyncio

import pytest

from llm_gateway.errors import JournalUnavailable
from llm_gateway.journal.frames import scan
from llm_gateway.journal.position_page import WrittenPosition
from llm_gateway.journal.writer import Fsync
from tests.journal.disk import ALWAYS, Open, accepts, on_disk, refuses, until_async
from tests.journal.samples import FailingFileSystem, Heard, intent, request_id, settled, until, written


async def test_a_failed_write_refuses_the_intent_and_drops_its_entry(
    open_writer: Open, files: FailingFileSystem, heard: Heard
) -> None:
    writer = open_writer("off")
    await until(lambda: writer._segments._spare is not None)  # allocating a spare triggers a write, too
    files.fails["write"] = 1

    assert not await accepts(writer, 1)
    assert not await accepts(writer, 2)
    assert writer.appended == 0
    await until_async(lambda: accepts(writer, 3), timeout_s=2)

    assert on_disk(writer) == [("I", 3)]
    assert heard.events == [
        ("the usage journal cannot be written", {"level": "error", "reason": "[Errno 28] No space left on device"}),
        ("the usage journal is written again", {}),
    ]


@pytest.mark.parametrize("fsync", ["always", "interval", "off"])
async def test_entries_wait_in_memory_and_are_written_in_order(
    open_writer: Open, files: FailingFileSystem, fsync: Fsync
) -> None:
    writer = open_writer(fsync)
    assert await accepts(writer, 1)
    files.fails["write"] = ALWAYS
    writer.outcome(request_id(1), b"{}")
    await asyncio.sleep(0.01)
    assert written(writer).entries == 1
    files.fails.clear()
    writer.settle(request_id(1), settled(1))

    await asyncio.wait_for(writer.durable(), 1.5)

    assert on_disk(writer) == [("I", 1), ("O", 1), ("S", 1)]
    assert written(writer).entries == writer.appended == 3


async def test_durable_fails_after_the_timeout_and_the_entry_stays(
    open_writer: Open, files: FailingFileSystem, heard: Heard
) -> None:
    writer = open_writer("always", patience_s=0.7)
    assert await accepts(writer, 1)
    files.fails["write"] = ALWAYS
    writer.settle(request_id(1), settled(1))
    began = asyncio.get_running_loop().time()
    first = asyncio.ensure_future(writer.durable())
    await asyncio.sleep(0.2)
    second = asyncio.ensure_future(writer.durable())
    with pytest.raises(JournalUnavailable, match="could not be made durable"):
        await first
    assert 0.65 < asyncio.get_running_loop().time() - began < 0.85
    assert not second.done()
    second.cancel()
    assert not await accepts(writer, 2)

    files.fails.clear()
    await until(lambda: written(writer).entries == 2)

    assert on_disk(writer) == [("I", 1), ("S", 1)]
    assert heard.names() == ["the usage journal cannot be written", "the usage journal is written again"]


@pytest.mark.parametrize("fsync", ["always", "interval", "off"])
async def test_durable_returns_once_writing_works_again(
    open_writer: Open, files: FailingFileSystem, fsync: Fsync
) -> None:
    writer = open_writer(fsync)
    files.fails["write"] = 1
    writer.settle(request_id(1), settled(1))

    await asyncio.wait_for(writer.durable(), 1.5)

    assert on_disk(writer) == [("S", 1)]


async def test_the_default_timeout_of_durable_is_2_seconds(open_writer: Open, files: FailingFileSystem) -> None:
    writer = open_writer("always")
    files.fails["write"] = ALWAYS
    writer.settle(request_id(1), settled(1))

    with pytest.raises(JournalUnavailable):
        await asyncio.wait_for(writer.durable(), 5)


async def test_a_short_write_is_continued_where_it_ended(open_writer: Open, files: FailingFileSystem) -> None:
    writer = open_writer("off")
    files.most_at_once = 100
    assert await accepts(writer, 1)
    writer.settle(request_id(1), settled(1))
    await writer.durable()

    assert on_disk(writer) == [("I", 1), ("S", 1)]


async def test_a_dropped_intent_does_not_keep_later_waiters_waiting(
    open_writer: Open, files: FailingFileSystem
) -> None:
    writer = open_writer("off")
    await until(lambda: writer._segments._spare is not None)  # allocating a spare triggers a write, too
    files.fails["write"] = 1

    refused = asyncio.create_task(accepts(writer, 1))
    await asyncio.sleep(0)
    writer.settle(request_id(2), settled(2))
    waits = asyncio.create_task(writer.durable())

    assert not await refused
    assert not waits.done()
    await asyncio.wait_for(waits, 1)
    assert on_disk(writer) == [("S", 2)]
    assert (writer.appended, len(writer._reserved)) == (1, 0)


async def test_a_cancelled_intent_is_either_written_or_dropped(open_writer: Open, files: FailingFileSystem) -> None:
    writer = open_writer("off")
    await until(lambda: writer._segments._spare is not None)  # allocating a spare triggers a write, too
    files.fails["write"] = 1
    gone = asyncio.create_task(writer.intent(request_id(1), intent(1)))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    await until_async(lambda: accepts(writer, 2), timeout_s=2)

    assert gone.cancelled()
    assert on_disk(writer) == [("I", 2)]


async def test_a_write_of_zero_bytes_counts_as_a_failure(
    open_writer: Open, files: FailingFileSystem, heard: Heard
) -> None:
    writer = open_writer("off")
    files.most_at_once = 0

    assert not await accepts(writer, 1)
    assert heard.events == [
        ("the usage journal cannot be written", {"level": "error", "reason": "nothing was written"})
    ]

    files.most_at_once = None
    await until_async(lambda: accepts(writer, 2), timeout_s=2)
    assert on_disk(writer) == [("I", 2)]


@pytest.mark.parametrize("fsync", ["always", "interval"])
async def test_after_a_failed_sync_everything_is_written_again_elsewhere(
    open_writer: Open, files: FailingFileSystem, heard: Heard, fsync: Fsync
) -> None:
    writer = open_writer(fsync)
    assert await accepts(writer, 1)
    await until(lambda: files.syncs == 1 and not writer._unsynced)
    files.fails["sync"] = 1
    writer.outcome(request_id(1), b"{}")
    writer.settle(request_id(1), settled(1))
    waiter = asyncio.ensure_future(writer.durable())
    await until(lambda: "the usage journal cannot be synced" in heard.names())
    assert written(writer).entries == 1  # entries that may be lost do not count as written
    await waiter
    await until(lambda: files.syncs == 3)

    second = scan(writer.directory.segment(2).read_bytes(), segment=2).entries
    assert [entry.kind for entry in second] == ["O", "S"]
    assert written(writer) == WrittenPosition(2, second[-1].end, 3)
    await until_async(lambda: accepts(writer, 2))
    assert heard.events == [
        ("the usage journal cannot be synced", {"level": "error", "reason": "[Errno 5] Input/output error"}),
        ("the usage journal is written again", {}),
    ]


async def test_intents_are_refused_while_syncs_fail(open_writer: Open, files: FailingFileSystem, heard: Heard) -> None:
    writer = open_writer("always", patience_s=0.7)
    assert await accepts(writer, 1)
    files.fails["sync"] = ALWAYS
    writer.settle(request_id(1), settled(1))
    with pytest.raises(JournalUnavailable, match="could not be made durable"):
        await writer.durable()
    for _ in range(30):
        assert not await accepts(writer, 2)
        await asyncio.sleep(0.02)

    files.fails.clear()
    await until_async(lambda: accepts(writer, 3), timeout_s=2)

    assert set(on_disk(writer)) == {("I", 1), ("S", 1), ("I", 3)}
    assert written(writer).entries == writer.appended == 3
    assert heard.names() == ["the usage journal cannot be synced", "the usage journal is written again"]


async def test_a_failed_sync_without_new_entries_does_not_block_the_writer_forever(
    open_writer: Open, files: FailingFileSystem
) -> None:
    writer = open_writer("always")
    files.fails["sync"] = 1
    writer._retired.append(files.create(writer.directory.segment(9), 10, durable=False))
    writer._sync_later()

    await until(lambda: files.syncs)
    await until_async(lambda: accepts(writer, 1), timeout_s=2)


async def test_closing_an_unwritable_journal_logs_how_many_entries_are_lost(
    open_writer: Open, files: FailingFileSystem, heard: Heard
) -> None:
    writer = open_writer("always", patience_s=0.1)
    assert await accepts(writer, 1)
    files.fails["write"] = ALWAYS
    writer.settle(request_id(1), settled(1))

    await writer.sync_and_close()

    assert heard.events[-1] == (
        "the usage journal was closed before its last entries were durable",
        {"level": "error", "unwritten": 1, "unsynced": 0},
    )
    assert on_disk(writer) == [("I", 1)]


async def test_a_failed_writer_becomes_writable_by_its_own_trial_write(
    open_writer: Open, files: FailingFileSystem
) -> None:
    writer = open_writer("always")
    await until(lambda: writer._segments._spare is not None)  # allocating a spare triggers a write, too
    await until(lambda: writer.is_writable)
    files.fails["write"] = ALWAYS
    assert not await accepts(writer, 1)

    for _ in range(80):
        assert not writer.is_writable
        await asyncio.sleep(0.01)
    files.fails.clear()
    await until(lambda: writer.is_writable, timeout_s=2)

    assert await accepts(writer, 2)
    await until(lambda: not writer._unsynced)
    assert on_disk(writer) == [("I", 2)]


async def test_a_writer_is_not_writable_while_syncs_fail(open_writer: Open, files: FailingFileSystem) -> None:
    writer = open_writer("always")
    files.fails["sync"] = ALWAYS
    assert await accepts(writer, 1)
    await until(lambda: not writer.is_writable)
    for _ in range(80):
        assert not writer.is_writable
        await asyncio.sleep(0.01)
    files.fails.clear()
    await until(lambda: writer.is_writable, timeout_s=2)


async def test_a_closed_writer_is_not_writable(open_writer: Open) -> None:
    writer = open_writer("always")
    await until(lambda: writer.is_writable)
    await writer.sync_and_close()
    assert not writer.is_writable


async def test_calls_are_refused_while_the_journal_is_not_where_it_is_read(open_writer: Open, heard: Heard) -> None:
    """Entries in deleted files would be lost without a word: nobody finds them after the next start of control."""
    writer = open_writer()
    path = writer.directory.path
    for taken, back in (
        (path.parent, path.parent.with_name("elsewhere")),  # as if another disk were mounted there
        (path / "writer.lock", path / "away"),
        (path / "000001.seg", path / "away"),
    ):
        assert await accepts(writer, 1)
        taken.rename(back)
        writer._segments.look()
        assert await refuses(writer, 2)
        assert not writer.is_writable
        back.rename(taken)
        if back.parent == path:
            writer._segments.look()
        await until(lambda: writer.is_writable)  # looked at each second
    lines = [("the usage journal was deleted or moved", {"level": "error", "directory": str(path)})]
    told = [event for event in heard.events if not event[0].startswith("no space for")]  # of a segment made meanwhile
    assert told == 3 * [*lines, ("the usage journal is in its place again", {})]
