"""The writing end of the usage journal; its counterpart is `shipper.py`.

Lives on the event loop. An intent is in the kernel when `intent` returns, so before the first upstream byte; outcomes
and settles go out with the next write, at the latest at the end of this turn of the loop. Nothing that is in the kernel
is lost with the process; with fsync `always` nothing is lost with the machine either once `durable` returns.

A segment's space is allocated before it is used, and one segment is always ready ahead. When the disk is full, new
intents are refused while what is left of the segment suffices for the requests in flight. Requests that were never sent
(hits, refusals) take nothing from that: their records wait in memory, and only the latest of them if it lasts.
"""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self, TypeAlias

from llm_gateway.domain.messages import new_id
from llm_gateway.errors import ConfigurationError, JournalUnavailable
from llm_gateway.journal.frames import Kind, encode_frame
from llm_gateway.journal.segments import Files, Log, Position, WriterDir

Fsync: TypeAlias = Literal["always", "interval", "off"]

SEGMENT_BYTES = 16 * 1024 * 1024
RESERVE_BYTES = 256 * 1024
RESERVE_PER_ATTEMPT = 4 * 1024
"""What an attempt's outcome and settle may take beyond twice its intent."""
MOST_DEFERRED = 10_000

SYNC_EVERY_S = {"interval": 0.05, "always": 1.0}
"""How long entries that nobody waits for may stay unsynced."""
RETRY_S = 1.0
PATIENCE_S = 2.0
LAST_TRIES = 20

_REFUSED = "Usage cannot be recorded (the disk is full or failing), so no call is made."
_NOT_DURABLE = "The usage record of this answer could not be made durable."
_WRITE, _SPACE, _SYNC = "cannot be written", "has no space for its next segment", "cannot be synced"


def _no_log(*_event: object, **_fields: object) -> None:
    """For those who do not want to hear."""


class JournalWriter:
    """Appends entries to segments. Use it from one event loop only; the counters may be read from any thread.

    `appended` counts the entries handed over, `landed` those in the kernel, and `written` is the position they reach.
    """

    def __init__(self, directory: WriterDir, fsync: Fsync, *, segment_bytes: int, files: Files, log: Log) -> None:
        self.directory = directory
        self.name = directory.path.name
        self.appended = self.landed = 0
        self.written = Position(1, 0)
        self._fsync = fsync
        self._segment_bytes = segment_bytes
        self._files = files
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._number = 1
        self._fd = files.create(directory.segment(1), segment_bytes)
        self._offset = 0
        self._reserved: dict[str, int] = {}
        self._reserve = RESERVE_BYTES
        self._waiting: list[bytes] = []
        self._deferred: deque[bytes] = deque(maxlen=MOST_DEFERRED)
        self._dropped = 0
        self._flush_is_due = False
        self._retry: asyncio.TimerHandle | None = None
        self._not_durable: list[bytes] = []
        self._dirty: list[int] = []
        self._group: list[asyncio.Future[None]] = []
        self._syncing: list[asyncio.Future[None]] | None = None
        self._sync_timer: asyncio.TimerHandle | None = None
        self._syncs = 0
        self._watchdog: asyncio.TimerHandle | None = None
        self._closed = False
        self._spare: int | None = None
        self._spare_timer: asyncio.TimerHandle | None = None
        self._troubles: set[str] = set()
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
        log: Log = _no_log,
    ) -> Self:
        """A new writer with a directory of its own. Needs a running event loop.

        Raises:
            ConfigurationError: the directory or its first segment cannot be made.
        """
        path = data_dir / "journal" / new_id()
        directory = None
        try:
            directory = WriterDir(path)
            return cls(directory, fsync, segment_bytes=segment_bytes, files=files or Files(), log=log)
        except OSError as error:
            if directory is not None:
                with suppress(OSError):
                    directory.remove()
            raise ConfigurationError(
                f"The usage journal in {path.parent} cannot be written ({error.strerror}): free space, or set "
                "LLM_GATEWAY_DATA_DIR to a writable directory."
            ) from None

    def intent(self, request_id: str, payload: bytes) -> None:
        """An attempt is about to be sent; in the kernel when this returns.

        Raises:
            JournalUnavailable: it could not be, or what follows might not be: the attempt must not be sent. No trace
                of it is kept.
            ValueError: no segment can hold it.
        """
        if self._closed or self._is_refusing():
            raise JournalUnavailable(_REFUSED)
        frame = self._frame("I", request_id, payload)
        self._waiting.append(frame)
        self._flush()
        if self._waiting:
            self._waiting.pop()
            raise JournalUnavailable(_REFUSED)
        self.appended += 1
        reserve = RESERVE_PER_ATTEMPT + 2 * len(frame)
        self._reserved[request_id] = self._reserved.get(request_id, 0) + reserve
        self._reserve += reserve

    def outcome(self, request_id: str, payload: bytes) -> None:
        """An attempt ended.

        Raises:
            ValueError: no segment can hold it.
        """
        self._append(self._frame("O", request_id, payload))

    def settle(self, request_id: str, payload: bytes) -> None:
        """A request ended; `durable` waits for it, if it was sent.

        Raises:
            ValueError: no segment can hold it.
        """
        reserve = self._reserved.pop(request_id, None)
        self._reserve -= reserve or 0
        frame = self._frame("S", request_id, payload)
        if reserve is None and self._is_refusing():
            self._dropped += len(self._deferred) == MOST_DEFERRED
            self._deferred.append(frame)
        else:
            self._append(frame)

    async def durable(self) -> None:
        """Return once everything appended before is as durable as the fsync policy says.

        Raises:
            JournalUnavailable: it is not after 2 seconds; it stays in memory and is tried again.
        """
        if self._closed:
            raise JournalUnavailable(_NOT_DURABLE)
        if self._fsync != "always" and self._waiting:
            self._flush()
        if not self._waiting and (self._fsync != "always" or not self._not_durable):
            return
        future = self._loop.create_future()
        self._group.append(future)
        self._watch()
        self._flush_soon()
        await future

    async def sync_and_close(self) -> None:
        """Write and sync everything, and close the segments. The directory stays locked for whoever ships it.

        What cannot be written within 2 seconds is lost, and said so.
        """
        self._waiting.extend(self._deferred)
        self._deferred.clear()
        self._flush()
        for _ in range(LAST_TRIES):
            if not self._waiting:
                break
            await asyncio.sleep(PATIENCE_S / LAST_TRIES)
            self._flush()
        self._closed = True
        done = self._loop.create_future()
        fds = [*self._dirty, self._fd]
        self._jobs.put(lambda: self._tell(done.set_result, self._sync_all(fds)))
        self._jobs.put(None)
        failed = await done  # Whatever the worker did before has been told by then.
        self._worker.join()
        for handle in (self._retry, self._watchdog, self._sync_timer, self._spare_timer):
            if handle is not None:
                handle.cancel()
        for fd in fds if self._spare is None else [*fds, self._spare]:
            _close(fd)
        if failed is not None:
            self._trouble(_SYNC, failed)
        if self._waiting:
            self._log("usage entries could not be written and are lost", level="error", count=len(self._waiting))
        if failed is not None or self._waiting:
            _refuse(self._group)
        _resolve(self._group)

    def _frame(self, kind: Kind, request_id: str, payload: bytes) -> bytes:
        frame = encode_frame(kind, request_id, payload)
        if len(frame) > self._segment_bytes:
            raise ValueError(f"A usage entry of {len(frame)} bytes fits in no segment.")
        return frame

    def _append(self, frame: bytes) -> None:
        if self._closed:
            raise RuntimeError("The usage journal is closed.")
        self._waiting.append(frame)
        self.appended += 1
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _is_refusing(self) -> bool:
        """Whether nothing new may begin: writing fails, or what is left is for the requests in flight."""
        if self._retry is not None or self._spare is not None:
            return self._retry is not None
        return self._segment_bytes - self._offset - sum(map(len, self._waiting)) < self._reserve

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
                    raise OSError(errno.EIO, "short write")
            except OSError as error:
                self._trouble(_WRITE, error)
                if self._retry is None:
                    self._retry = self._loop.call_later(RETRY_S, self._try_again)
                return
            if self._fsync != "off":
                self._not_durable.extend(frames[:count])
            del frames[:count]
            self._offset += len(data)
            self.written = Position(self._number, self._offset)
            self.landed += count
            self._wrote()
        self._sync_soon()

    def _wrote(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._over(_WRITE)
        self._take_deferred()

    def _take_deferred(self) -> None:
        """Append what was deferred, once there is a whole segment for it."""
        if not self._deferred or self._spare is None or self._retry is not None or self._closed:
            return
        self._log(
            "deferred usage records are written", level="warning", count=len(self._deferred), dropped=self._dropped
        )
        self._dropped = 0
        while self._deferred:
            self._append(self._deferred.popleft())

    def _that_fit(self, frames: list[bytes]) -> tuple[int, bytes]:
        data = b"".join(frames)
        left = self._segment_bytes - self._offset
        if len(data) <= left:
            return len(frames), data
        count = 0
        while len(frames[count]) <= left:
            left -= len(frames[count])
            count += 1
        return count, b"".join(frames[:count])

    def _rotate(self) -> None:
        """Go on in the spare segment.

        Raises:
            OSError: there is none.
        """
        if self._spare is None:
            raise OSError(errno.ENOSPC, "no segment is ready")
        if self._fsync == "off":
            _close(self._fd)
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
                made: int | OSError = self._files.create(path, size)
            except OSError as error:
                made = error
            self._tell(self._spare_made, made)

        self._jobs.put(make)

    def _spare_made(self, made: int | OSError) -> None:
        if isinstance(made, int):
            self._spare = made
            self._over(_SPACE)
            self._take_deferred()
        elif not self._closed:
            self._trouble(_SPACE, made)
            self._spare_timer = self._loop.call_later(RETRY_S, self._make_spare)

    def _sync_soon(self) -> None:
        """After a write: who waits is told at once, or after the next sync; one sync runs at a time."""
        if self._closed:
            return
        if self._fsync != "always" and not self._waiting:
            _resolve(self._group)
        if self._fsync == "off" or self._syncing is not None:
            return
        if self._group and not self._waiting:
            self._sync()
        elif self._not_durable and self._sync_timer is None:
            self._sync_timer = self._loop.call_later(SYNC_EVERY_S[self._fsync], self._sync_in_time)

    def _sync_in_time(self) -> None:
        self._sync_timer = None
        if self._syncing is None and self._not_durable and not self._closed:
            self._sync()

    def _sync(self) -> None:
        """Hand the worker one sync, for everybody who waits and whose entries are written."""
        self._syncing = []
        if not self._waiting:
            self._syncing, self._group = self._group, []
        old, self._dirty = self._dirty, []
        current, covered = self._fd, len(self._not_durable)

        def sync() -> None:
            failed = self._sync_all([*old, current])
            for fd in old:
                _close(fd)
            self._tell(self._synced, covered, failed)

        self._jobs.put(sync)

    def _sync_all(self, fds: list[int]) -> OSError | None:
        """Sync, in the worker's thread. Returns the first failure; the others are synced all the same."""
        failed = None
        for fd in fds:
            try:
                self._files.sync(fd)
            except OSError as error:
                failed = failed or error
        return failed

    def _synced(self, covered: int, failed: OSError | None) -> None:
        waiters, self._syncing = self._syncing or [], None
        if failed is not None:
            self._trouble(_SYNC, failed)
            self._abandon_segment(waiters)
            return
        self._syncs += 1
        self._over(_SYNC)
        del self._not_durable[:covered]
        _resolve(waiters)
        self._sync_soon()

    def _abandon_segment(self, waiters: list[asyncio.Future[None]]) -> None:
        """A failed sync may have dropped what was written (fsync(2)): write all of it again, elsewhere."""
        self._group[:0] = waiters
        self._waiting[:0] = self._not_durable
        self.appended += len(self._not_durable)
        self._not_durable.clear()
        self._offset = self._segment_bytes
        if self._retry is None and not self._closed:
            self._retry = self._loop.call_later(RETRY_S, self._try_again)

    def _lose_patience(self, syncs_before: int) -> None:
        """Tell those who wait when nothing became durable for a while."""
        self._watchdog = None
        if self._syncs == syncs_before:
            _refuse(self._syncing or [])
            _refuse(self._group)
        if self._syncing or self._group:
            self._watch()

    def _watch(self) -> None:
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(PATIENCE_S, self._lose_patience, self._syncs)

    def _trouble(self, what: str, error: OSError) -> None:
        """Log a trouble once while it lasts."""
        if what not in self._troubles:
            self._troubles.add(what)
            self._log(f"the usage journal {what}", level="error", reason=str(error))

    def _over(self, what: str) -> None:
        if what in self._troubles:
            self._troubles.discard(what)
            self._log(f"over: the usage journal {what}", level="warning")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _tell(self, callback: Callable[..., object], *args: object) -> None:
        """Call back on the loop, from the worker's thread."""
        with suppress(RuntimeError):  # the loop is closed, and nobody is left to tell
            self._loop.call_soon_threadsafe(callback, *args)


def _close(fd: int) -> None:
    with suppress(OSError):  # the descriptor is gone all the same (close(2))
        os.close(fd)


def _resolve(waiters: list[asyncio.Future[None]]) -> None:
    for future in waiters:
        if not future.done():
            future.set_result(None)
    waiters.clear()


def _refuse(waiters: list[asyncio.Future[None]]) -> None:
    for future in waiters:
        if not future.done():
            future.set_exception(JournalUnavailable(_NOT_DURABLE))
    waiters.clear()
