"""The writing end of the usage journal; its counterpart is `shipper.py`.

Lives on the event loop. An intent is in the kernel when `intent` returns, so before the first upstream byte; outcomes
and settles go out with the next write, at the latest at the end of this turn of the loop. What is in the kernel
survives the process; with fsync `always` what `durable` waited for survives the machine. (With 32 requests at once on
uvloop a `pwrite` per intent and a future per intent, for one write a turn, cost the same 1.4 µs: intents do not wait.)

A failed sync may have dropped what was written (fsync(2)), whatever the next one says: everything since the last good
sync is written again, in another segment. The reader may then meet an entry twice, which counts once by its id.

While no further segment can be made (the disk is full), what is left of the one in use belongs to the requests in
flight: new intents are refused, and records that bought nothing wait in memory, as far as they fit.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Literal, TypeAlias

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import ConfigurationError, JournalUnavailable
from llm_gateway.journal.durability_waiters import DurabilityWaiters
from llm_gateway.journal.frames import encode_frame
from llm_gateway.journal.reserved_space import ReservedSpace, UnbilledBuffer, promised_bytes
from llm_gateway.journal.segment_writer import RETRY_S, SegmentWriter
from llm_gateway.journal.segments import FileSystem, Log, WriterDir, WrittenPosition, log_nothing

Fsync: TypeAlias = Literal["always", "interval", "off"]

SEGMENT_BYTES = 16 * 1024 * 1024
RESERVE_BYTES = 256 * 1024

MOST_REMEMBERED = 5_000
"""Records that wait for the shipper as objects too; beyond them it reads what is in the files."""

LARGE_INTENT_BYTES = 16 * 1024
"""No usual intent is larger, so `is_writable` ends a little before intents are refused."""

NO_CALL = "Usage cannot be recorded (the disk is full or failing), so no call is made."

INTERVAL_S = 0.05
PATIENCE_S = 2.0


class JournalWriter:
    """Appends entries to segments. Use it from one event loop only.

    `written` and `appended` (entries taken, in the kernel or not) may be read from any thread.
    """

    def __init__(
        self,
        directory: WriterDir,
        fsync: Fsync,
        *,
        segment_bytes: int,
        reserve_bytes: int,
        patience_s: float,
        files: FileSystem,
        log: Log,
    ) -> None:
        """Begin the first segment in `directory`; the rest as in `open`.

        Raises:
            OSError: it cannot be made.
        """
        self.directory = directory
        self.name = directory.path.name
        self.segment_bytes = segment_bytes
        self.is_closed = False
        self.appended = 0
        self.recent: dict[str, UsageRecord] = {}
        self.written = WrittenPosition(1, 0, 0)
        self._fsync = fsync
        self._reserved = ReservedSpace(reserve_bytes)
        self._files = files
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._segments = SegmentWriter(
            directory, segment_bytes, files, durable=fsync == "always", log=log, on_spare=self._flush
        )
        self._syncer = files.syncer(log)
        self._waiting: list[bytes] = []
        self._unsynced: list[bytes] = []
        self._retired: list[int] = []
        self._durability_waiters = DurabilityWaiters(patience_s)
        self._turn: list[asyncio.Future[None]] = []
        self._unbilled = UnbilledBuffer()
        self._is_flush_due = self._is_syncing = self._must_rotate = False
        self._is_failing = self._is_blocked = self._has_lost_sync = False
        self._retry: asyncio.TimerHandle | None = None
        self._interval: asyncio.TimerHandle | None = None

    @classmethod
    def open(
        cls,
        data_dir: Path,
        *,
        fsync: Fsync,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
        patience_s: float = PATIENCE_S,
        files: FileSystem | None = None,
        log: Log = log_nothing,
    ) -> JournalWriter:
        """A new writer with a directory of its own. Needs a running event loop.

        `reserve_bytes` of a segment are kept for the requests in flight when there is no space for another segment,
        more when what they can still write is more. `durable` waits `patience_s` seconds at most.

        Raises:
            ConfigurationError: the directory or its first segment cannot be made.
        """
        path = data_dir / "journal" / new_id()
        try:
            directory = WriterDir.make(path)
            try:
                return cls(
                    directory,
                    fsync,
                    segment_bytes=segment_bytes,
                    reserve_bytes=reserve_bytes,
                    patience_s=patience_s,
                    files=files or FileSystem(),
                    log=log,
                )
            except OSError:
                directory.remove()
                raise
        except OSError as error:
            raise ConfigurationError(
                f"The usage journal in {path.parent} cannot be written ({error.strerror}): free space, or set "
                "LLM_GATEWAY_DATA_DIR to a writable directory."
            ) from None

    async def intent(self, request_id: str, payload: bytes) -> None:
        """An attempt is about to be sent; in the kernel when this returns, with all that came in its turn of the loop.

        Raises:
            JournalUnavailable: it is not, or what follows might find no space: the attempt must not be sent.
        """
        self._check_open()
        frame = encode_frame("I", request_id, payload)
        promise = promised_bytes(len(frame))
        if self._is_short(len(frame), promise):
            raise JournalUnavailable(NO_CALL, retry_after_s=5)
        self._append(frame)
        self._reserved.promise(request_id, promise)
        turn_end = self._loop.create_future()
        self._turn.append(turn_end)
        self._flush_soon()
        try:
            await turn_end
        finally:
            is_written = frame not in self._waiting
            if not is_written:
                self._forget(frame)
                self._reserved.withdraw(request_id, promise)
        if not is_written:
            raise JournalUnavailable(NO_CALL, retry_after_s=5)

    def outcome(self, request_id: str, payload: bytes) -> None:
        """An attempt ended."""
        self._check_open()
        self._append(encode_frame("O", request_id, payload))
        self._flush_soon()

    def settle(self, request_id: str, payload: bytes) -> None:
        """A request ended; `durable` waits for it.

        One that bought nothing (a hit, a refusal) does not take space from those in flight: without space it waits in
        memory, and is dropped, counted in the log, when there are too many.
        """
        self._check_open()
        frame = encode_frame("S", request_id, payload)
        if not self._reserved.redeem(request_id) and self._is_short(len(frame)):
            self._unbilled.add(frame)
            return
        self._append(frame)
        self._flush_soon()

    def remember(self, record: UsageRecord) -> None:
        """Spare the shipper decoding this record, which was just settled: it takes it from `recent`, by its id."""
        if len(self.recent) >= MOST_REMEMBERED:
            self.recent.clear()
        self.recent[record.id] = record

    async def durable(self) -> None:
        """Return once everything appended before is as durable as the fsync policy says.

        Raises:
            JournalUnavailable: it is not in time (2 seconds); it stays in memory and is tried again.
        """
        if self._durable_entries() < self.appended:
            await self._wait()

    async def sync_and_close(self) -> None:
        """Write and sync everything, as far as that goes in time. The directory stays locked for whoever ships it."""
        if self.is_closed:
            return
        self.is_closed = True
        self._take_aside()
        self._flush()
        try:
            if self._waiting or self._unsynced:
                await self._wait()
        except JournalUnavailable:
            self._log(
                "the usage journal is closed before its last entries are safe",
                level="error",
                unwritten=len(self._waiting),
                unsynced=len(self._unsynced),
            )
        await self._syncer.close()
        self._durability_waiters.close()
        for timer in (self._retry, self._interval):
            if timer is not None:
                timer.cancel()
        self._segments.discard(self._retired)
        await self._segments.close()

    @property
    def is_writable(self) -> bool:
        """Whether any usual intent would be accepted now. For the event loop only."""
        return not (self.is_closed or self._is_short(LARGE_INTENT_BYTES, promised_bytes(LARGE_INTENT_BYTES)))

    def _check_open(self) -> None:
        if self.is_closed:
            raise RuntimeError("The usage journal is closed.")

    def _is_short(self, size: int, promise: int = 0) -> bool:
        """Whether `size` more bytes, and a promise of more, would take what belongs to the requests in flight."""
        if self._is_blocked or (self._has_lost_sync and (self._waiting or self._unsynced)):
            return True
        if not self._segments.has_failed:
            return False
        free = self._segments.room - sum(map(len, self._waiting))
        return free - size < self._reserved.bytes_with(promise)

    def _append(self, frame: bytes) -> None:
        if len(frame) > self._segments.segment_bytes:
            raise ValueError("A journal entry is larger than a segment.")
        self._waiting.append(frame)
        self.appended += 1

    def _forget(self, frame: bytes) -> None:
        """Take back an entry that is not written yet."""
        index = self._waiting.index(frame)
        self._durability_waiters.lower(self.appended - len(self._waiting) + index + 1)
        del self._waiting[index]
        self.appended -= 1

    def _take_aside(self) -> None:
        frames, lost = self._unbilled.take()
        if lost:
            self._log("records of requests that bought nothing were dropped", level="error", count=lost)
        self._waiting += frames
        self.appended += len(frames)

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what waits; tell and sync for those who wait for it."""
        self._is_flush_due = False
        self._write()
        turn, self._turn = self._turn, []
        for turn_end in turn:
            if not turn_end.done():
                turn_end.set_result(None)
        if self._unbilled and not self._is_short(self._unbilled.bytes):
            self._take_aside()
            self._write()
        self._durability_waiters.release(self._durable_entries())
        if not self._is_syncing:
            self._sync_soon()

    def _write(self) -> None:
        """Write what waits, in as few writes as segments allow; what fails stays and is tried again."""
        try:
            while self._waiting:
                self._write_some()
        except OSError as error:
            self._failed("the usage journal cannot be written", error)

    def _write_some(self) -> None:
        frames = self._waiting
        count, data = len(frames), frames[0] if len(frames) == 1 else b"".join(frames)
        if self._must_rotate:
            count = 0
        elif len(data) > self._segments.room:
            count = _how_many(frames, self._segments.room)
            data = b"".join(frames[:count])
        if not count:
            self._rotate()
            return
        self._segments.write(data)
        if self._fsync != "off":
            self._unsynced += frames[:count]
        del frames[:count]
        if self._is_failing and not self._has_lost_sync:
            self._recovered()
        self.written = WrittenPosition(self._segments.number, self._segments.offset, self.appended - len(frames))

    def _rotate(self) -> None:
        before = self._segments.rotate()
        if self._must_rotate or self._fsync == "off":
            self._segments.discard([before])
        else:
            self._retired.append(before)
        self._must_rotate = False

    def _failed(self, event: str, error: OSError) -> None:
        """Nothing new begins until the next try."""
        self._is_blocked = True
        if not self._is_failing:
            self._is_failing = True
            self._log(event, level="error", reason=str(error))
        if self._retry is None:
            self._retry = self._loop.call_later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        try:
            if not (self._waiting or self._must_rotate):
                self._segments.try_to_write()
        except OSError as error:
            self._failed("the usage journal cannot be written", error)
            return
        self._is_blocked = False
        self._flush()

    def _recovered(self) -> None:
        self._is_failing = self._is_blocked = False
        self._log("the usage journal is written again")

    def _sync_soon(self) -> None:
        """Sync at once when somebody waits for it, else within the interval."""
        if self._durability_waiters and self._unsynced and (self._fsync == "always" or self.is_closed):
            self._sync()
        elif self._interval is None:
            self._sync_later()

    def _sync_later(self) -> None:
        if self._unsynced or self._retired:
            self._interval = self._loop.call_later(INTERVAL_S, self._sync_in_time)

    def _sync_in_time(self) -> None:
        self._interval = None
        if not self._is_syncing and (self._unsynced or self._retired):
            self._sync()

    def _sync(self) -> None:
        """Begin to make everything written so far durable."""
        self._is_syncing = True
        retired, self._retired = self._retired, []
        fds = [*retired] if self._must_rotate else [*retired, self._segments.fd]
        self._syncer.sync(fds, partial(self._synced, len(self._unsynced), retired))

    def _synced(self, covered: int, retired: list[int], failed: OSError | None) -> None:
        self._segments.discard(retired)
        self._is_syncing = False
        if failed is None:
            del self._unsynced[:covered]
            if self._has_lost_sync and covered:
                self._has_lost_sync = False
                self._recovered()
        else:
            self._waiting[:0] = self._unsynced
            self._unsynced.clear()
            self.written = self.written._replace(entries=self.appended - len(self._waiting))
            self._has_lost_sync = self._must_rotate = True
            self._failed("the usage journal cannot be synced", failed)
        self._durability_waiters.release(self._durable_entries())
        self._sync_soon()

    def _durable_entries(self) -> int:
        """How many entries are as durable as they are to be."""
        unsynced = len(self._unsynced) if self._fsync == "always" or self.is_closed else 0
        return self.appended - len(self._waiting) - unsynced

    async def _wait(self) -> None:
        durable = self._durability_waiters.wait(self.appended)
        self._flush_soon()
        try:
            await durable
        finally:
            del durable  # a future holds the exception it raised here, whose traceback holds this frame


def _how_many(frames: list[bytes], room: int) -> int:
    """How many of the first frames fit into so many bytes."""
    return bisect_right(list(accumulate(map(len, frames))), room)
