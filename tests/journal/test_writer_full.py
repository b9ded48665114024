"""The journal writer on a full disk."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from llm_gateway.journal.reserved_space import UNBILLED_BYTES, promised_bytes
from tests.journal.disk import Open, accepts, full_disk, on_disk, refuses, until_async
from tests.journal.samples import FailingFileSystem, Heard, frame, intent, request_id, settled, until, written


async def test_without_space_intents_are_refused_down_to_the_reserve(
    open_writer: Open, files: FailingFileSystem, heard: Heard
) -> None:
    writer = await full_disk(open_writer, files, reserve=40_000)
    size, number = len(frame("I", 1, intent(1))), 0
    while await accepts(writer, number):
        writer.settle(request_id(number), b"{}")
        await writer.durable()
        number += 1

    room = 100_000 - written(writer).offset
    assert 40_000 <= room < 40_000 + size
    assert written(writer).entries == writer.appended == 2 * number
    assert heard.names() == ["no space for the usage journal's next segment"]


@pytest.mark.parametrize("more", [0, 1])
async def test_the_reserve_is_kept_to_the_byte(open_writer: Open, files: FailingFileSystem, more: int) -> None:
    size = len(frame("I", 1, intent(1)))
    writer = await full_disk(open_writer, files, reserve=100_000 - size + more)

    assert await accepts(writer, 1) == (more == 0)


async def test_each_request_in_flight_has_reserved_space(open_writer: Open, files: FailingFileSystem) -> None:
    writer = await full_disk(open_writer, files, reserve=0)
    accepted = 0
    while await accepts(writer, accepted):
        accepted += 1

    size = len(frame("I", 1, intent(1)))
    promise = promised_bytes(size)
    assert accepted == 100_000 // (promise + size) == 3
    for number in range(accepted):
        writer.outcome(request_id(number), b"x" * (promise // 2 - 100))
        writer.settle(request_id(number), b"x" * (promise // 2 - 100))
        await writer.durable()
    assert len(on_disk(writer)) == 3 * accepted


async def test_entries_waiting_to_be_written_count_as_used_space(open_writer: Open, files: FailingFileSystem) -> None:
    size = len(frame("I", 1, intent(1)))
    writer = await full_disk(open_writer, files, reserve=0)
    assert await accepts(writer, 1)
    writer.settle(request_id(1), b"x" * (100_000 - promised_bytes(size) - 2 * size))

    assert not await accepts(writer, 2)

    assert len(writer._waiting) == 1
    await writer.durable()
    assert len(on_disk(writer)) == 2


async def test_a_settle_larger_than_was_promised_waits_for_space(open_writer: Open, files: FailingFileSystem) -> None:
    writer = await full_disk(open_writer, files, reserve=0)
    assert await accepts(writer, 1)
    assert await accepts(writer, 2)
    writer.settle(request_id(1), b"x" * 99_000)
    writer.settle(request_id(2), settled(2))
    await until_async(lambda: refuses(writer, 3))
    assert on_disk(writer) == [("I", 1), ("I", 2)]

    files.fails.clear()
    await until(lambda: written(writer).entries == 4)

    assert on_disk(writer) == [("I", 1), ("I", 2), ("S", 1), ("S", 2)]


async def test_intents_are_accepted_again_once_there_is_space(open_writer: Open, files: FailingFileSystem) -> None:
    writer = await full_disk(open_writer, files, reserve=200_000)
    assert not await accepts(writer, 1)

    files.fails.clear()
    await until_async(lambda: accepts(writer, 2), timeout_s=2)

    assert on_disk(writer) == [("I", 2)]


async def test_unbilled_records_do_not_use_the_reserve(
    open_writer: Open, files: FailingFileSystem, heard: Heard
) -> None:
    writer = await full_disk(open_writer, files, reserve=99_000)
    assert await accepts(writer, 1)
    writer.settle(request_id(2), settled(2))
    while await accepts(writer, 3):
        pass
    before = writer.appended
    many = UNBILLED_BYTES // len(frame("S", 0, settled(0))) + 3
    for number in range(10, 10 + many):
        writer.settle(request_id(number), settled(number))
    writer.settle(request_id(1), settled(1))
    await asyncio.wait_for(writer.durable(), 1)
    assert written(writer).entries == before + 1
    assert writer.appended == before + 1

    files.fails.clear()
    writer._segments.segment_bytes = 16 * 1024 * 1024
    await until(lambda: written(writer).entries == before + 1 + many - 3)

    assert (
        "usage records of unbilled requests were dropped: the disk was full",
        {"level": "error", "count": 3},
    ) in heard.events
    assert await accepts(writer, 4)


async def test_unbilled_records_are_written_in_their_order_while_little_space_is_free(
    open_writer: Open, files: FailingFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_gateway.journal.segment_writer.is_disk_ample", lambda _: False)
    writer = await full_disk(open_writer, files, reserve=200_000)
    for number in (1, 2, 3):
        writer.settle(request_id(number), settled(number))
    files.fails.clear()
    await until(lambda: not writer._segments.has_failed)
    assert writer.appended == 0
    for number in (4, 5):
        writer.settle(request_id(number), settled(number))
    await writer.durable()

    assert on_disk(writer) == [("S", 1), ("S", 2)]

    await writer.sync_and_close()
    assert on_disk(writer) == [("S", number) for number in (1, 2, 3, 4, 5)]


async def test_closing_writes_buffered_unbilled_records(open_writer: Open, files: FailingFileSystem) -> None:
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
from llm_gateway.journal.position_page import PageReader
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
            await writer.intent(name, b"x" * 2000)
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
            await writer.intent("y" * 36, b"x")
            break
        except JournalUnavailable:
            pass
    recovered_s = asyncio.get_running_loop().time() - began
    writer.settle("y" * 36, b"{}")
    await writer.sync_and_close()
    written = PageReader(writer.directory.path).read().written
    print(json.dumps([accepted, refused, settled, late, written.entries, recovered_s]))

asyncio.run(main())
"""


def test_a_file_size_limit_of_the_system_counts_as_a_full_disk(tmp_path: Path) -> None:
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


async def test_a_writer_is_writable_only_while_intents_are_accepted(
    open_writer: Open, files: FailingFileSystem
) -> None:
    writer = await full_disk(open_writer, files, reserve=40_000)
    number = 0
    while await accepts(writer, number):
        writer.settle(request_id(number), b"{}")
        await writer.durable()
        number += 1
    assert not writer.is_writable

    files.fails.clear()
    await until(lambda: writer.is_writable, timeout_s=2)

    assert await accepts(writer, number)
