"""Helpers for tests of the journal writer on a full or failing disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from llm_gateway.errors import JournalUnavailable
from llm_gateway.journal.frames import scan
from llm_gateway.journal.writer import JournalWriter
from tests.journal.samples import FailingFileSystem, intent, request_id, until

Open = Callable[..., JournalWriter]
ALWAYS = -1
"""Value of `FailingFileSystem.fails` that makes every call fail."""


def on_disk(writer: JournalWriter) -> list[tuple[str, int]]:
    return [
        (entry.kind, int(entry.request_id[-12:]))
        for number in writer.directory.segments()
        for entry in scan(writer.directory.segment(number).read_bytes(), segment=number).entries
    ]


async def accepts(writer: JournalWriter, number: int) -> bool:
    refused: JournalUnavailable | None = None
    try:
        await writer.intent(request_id(number), intent(number))
    except JournalUnavailable as error:
        refused = error
    if refused is not None:
        assert refused.retry_after_s == 5
        assert refused.detail == "Usage cannot be recorded (the disk is full or failing), so no call is made."
    return refused is None


async def refuses(writer: JournalWriter, number: int) -> bool:
    return not await accepts(writer, number)


async def until_async(condition: Callable[[], Awaitable[bool]], timeout_s: float = 5.0) -> None:
    """Wait until the condition is true."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - the condition depends on threads and files
            await asyncio.sleep(0.002)


async def full_disk(open_writer: Open, files: FailingFileSystem, reserve: int) -> JournalWriter:
    """Return a writer with one segment of 100,000 bytes and no space for another."""
    open_files_fail = files.create

    def only_first(path: Path, size: int, *, durable: bool) -> int:
        fd = open_files_fail(path, size, durable=durable)
        files.fails["create"] = ALWAYS
        return fd

    files.create = only_first  # type: ignore[method-assign]
    writer = open_writer(reserve_bytes=reserve)
    del files.create
    await until(lambda: writer._segments.has_failed)
    return writer
