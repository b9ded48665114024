"""The writing end of the usage journal; its counterpart is `shipper.py`.

Lives on the event loop. An intent is in the kernel when `intent` returns, so before the first upstream byte; outcomes
and settles go out with the next write, at the latest at the end of this turn of the loop. Nothing that is in the kernel
is lost with the process; with fsync `always` nothing is lost with the machine either once `durable` returns.

A segment's space is allocated before it is used, and one segment is always ready ahead. When the disk is full, new
intents are refused while what is left of the segment suffices for the requests in flight.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self, TypeAlias

from llm_gateway.domain.messages import new_id
from llm_gateway.errors import ConfigurationError, JournalUnavailable
from llm_gateway.journal.frames import encode_frame
from llm_gateway.journal.segments import Files, Position, WriterDir

Fsync: TypeAlias = Literal["always", "interval", "off"]

SEGMENT_BYTES = 16 * 1024 * 1024
RESERVE_BYTES = 256 * 1024
RESERVE_PER_REQUEST = 6 * 1024
"""What the outcome and settle of a request in flight may still take."""

INTERVAL_S = 0.05
RETRY_S = 1.0
PATIENCE_S = 2.0


class JournalWriter:
    """Appends entries to segments. Use it from one event loop only; `written` may be read from any thread.

    `written` is the position up to which entries are in the kernel.
    """

    def __init__(self, directory: WriterDir, fsync: Fsync, *, segment_bytes: int, files: Files) -> None:
        self.directory = directory
        self.name = directory.path.name
        self._fsync = fsync
        self._segment_bytes = segment_bytes
        self._files = files
        self._loop = asyncio.get_running_loop()
        self._number = 1
        self._fd = files.create(directory.segment(1), segment_bytes)
        self._offset = 0
        self.written = Position(1, 0)
        self._open: set[str] = set()
        self._waiting: list[bytes] = []
        self._flush_is_due = False
        self._retry: asyncio.TimerHandle | None = None
        self._not_durable: list[bytes] = []
        self._dirty: list[int] = []
        self._group: list[asyncio.Future[None]] = []
        self._syncing: list[asyncio.Future[None]] | None = None
        self._interval: asyncio.TimerHandle | None = None
        self._syncs = 0
        self._watchdog: asyncio.TimerHandle | None = None
        self._closed = False
        self._spare: int | None = None
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="journal-sync", daemon=True)
        self._worker.start()
        self._make_spare()

    @classmethod
    def open(
        cls,
        data_dir: Path,
        *,
        fsync: Fsync,
        segment_bytes: int = SEGMENT_BYTES,
        files: Files | None = None,
    ) -> Self:
        """A new writer with a directory of its own. Needs a running event loop.

        Raises:
            ConfigurationError: the directory or its first segment cannot be made.
        """
        path = data_dir / "journal" / new_id()
        try:
            return cls(WriterDir(path), fsync, segment_bytes=segment_bytes, files=files or Files())
        except OSError as error:
            raise ConfigurationError(
                f"The usage journal in {path.parent} cannot be written ({error.strerror}): free space, or set "
                "LLM_GATEWAY_DATA_DIR to a writable directory."
            ) from None

    def intent(self, request_id: str, payload: bytes) -> None:
        """An attempt is about to be sent; in the kernel when this returns.

        Raises:
            JournalUnavailable: it could not be, or what follows might not be: the attempt must not be sent.
        """
        if self._retry is not None or (self._spare is None and self._is_short()):
            raise JournalUnavailable("Usage cannot be recorded (the disk is full or failing), so no call is made.")
        self._waiting.append(encode_frame("I", request_id, payload))
        self._open.add(request_id)
        self._flush()
        if self._waiting:
            raise JournalUnavailable("Usage cannot be recorded (the disk is full or failing), so no call is made.")

    def outcome(self, request_id: str, payload: bytes) -> None:
        """An attempt ended."""
        self._append(encode_frame("O", request_id, payload))

    def settle(self, request_id: str, payload: bytes) -> None:
        """A request ended; `durable` waits for it."""
        self._open.discard(request_id)
        self._append(encode_frame("S", request_id, payload))

    async def durable(self) -> None:
        """Return once everything appended before is as durable as the fsync policy says.

        Raises:
            JournalUnavailable: it is not after 2 seconds; it stays in memory and is tried again.
        """
        if self._fsync != "always":
            if self._waiting:
                self._flush()
            if not self._waiting:
                return
        future = self._loop.create_future()
        self._group.append(future)
        self._watch()
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)
        await future

    async def sync_and_close(self) -> None:
        """Write and sync everything, and close the segments. The directory stays locked for whoever ships it."""
        self._flush()
        self._closed = True
        done = self._loop.create_future()
        fds = [*self._dirty, self._fd]

        def finish() -> None:
            for fd in fds:
                try:
                    self._files.sync(fd)
                finally:
                    os.close(fd)
            if self._spare is not None:
                os.close(self._spare)
            self._loop.call_soon_threadsafe(done.set_result, None)

        self._jobs.put(finish)
        self._jobs.put(None)
        await done
        for handle in (self._retry, self._watchdog, self._interval):
            if handle is not None:
                handle.cancel()
        self._worker.join()

    def _append(self, frame: bytes) -> None:
        if self._closed:
            raise RuntimeError("The usage journal is closed.")
        self._waiting.append(frame)
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _is_short(self) -> bool:
        left = self._segment_bytes - self._offset
        return left < RESERVE_BYTES + RESERVE_PER_REQUEST * len(self._open)

    def _flush(self) -> None:
        """Write what waits, in as few writes as segments allow; what fails stays and is tried again."""
        self._flush_is_due = False
        frames = self._waiting
        while frames and not self._closed:
            count, data = self._that_fit(frames)
            try:
                if not count:
                    self._rotate()
                    continue
                if self._files.write(self._fd, data, self._offset) != len(data):
                    raise OSError("short write")
            except OSError:
                if self._retry is None:
                    self._retry = self._loop.call_later(RETRY_S, self._try_again)
                return
            if self._fsync == "always":
                self._not_durable.extend(frames[:count])
            del frames[:count]
            self._offset += len(data)
            self.written = Position(self._number, self._offset)
        self._sync_soon()

    def _that_fit(self, frames: list[bytes]) -> tuple[int, bytes]:
        data = b"".join(frames)
        left = self._segment_bytes - self._offset
        if len(data) <= left:
            return len(frames), data
        size = 0
        for count, frame in enumerate(frames):
            size += len(frame)
            if size > left:
                return count, b"".join(frames[:count])
        return len(frames), data

    def _rotate(self) -> None:
        """Go on in the spare segment.

        Raises:
            OSError: there is none.
        """
        if self._spare is None:
            raise OSError("no segment is ready")
        if self._fsync == "off":
            os.close(self._fd)
        else:
            self._dirty.append(self._fd)
        self._fd, self._spare = self._spare, None
        self._number += 1
        self._offset = 0
        self._make_spare()

    def _try_again(self) -> None:
        self._retry = None
        self._flush()

    def _make_spare(self) -> None:
        path, size = self.directory.segment(self._number + 1), self._segment_bytes

        def make() -> None:
            try:
                fd: int | None = self._files.create(path, size)
            except OSError:
                fd = None
            self._loop.call_soon_threadsafe(self._spare_made, fd)

        self._jobs.put(make)

    def _spare_made(self, fd: int | None) -> None:
        if fd is None and not self._closed:
            self._loop.call_later(RETRY_S, self._make_spare)
        elif self._closed and fd is not None:
            os.close(fd)
        else:
            self._spare = fd

    def _sync_soon(self) -> None:
        """After a write: who waits is told at once, or after the next sync; one sync runs at a time."""
        if self._fsync != "always":
            _resolve(self._group)
            if self._fsync == "interval" and self._interval is None and self._syncing is None:
                self._interval = self._loop.call_later(INTERVAL_S, self._sync)
        elif self._syncing is None and self._group and not self._waiting:
            self._sync()

    def _sync(self) -> None:
        """Hand the worker one sync, for everybody who waits."""
        self._interval = None
        self._syncing, self._group = self._group, []
        old, self._dirty = self._dirty, []
        current, covered, upto = self._fd, len(self._not_durable), self.written

        def sync() -> None:
            failed: OSError | None = None
            try:
                for fd in (*old, current):
                    self._files.sync(fd)
            except OSError as error:
                failed = error
            for fd in old:
                os.close(fd)
            self._loop.call_soon_threadsafe(self._synced, covered, upto, failed)

        self._jobs.put(sync)

    def _synced(self, covered: int, upto: Position, failed: OSError | None) -> None:
        waiters, self._syncing = self._syncing or [], None
        self._syncs += 1
        if failed is not None:
            self._abandon_segment(waiters)
            return
        del self._not_durable[:covered]
        _resolve(waiters)
        if self._group or self.written != upto:
            self._sync_soon()

    def _abandon_segment(self, waiters: list[asyncio.Future[None]]) -> None:
        """A failed sync may have dropped what was written (fsync(2)): write all of it again, elsewhere."""
        self._group[:0] = waiters
        self._waiting[:0] = self._not_durable
        self._not_durable.clear()
        self._offset = self._segment_bytes
        if self._retry is None and not self._closed:
            self._retry = self._loop.call_later(RETRY_S, self._try_again)

    def _lose_patience(self, syncs_before: int) -> None:
        """Tell those who wait when nothing became durable for a while."""
        self._watchdog = None
        waiters = [*(self._syncing or ()), *self._group]
        if not waiters:
            return
        if self._syncs == syncs_before:
            self._group.clear()
            unavailable = JournalUnavailable("The usage record of this answer could not be made durable.")
            for future in waiters:
                if not future.done():
                    future.set_exception(unavailable)
        self._watch()

    def _watch(self) -> None:
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(PATIENCE_S, self._lose_patience, self._syncs)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _resolve(waiters: list[asyncio.Future[None]]) -> None:
    for future in waiters:
        if not future.done():
            future.set_result(None)
    waiters.clear()
