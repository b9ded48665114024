"""The writer on a disk that is full or failing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.errors import JournalUnavailable
from llm_gateway.journal.frames import scan
from llm_gateway.journal.writer import RESERVE_PER_REQUEST, UNBILLED_BYTES, Fsync, JournalWriter, Written
from tests.journal.samples import FailingFiles, Heard, frame, intent, request_id, settled, until

Open = Callable[..., JournalWriter]
ALWAYS = -1


@pytest.fixture
def files() -> FailingFiles:
    return FailingFiles()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def open_writer(tmp_path: Path, files: FailingFiles, heard: Heard) -> AsyncIterator[Open]:
    writers: list[JournalWriter] = []

    def open_(fsync: Fsync = "always", **options: Any) -> JournalWriter:
        options = {"segment_bytes": 100_000, "reserve_bytes": 1000} | options
        writers.append(JournalWriter.open(tmp_path, fsync=fsync, files=files, log=heard, **options))
        return writers[-1]

    yield open_
    files.fails.clear()
    for writer in writers:
        await writer.sync_and_close()
        writer.directory.close()
    assert files.open_fds == set()


def on_disk(writer: JournalWriter) -> list[tuple[str, int]]:
    return [
        (entry.kind, int(entry.request_id[-12:]))
        for number in writer.directory.segments()
        for entry in scan(writer.directory.segment(number).read_bytes()).entries
    ]


def accepts(writer: JournalWriter, number: int) -> bool:
    refused: JournalUnavailable | None = None
    try:
        writer.intent(request_id(number), intent(number))
    except JournalUnavailable as error:
        refused = error
    if refused is not None:
        assert refused.retry_after_s == 5
        assert refused.detail == "Usage cannot be recorded (the disk is full or failing), so no call is made."
    return refused is None


async def full_disk(open_writer: Open, files: FailingFiles, reserve: int) -> JournalWriter:
    """A writer with one segment of 100,000 bytes and no space for another."""
    open_files_fail = files.create

    def only_first(path: Path, size: int, *, durable: bool) -> int:
        fd = open_files_fail(path, size, durable=durable)
        files.fails["create"] = ALWAYS
        return fd

    files.create = only_first  # type: ignore[method-assign]
    writer = open_writer(reserve_bytes=reserve)
    del files.create
    await until(lambda: writer._tape.has_failed)
    return writer


async def test_without_space_intents_are_refused_down_to_the_reserve(
    open_writer: Open, files: FailingFiles, heard: Heard
) -> None:
    writer = await full_disk(open_writer, files, reserve=40_000)
    size, number = len(frame("I", 1, intent(1))), 0
    while accepts(writer, number):
        writer.settle(request_id(number), b"{}")
        await writer.durable()
        number += 1

    room = 100_000 - writer.written.offset
    assert 40_000 - size - 60 <= room < 40_000
    assert writer.written.entries == writer.appended == 2 * number
    assert heard.names() == ["no space for the usage journal's next segment"]


async def test_each_request_in_flight_has_space_set_aside(open_writer: Open, files: FailingFiles) -> None:
    writer = await full_disk(open_writer, files, reserve=0)
    accepted = 0
    while accepts(writer, accepted):
        accepted += 1

    assert accepted == 12
    for number in range(accepted):
        writer.outcome(request_id(number), b"x" * (RESERVE_PER_REQUEST // 2))
        writer.settle(request_id(number), settled(number))
        await writer.durable()
    assert len(on_disk(writer)) == 3 * accepted


async def test_new_requests_begin_again_when_there_is_space(open_writer: Open, files: FailingFiles) -> None:
    writer = await full_disk(open_writer, files, reserve=200_000)
    assert not accepts(writer, 1)

    files.fails.clear()
    await until(lambda: accepts(writer, 2), timeout_s=2)

    assert on_disk(writer) == [("I", 2)]


async def test_records_that_bought_nothing_leave_the_reserve_alone(
    open_writer: Open, files: FailingFiles, heard: Heard
) -> None:
    writer = await full_disk(open_writer, files, reserve=99_000)
    assert accepts(writer, 1)
    writer.settle(request_id(2), settled(2))
    while accepts(writer, 3):
        pass
    before = writer.written.entries
    many = UNBILLED_BYTES // len(frame("S", 0, settled(0))) + 3
    for number in range(10, 10 + many):
        writer.settle(request_id(number), settled(number))
    writer.settle(request_id(1), settled(1))
    await asyncio.wait_for(writer.durable(), 1)
    assert writer.written.entries == before + 1
    assert writer.appended == before + 1

    files.fails.clear()
    writer._tape.segment_bytes = 16 * 1024 * 1024
    await until(lambda: writer.written.entries == before + 1 + many - 3)

    assert ("records of requests that bought nothing were dropped", {"level": "error", "count": 3}) in heard.events
    assert accepts(writer, 4)


async def test_a_write_that_fails_refuses_the_intent_and_forgets_it(
    open_writer: Open, files: FailingFiles, heard: Heard
) -> None:
    writer = open_writer("off")
    files.fails["write"] = 1

    assert not accepts(writer, 1)
    assert not accepts(writer, 2)
    assert writer.appended == 0
    await until(lambda: accepts(writer, 3), timeout_s=2)

    assert on_disk(writer) == [("I", 3)]
    assert heard.events == [
        ("the usage journal cannot be written", {"level": "error", "reason": "[Errno 28] No space left on device"}),
        ("the usage journal is written again", {}),
    ]


@pytest.mark.parametrize("fsync", ["always", "interval", "off"])
async def test_entries_wait_in_memory_and_are_written_in_order(
    open_writer: Open, files: FailingFiles, fsync: Fsync
) -> None:
    writer = open_writer(fsync)
    assert accepts(writer, 1)
    files.fails["write"] = ALWAYS
    writer.outcome(request_id(1), b"{}")
    await asyncio.sleep(0.01)
    assert writer.written.entries == 1
    files.fails.clear()
    writer.settle(request_id(1), settled(1))

    await asyncio.wait_for(writer.durable(), 1.5)

    assert on_disk(writer) == [("I", 1), ("O", 1), ("S", 1)]
    assert writer.written.entries == writer.appended == 3


async def test_who_waits_too_long_is_told_and_the_entry_stays(
    open_writer: Open, files: FailingFiles, heard: Heard
) -> None:
    writer = open_writer("always", patience_s=0.7)
    assert accepts(writer, 1)
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
    assert not accepts(writer, 2)

    files.fails.clear()
    await until(lambda: writer.written.entries == 2)

    assert on_disk(writer) == [("I", 1), ("S", 1)]
    assert heard.names() == ["the usage journal cannot be written", "the usage journal is written again"]


async def test_a_short_write_goes_on_where_it_ended(open_writer: Open, files: FailingFiles) -> None:
    writer = open_writer("off")
    files.most_at_once = 100
    assert accepts(writer, 1)
    writer.settle(request_id(1), settled(1))
    await writer.durable()

    assert on_disk(writer) == [("I", 1), ("S", 1)]


@pytest.mark.parametrize("fsync", ["always", "interval"])
async def test_after_a_failed_sync_everything_is_written_again_elsewhere(
    open_writer: Open, files: FailingFiles, heard: Heard, fsync: Fsync
) -> None:
    writer = open_writer(fsync)
    assert accepts(writer, 1)
    await until(lambda: files.syncs == 1 and not writer._unsynced)
    files.fails["sync"] = 1
    writer.outcome(request_id(1), b"{}")
    writer.settle(request_id(1), settled(1))
    await writer.durable()
    await until(lambda: files.syncs == 3)

    second = scan(writer.directory.segment(2).read_bytes()).entries
    assert [entry.kind for entry in second] == ["O", "S"]
    assert writer.written == Written(2, second[-1].end, 3)
    await until(lambda: accepts(writer, 2))
    assert heard.events == [
        ("the usage journal cannot be synced", {"level": "error", "reason": "[Errno 5] Input/output error"}),
        ("the usage journal is written again", {}),
    ]


async def test_while_syncs_fail_nothing_new_begins(open_writer: Open, files: FailingFiles, heard: Heard) -> None:
    writer = open_writer("always", patience_s=0.7)
    assert accepts(writer, 1)
    files.fails["sync"] = ALWAYS
    writer.settle(request_id(1), settled(1))
    with pytest.raises(JournalUnavailable, match="could not be made durable"):
        await writer.durable()
    for _ in range(30):
        assert not accepts(writer, 2)
        await asyncio.sleep(0.02)

    files.fails.clear()
    await until(lambda: accepts(writer, 3), timeout_s=2)

    assert set(on_disk(writer)) == {("I", 1), ("S", 1), ("I", 3)}
    assert writer.written.entries == writer.appended == 3
    assert heard.names() == ["the usage journal cannot be synced", "the usage journal is written again"]


async def test_a_failed_sync_of_nothing_does_not_stop_the_writer_for_ever(
    open_writer: Open, files: FailingFiles
) -> None:
    writer = open_writer("always")
    files.fails["sync"] = 1
    writer._retired.append(files.create(writer.directory.segment(9), 10, durable=False))
    writer._sync_later()

    await until(lambda: files.syncs == 1)
    await until(lambda: accepts(writer, 1), timeout_s=2)


async def test_closing_a_journal_that_cannot_be_written_says_what_is_lost(
    open_writer: Open, files: FailingFiles, heard: Heard
) -> None:
    writer = open_writer("always", patience_s=0.1)
    assert accepts(writer, 1)
    files.fails["write"] = ALWAYS
    writer.settle(request_id(1), settled(1))

    await writer.sync_and_close()

    assert heard.events[-1] == (
        "the usage journal is closed before its last entries are safe",
        {"level": "error", "unwritten": 1, "unsynced": 0},
    )
    assert on_disk(writer) == [("I", 1)]


async def test_closing_writes_what_waited_for_space(open_writer: Open, files: FailingFiles) -> None:
    writer = await full_disk(open_writer, files, reserve=200_000)
    writer.settle(request_id(1), settled(1))
    await asyncio.sleep(0.01)
    assert on_disk(writer) == []

    await writer.sync_and_close()

    assert on_disk(writer) == [("S", 1)]


LIMITED = """
import asyncio, json, resource, sys
from pathlib import Path
from llm_gateway.errors import JournalUnavailable
from llm_gateway.journal.writer import JournalWriter

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

async def main():
    writer = JournalWriter.open(Path(sys.argv[1]), fsync="always", segment_bytes=100_000, reserve_bytes=40_000)
    limit(50_000)  # no segment can be made from here on, and what is beyond it in this one cannot be written
    accepted = refused = settled = late = 0
    await asyncio.sleep(0.2)
    for number in range(200):
        name = f"{number:036d}"
        try:
            writer.intent(name, b"x" * 2000)
        except JournalUnavailable:
            refused += 1
            continue
        accepted += 1
        writer.settle(name, b"{}")
        try:
            await writer.durable()
            settled += 1
        except JournalUnavailable:
            late += 1
    limit(resource.RLIM_INFINITY)
    began = asyncio.get_running_loop().time()
    while True:
        await asyncio.sleep(0.05)
        try:
            writer.intent("y" * 36, b"x")
            break
        except JournalUnavailable:
            pass
    recovered_s = asyncio.get_running_loop().time() - began
    writer.settle("y" * 36, b"{}")
    await writer.sync_and_close()
    print(json.dumps([accepted, refused, settled, late, writer.written.entries, recovered_s]))

asyncio.run(main())
"""


def test_a_real_limit_on_files(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False, timeout=30
    )

    assert run.stderr == ""
    accepted, refused, settled_, late, entries, recovered_s = json.loads(run.stdout)
    assert accepted + refused == 200
    assert accepted > 10
    assert refused > 100
    assert settled_ + late == accepted
    assert late <= 1
    assert entries == 2 * accepted + 2
    assert recovered_s < 5
