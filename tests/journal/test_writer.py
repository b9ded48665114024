from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.errors import ConfigurationError
from llm_gateway.journal.frames import Kind, scan
from llm_gateway.journal.position_page import WrittenPosition
from llm_gateway.journal.segments import Position, WriterDir
from llm_gateway.journal.writer import INTERVAL_S, Fsync, JournalWriter
from tests.journal.samples import (
    HEAD_BYTES,
    FailingFileSystem,
    frame,
    intent,
    request_id,
    settled,
    until,
    written,
)

Open = Callable[..., JournalWriter]
POLICIES: list[Fsync] = ["always", "interval", "off"]


@pytest.fixture(params=["pool", "thread"])
def files(request: pytest.FixtureRequest) -> FailingFileSystem:
    return FailingFileSystem(in_pool=request.param == "pool")


@pytest.fixture
async def open_writer(tmp_path: Path, files: FailingFileSystem) -> AsyncIterator[Open]:
    writers: list[JournalWriter] = []

    def open_(fsync: Fsync = "off", segment_bytes: int = 1024 * 1024, **options: Any) -> JournalWriter:
        writers.append(JournalWriter.open(tmp_path, fsync=fsync, segment_bytes=segment_bytes, files=files, **options))
        return writers[-1]

    yield open_
    for writer in writers:
        await writer.sync_and_close()
        writer.directory.close()
    assert files.open_fds == set()


def on_disk(writer: JournalWriter) -> list[tuple[str, int]]:
    """Return (kind, number) of every entry in the segments; fail if they are damaged."""
    found: list[tuple[str, int]] = []
    for number in writer.directory.segments():
        entries, damage = scan(writer.directory.segment(number).read_bytes(), segment=number)
        assert damage == []
        found += [(entry.kind, int(entry.request_id[-12:])) for entry in entries]
    return found


async def is_waiting(waiter: Awaitable[None]) -> bool:
    """Return True if the future is still pending after enough time for anything that is not blocked."""
    done, _ = await asyncio.wait([asyncio.ensure_future(waiter)], timeout=0.1)
    return not done


async def test_a_writer_has_a_locked_directory_of_its_own(open_writer: Open, tmp_path: Path) -> None:
    first, second = open_writer(), open_writer()

    assert first.name != second.name
    assert first.directory.path == tmp_path / "journal" / first.name
    assert len(first.name) == 36
    with pytest.raises(BlockingIOError):
        WriterDir(first.directory.path)


async def test_an_intent_is_in_the_kernel_when_it_returns(open_writer: Open) -> None:
    writer = open_writer()

    await writer.intent(request_id(1), intent(1))

    assert on_disk(writer) == [("I", 1)]
    assert written(writer) == WrittenPosition(1, HEAD_BYTES + len(intent(1)) + 1, 1)
    assert writer.appended == 1


async def test_the_entries_of_one_loop_turn_are_written_together(open_writer: Open, files: FailingFileSystem) -> None:
    writer = open_writer()

    writer.outcome(request_id(1), b"{}")
    writer.settle(request_id(1), settled(1))
    writer.settle(request_id(2), settled(2))
    assert files.writes == []
    assert (writer.appended, written(writer)) == (3, WrittenPosition(1, 0, 0))
    await asyncio.sleep(0)

    assert files.writes == [frame("O", 1, b"{}") + frame("S", 1, settled(1)) + frame("S", 2, settled(2))]
    assert written(writer) == WrittenPosition(1, len(files.writes[0]), 3)


async def test_the_intents_of_one_loop_turn_share_a_write_and_return_together(
    open_writer: Open, files: FailingFileSystem
) -> None:
    writer = open_writer()

    await asyncio.gather(*(writer.intent(request_id(number), intent(number)) for number in range(3)))

    assert files.writes == [b"".join(frame("I", number, intent(number)) for number in range(3))]


@pytest.mark.parametrize("kind", ["O", "S"])
async def test_a_single_entry_is_written_in_its_loop_turn(
    open_writer: Open, files: FailingFileSystem, kind: Kind
) -> None:
    writer = open_writer()
    (writer.outcome if kind == "O" else writer.settle)(request_id(1), b"{}")
    await asyncio.sleep(0)

    assert files.writes == [frame(kind, 1, b"{}")]


async def test_an_intent_is_written_with_the_entries_waiting_before_it(
    open_writer: Open, files: FailingFileSystem
) -> None:
    writer = open_writer()

    writer.settle(request_id(1), settled(1))
    await writer.intent(request_id(2), intent(2))
    await asyncio.sleep(0.01)

    assert files.writes == [frame("S", 1, settled(1)) + frame("I", 2, intent(2))]


@pytest.mark.parametrize("fsync", ["interval", "off"])
async def test_durable_waits_only_for_the_write_unless_fsync_is_always(
    open_writer: Open, files: FailingFileSystem, fsync: Fsync
) -> None:
    files.syncs_allowed.clear()
    writer = open_writer(fsync)
    writer.settle(request_id(1), settled(1))

    await asyncio.wait_for(writer.durable(), 1)

    assert on_disk(writer) == [("S", 1)]
    files.syncs_allowed.set()


async def test_durable_waits_for_the_sync_if_fsync_is_always(open_writer: Open, files: FailingFileSystem) -> None:
    writer = open_writer("always")
    files.syncs_allowed.clear()
    writer.settle(request_id(1), settled(1))
    waiter = asyncio.ensure_future(writer.durable())
    assert await is_waiting(waiter)

    files.syncs_allowed.set()

    await asyncio.wait_for(waiter, 1)
    assert files.syncs == 1


async def test_entries_appended_during_a_sync_share_the_next_one(open_writer: Open, files: FailingFileSystem) -> None:
    writer = open_writer("always")
    files.syncs_allowed.clear()
    waiters = []
    for number in range(5):
        writer.settle(request_id(number), settled(number))
        waiters.append(asyncio.ensure_future(writer.durable()))
        await asyncio.sleep(0.01)
    assert len(files.writes) == 5

    files.syncs_allowed.set()
    await asyncio.gather(*waiters)

    assert files.syncs == 2


async def test_concurrent_requests_share_a_write_and_a_sync(open_writer: Open, files: FailingFileSystem) -> None:
    writer = open_writer("always")
    await until(lambda: writer._segments._spare is not None)  # allocating it triggers a flush

    async def one(number: int) -> None:
        writer.settle(request_id(number), settled(number))
        await writer.durable()

    await asyncio.gather(*(one(number) for number in range(32)))

    assert (len(files.writes), files.syncs) == (1, 1)


async def test_durable_returns_at_once_if_everything_is_synced(open_writer: Open, files: FailingFileSystem) -> None:
    writer = open_writer("always")
    await asyncio.wait_for(writer.durable(), 1)
    writer.settle(request_id(1), settled(1))
    await writer.durable()
    await writer.durable()

    assert files.syncs == 1


@pytest.mark.parametrize("fsync", POLICIES)
async def test_durable_without_new_entries_does_not_suspend(open_writer: Open, fsync: Fsync) -> None:
    writer = open_writer(fsync)
    writer.settle(request_id(1), settled(1))
    await writer.durable()

    with pytest.raises(StopIteration):  # it returns without suspending
        writer.durable().send(None)


async def test_a_cancelled_waiter_does_not_cancel_the_others(open_writer: Open, files: FailingFileSystem) -> None:
    writer = open_writer("always")
    files.syncs_allowed.clear()
    writer.settle(request_id(1), settled(1))
    gone, stays = asyncio.ensure_future(writer.durable()), asyncio.ensure_future(writer.durable())
    await asyncio.sleep(0.01)
    gone.cancel()
    files.syncs_allowed.set()

    await asyncio.wait_for(stays, 1)
    assert gone.cancelled()


@pytest.mark.parametrize(("fsync", "syncs"), [("always", 1), ("interval", 1), ("off", 0)])
async def test_entries_without_a_waiter_are_synced_within_the_interval(
    open_writer: Open, files: FailingFileSystem, fsync: Fsync, syncs: int
) -> None:
    writer = open_writer(fsync)
    await writer.intent(request_id(1), intent(1))
    writer.settle(request_id(2), settled(2))
    assert files.syncs == 0

    await until(lambda: files.syncs >= syncs)
    await asyncio.sleep(2 * INTERVAL_S)  # no further sync may follow

    assert files.syncs == syncs


@pytest.mark.parametrize(("fsync", "syncs"), [("always", 1), ("interval", 1), ("off", 0)])
async def test_a_single_intent_is_synced_within_the_interval(
    open_writer: Open, files: FailingFileSystem, fsync: Fsync, syncs: int
) -> None:
    writer = open_writer(fsync)
    await writer.intent(request_id(1), intent(1))

    await until(lambda: files.syncs >= syncs)
    await asyncio.sleep(2 * INTERVAL_S)  # no further sync may follow

    assert files.syncs == syncs


@pytest.mark.parametrize("fsync", POLICIES)
async def test_a_full_segment_is_followed_by_the_next(
    open_writer: Open, files: FailingFileSystem, fsync: Fsync
) -> None:
    size = len(frame("S", 1, settled(1)))
    writer = open_writer(fsync, segment_bytes=2 * size + 10)
    for number in range(7):
        await until(lambda: writer._segments._spare is not None)
        writer.settle(request_id(number), settled(number))
        await writer.durable()

    assert on_disk(writer) == [("S", number) for number in range(7)]
    assert written(writer) == WrittenPosition(4, size, 7)
    await until(lambda: len(files.created) == 5)
    assert files.created == [f"00000{number}.seg" for number in range(1, 6)]
    await until(lambda: len(files.open_fds) == 2)


async def test_the_entries_of_a_turn_may_span_two_segments(open_writer: Open, files: FailingFileSystem) -> None:
    size = len(frame("S", 1, settled(1)))
    writer = open_writer(segment_bytes=2 * size)
    await until(lambda: writer._segments._spare is not None)
    for number in range(3):
        writer.settle(request_id(number), settled(number))
    await writer.durable()

    assert [len(data) for data in files.writes] == [2 * size, size]
    assert written(writer) == WrittenPosition(2, size, 3)


async def test_an_entry_larger_than_a_segment_is_rejected(open_writer: Open) -> None:
    writer = open_writer(segment_bytes=100)
    size = 100 - HEAD_BYTES - 1

    writer.settle(request_id(1), b"x" * size)
    with pytest.raises(ValueError, match="larger than a segment"):
        writer.settle(request_id(1), b"x" * (size + 1))

    assert writer.appended == 1


@pytest.mark.parametrize("fsync", POLICIES)
async def test_closing_writes_and_syncs_everything(open_writer: Open, files: FailingFileSystem, fsync: Fsync) -> None:
    writer = open_writer(fsync)
    writer.settle(request_id(1), settled(1))

    await writer.sync_and_close()
    await writer.sync_and_close()

    assert on_disk(writer) == [("S", 1)]
    assert writer.directory.segments() == [1]
    assert files.syncs == (0 if fsync == "off" else 1)
    assert writer.is_closed
    WriterDir(writer.directory.path).close()


async def test_nothing_is_written_after_closing(open_writer: Open) -> None:
    writer = open_writer()
    await writer.sync_and_close()

    with pytest.raises(RuntimeError, match="closed"):
        await writer.intent(request_id(1), b"{}")
    for append in (writer.outcome, writer.settle):
        with pytest.raises(RuntimeError, match="closed"):
            append(request_id(1), b"{}")


async def test_closing_ends_the_threads(open_writer: Open, files: FailingFileSystem) -> None:
    before = threading.active_count()
    writer = open_writer("always")
    assert threading.active_count() == before + (1 if files.in_pool else 2)

    await writer.sync_and_close()

    await until(lambda: threading.active_count() == before)


async def test_an_unwritable_data_directory_is_a_configuration_error(tmp_path: Path, files: FailingFileSystem) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="Not a directory"):
        JournalWriter.open(tmp_path / "file", fsync="off")

    files.fails["create"] = 1
    with pytest.raises(ConfigurationError, match=r"journal cannot be written \(No space left on device\): free space"):
        JournalWriter.open(tmp_path, fsync="off", files=files)
    assert list((tmp_path / "journal").iterdir()) == []


async def test_journal_files_are_readable_by_their_owner_only(open_writer: Open) -> None:
    directory = open_writer().directory
    directory.keep_checkpoint(Position(1, 0))

    assert directory.path.parent.stat().st_mode & 0o777 == 0o700
    files = {file for file in directory.path.iterdir() if file.name != "free"}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert (directory.path / "free").stat().st_mode & 0o777 == 0o700


async def test_the_default_reserve_is_256_kib(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path, fsync="off")
    await writer.sync_and_close()
    writer.directory.close()

    assert writer._reserved.bytes_with(0) == 256 * 1024


async def test_the_default_segment_size_is_16_mib(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path, fsync="off")
    await writer.sync_and_close()
    writer.directory.close()

    assert writer.directory.segment(1).stat().st_size == 16 * 1024 * 1024
