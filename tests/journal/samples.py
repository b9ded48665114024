"""Sample records, sample journals, and a file system and a database that fail on command."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm_gateway.domain.usage import AttemptRecord, CostStatus, Price, Usage, UsageRecord, encode_record
from llm_gateway.errors import RecordsRefused
from llm_gateway.journal.frames import Kind, encode_frame, seal
from llm_gateway.journal.libuv_fdatasync import LibuvPool
from llm_gateway.journal.position_page import PageReader, WrittenPosition
from llm_gateway.journal.segments import FileSystem, Log, WriterDir
from llm_gateway.journal.sync import PoolSyncer, Syncer, ThreadSyncer
from llm_gateway.journal.writer import JournalWriter

HEAD_BYTES = 51
"""Number of bytes of an entry before its payload."""
PRICE = Price(input=((0, 1_000_000_000),), output=((0, 2_000_000_000),))


def request_id(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012d}"


def attempt(name: str, *, cost_status: CostStatus = "estimated", output_tokens: int = 100) -> AttemptRecord:
    return AttemptRecord(
        id=f"attempt-{name}",
        provider_id=f"id-{name}",
        provider=f"provider-{name}",
        kind="openai",
        model=f"model-{name}",
        started_ms=1_700_000_000_000,
        reserved_tokens=110,
        usage=Usage(input_tokens=10, output_tokens=output_tokens),
        price=PRICE,
        cost_nanos=10_000 + 2_000 * output_tokens,
        cost_status=cost_status,
    )


def record(number: int, *attempts: AttemptRecord, **fields: Any) -> UsageRecord:
    plain: dict[str, Any] = {
        "id": request_id(number),
        "at_ms": 1_700_000_000_000,
        "instance": "instance",
        "key_name": "key",
        "user_id": "customer",
        "service": "service",
        "task_type": "general",
        "surface": "generate",
        "attempts": list(attempts),
    }
    return UsageRecord(**(plain | fields))


def settled(number: int) -> bytes:
    return encode_record(record(number, outcome="ok", status=200))


def intent(number: int, name: str = "a") -> bytes:
    return encode_record(record(number, attempt(name)))


def frame(kind: Kind, number: int, payload: bytes) -> bytes:
    return encode_frame(kind, request_id(number), payload)


def settled_frames(numbers: range) -> bytes:
    """Return the entries of whole requests, an intent and a settle each."""
    return b"".join(frame("I", n, intent(n)) + frame("S", n, settled(n)) for n in numbers)


def resealed(content: bytes, segment: int) -> bytes:
    """Return the content of a first segment as it would stand in another one; damage stays as it is."""
    lines = content.split(b"\n")
    for index, line in enumerate(lines):
        if line + b"\n" == seal(line[12:], 1):
            lines[index] = seal(line[12:], segment)[:-1]
    return b"\n".join(lines)


def left_behind(data_dir: Path, segments: dict[int, bytes], *, writer: str = "writer", zeros: int = 1000) -> Path:
    """Make a journal directory as a killed writer leaves it. Returns its path."""
    path = data_dir / "journal" / writer
    path.mkdir(parents=True, exist_ok=True)
    for number, content in segments.items():
        (path / f"{number:06d}.seg").write_bytes(resealed(content, number) + bytes(zeros))
    return path


def locked(data_dir: Path, segments: dict[int, bytes], *, zeros: int = 1000) -> WriterDir:
    return WriterDir(left_behind(data_dir, segments, zeros=zeros))


def open_files() -> int:
    """Return the number of files that this process holds open."""
    return len(list(Path("/dev/fd").iterdir()))


def open_below(path: Path) -> int:
    """Return the number of files that this process holds open below a directory, deleted ones included."""
    count = 0
    for descriptor in Path("/dev/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor that lists them
            count += str(descriptor.readlink()).startswith(str(path))
    return count


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait until the condition is true."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition depends on threads and files
            await asyncio.sleep(0.002)


def written(writer: JournalWriter) -> WrittenPosition:
    """Return the position that the writer has published."""
    page = PageReader(writer.directory.path)
    try:
        return page.read().written
    finally:
        page.close()


class Heard:
    """A log that keeps its events in a list."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def names(self) -> list[str]:
        return [event for event, _ in self.events]


class Database:
    """A sink that stores each record once and fails on command.

    It raises `is_down` or the first error of `before`, refuses the ids in `refused`, or stores the batch and then
    raises the first error of `after`.
    """

    def __init__(self) -> None:
        self.stored: dict[str, UsageRecord] = {}
        self.batches: list[list[str]] = []
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self.refused: set[str] = set()
        self.is_down: Exception | None = None

    def __call__(self, records: list[UsageRecord]) -> None:
        self.batches.append([record.id for record in records])
        if self.is_down is not None:
            raise self.is_down
        if self.before:
            raise self.before.pop(0)
        if self.refused & {record.id for record in records}:
            raise RecordsRefused("a value is out of range")
        for record in records:
            self.stored.setdefault(record.id, record)
        if self.after:
            raise self.after.pop(0)

    def numbers(self) -> list[int]:
        return sorted(int(key[-12:]) for key in self.stored)


class FailingFileSystem(FileSystem):
    """A file system that counts writes and syncs, and fails the calls in `fails`; syncs wait for `syncs_allowed`.

    `in_pool`: sync in the C threads of the event loop, else in a Python thread.
    """

    def __init__(self, *, in_pool: bool = False) -> None:
        self.in_pool = in_pool
        self.writes: list[bytes] = []
        self.syncs = 0
        self.created: list[str] = []
        self.reused: list[tuple[str, str]] = []
        self.open_fds: set[int] = set()
        self.fails: dict[str, int] = {}
        self.most_at_once: int | None = None
        self.syncs_allowed = threading.Event()
        self.syncs_allowed.set()

    def create(self, path: Path, size: int, *, durable: bool) -> int:
        self._fail("create")
        fd = super().create(path, size, durable=durable)
        self.created.append(path.name)
        self.open_fds.add(fd)
        return fd

    def reuse(self, free: Path, path: Path, size: int, *, is_synced: bool) -> int:
        self._fail("reuse")
        fd = super().reuse(free, path, size, is_synced=is_synced)
        self.reused.append((free.name, path.name))
        self.open_fds.add(fd)
        return fd

    def write(self, fd: int, data: bytes, offset: int) -> int:
        self._fail("write")
        self.writes.append(data)
        return super().write(fd, data[: self.most_at_once], offset)

    def sync(self, fd: int) -> None:
        if not self.syncs_allowed.wait(10):
            raise TimeoutError
        self.syncs += 1
        self._fail("sync")
        super().sync(fd)

    def syncer(self, log: Log) -> Syncer:
        if self.in_pool:
            return PoolSyncer(FailingPool(self))
        return ThreadSyncer(self.sync)

    def fails_now(self, call: str) -> bool:
        try:
            self._fail(call)
        except OSError:
            return True
        return False

    def close(self, fd: int) -> None:
        self.open_fds.remove(fd)
        super().close(fd)

    def _fail(self, call: str) -> None:
        """Raise while `fails[call]`, the number of calls that still fail, is not 0; below 0 all calls fail."""
        left = self.fails.get(call, 0)
        if left:
            self.fails[call] = left - 1
            code = errno.EIO if call == "sync" else errno.ENOSPC
            raise OSError(code, os.strerror(code))


class FailingPool(LibuvPool):
    """C threads whose syncs fail and are delayed like those of `files`."""

    def __init__(self, files: FailingFileSystem) -> None:
        super().__init__(asyncio.get_running_loop())
        self._files = files

    def fdatasync(self, fd: int, ended: Callable[[int], None]) -> None:
        self._files.syncs += 1

        def end(result: int) -> None:
            ended(-errno.EIO if self._files.fails_now("sync") else result)

        if self._files.syncs_allowed.is_set():
            super().fdatasync(fd, end)
        else:
            threading.Thread(target=self._sync_later, args=[fd, end, asyncio.get_running_loop()], daemon=True).start()

    def _sync_later(self, fd: int, end: Callable[[int], None], loop: asyncio.AbstractEventLoop) -> None:
        assert self._files.syncs_allowed.wait(10)
        loop.call_soon_threadsafe(super().fdatasync, fd, end)
