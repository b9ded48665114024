"""Append usage entries to the journal: an intent before each upstream call, or refuse the call if the disk fails.

It runs on the event loop, and batches writes and syncs; `shipper.py` reads the entries. An intent is in the kernel when
`intent` returns, so before the first upstream byte; outcomes and settles are written at the end of the loop's turn.
What the kernel has survives the process; with fsync `always` what `durable` waited for survives the machine. (32
requests at once on uvloop: a `pwrite` per intent costs the same 1.4 µs as one per turn.)

             a waiter, or 50 ms
    writing -------------------> syncing        Writes go on during a sync. `sync_and_close` ends any state.
     ^ |  ^-------- synced -------' |
     | | write fails                | sync fails: what it covered is written again, in a new segment
     | '-------> blocked <----------'           Intents are refused.
     |            |   ^
     |      0.5 s |   | write or sync fails
     |            v   |
     '--------- failing                         Intents are refused while entries wait for a sync.
      a write succeeds; after a failed sync, which may have dropped what was written (fsync(2)), a sync succeeds.
      The reader may meet an entry twice then: it counts once by its id.

While no spare segment can be made (disk full), the rest of the current one is kept for requests in flight: new intents
are refused, and records of unbilled requests wait in a bounded memory buffer; also while the directory is misplaced.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Literal, Self, TypeAlias

from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import ConfigurationError, JournalUnavailable
from llm_gateway.journal.durability_waiters import PATIENCE_S, DurabilityWaiters
from llm_gateway.journal.frames import FRAME_BYTES, encode_entry, seal
from llm_gateway.journal.position_page import PAGE_NAME, PageWriter
from llm_gateway.journal.reserved_space import LARGE_INTENT_BYTES, ReservedSpace, UnbilledBuffer, promised_bytes
from llm_gateway.journal.segment_writer import RETRY_S, SegmentWriter, count_fitting, frames_bytes, prepare
from llm_gateway.journal.segments import FileSystem, Log, WriterDir, log_nothing

Fsync: TypeAlias = Literal["always", "interval", "off"]

SEGMENT_BYTES = 16 * 1024 * 1024
RESERVE_BYTES = 256 * 1024
"""Defaults of `open`."""

NO_CALL = "Usage cannot be recorded (the disk is full or failing), so no call is made."

INTERVAL_S = 0.05
"""Maximum seconds between a write and the start of its sync when nothing waits for it."""


class JournalWriter:
    """Appends entries to segments. Use it from one event loop only.

    `appended` is the number of entries accepted, in the kernel or not. Other threads and processes read the position
    in the directory's page (`position_page.py`).
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
        """Create the first segment in `directory`; parameters as in `open`, which turns an OSError into a message."""
        self.directory = directory
        self.name = directory.path.name
        self.segment_bytes = segment_bytes
        self.is_closed = False
        self.appended = 0
        self._fsync = fsync
        self._reserved = ReservedSpace(reserve_bytes)
        self._files = files
        self._log = log
        self._loop = asyncio.get_running_loop()
        page = directory.path / PAGE_NAME
        self._page = PageWriter(page, files.map_page(page))
        self._segments = SegmentWriter(
            directory,
            segment_bytes,
            files,
            durable=fsync == "always",
            log=log,
            on_spare=self._flush,
            is_synced=fsync != "off",
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
    ) -> Self:
        """Create a writer with its own new directory. Needs a running event loop.

        Without space for another segment, `reserve_bytes` of the current one are kept for requests in flight, or more
        if these can still write more. `durable` waits at most `patience_s` seconds.

        Raises:
            ConfigurationError: the directory or its first segment cannot be created.
        """
        path = data_dir / "journal" / new_id()
        try:
            directory = WriterDir.make(path, partial(prepare, segment_bytes=segment_bytes))
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
        """Write the intent of an attempt before it is sent; when this returns, the kernel has the entry.

        Raises:
            JournalUnavailable: the write failed, or later entries might find no space: the attempt must not be sent.
        """
        self._check_open()
        entry = encode_entry("I", request_id, payload)
        size = FRAME_BYTES + len(entry)
        promise = promised_bytes(size)
        if self._is_short(size, promise):
            raise JournalUnavailable(NO_CALL, retry_after_s=5)
        self._append(entry)
        self._reserved.promise(request_id, promise)
        turn_end = self._loop.create_future()
        self._turn.append(turn_end)
        self._flush_soon()
        try:
            await turn_end
        finally:
            is_written = entry not in self._waiting
            if not is_written:
                self._forget(entry)
                self._reserved.withdraw(request_id, promise)
        if not is_written:
            raise JournalUnavailable(NO_CALL, retry_after_s=5)

    def outcome(self, request_id: str, payload: bytes) -> None:
        """Append the outcome of an attempt, after it ended."""
        self._check_open()
        self._append(encode_entry("O", request_id, payload))
        self._flush_soon()

    def settle(self, request_id: str, payload: bytes) -> None:
        """Append the finished record of a request; await `durable` before the client gets the end of its answer.

        The record of an unbilled request (cache hit, refusal) takes no space from requests in flight: without space it
        waits in memory, and later ones behind it, of which each lets the oldest go if there is space for itself. Beyond
        8 MiB such records are dropped and the log counts them.
        """
        self._check_open()
        entry, unbilled = encode_entry("S", request_id, payload), self._unbilled
        is_next = self._reserved.redeem(request_id) or not (unbilled or self._is_short(FRAME_BYTES + len(entry)))
        for each in [entry] if is_next else unbilled.exchange(entry, self._is_short):
            self._append(each)
        self._flush_soon()

    async def durable(self) -> None:
        """Return once everything appended so far is as durable as the fsync policy requires.

        Raises:
            JournalUnavailable: that takes more than `patience_s` seconds; entries stay in memory and are tried again.
        """
        if self._durable_entries() < self.appended:
            await self._wait()

    async def sync_and_close(self) -> None:
        """Write and sync everything within `patience_s` seconds, then unlock the directory for the shipper."""
        if self.is_closed:
            return
        self.is_closed = True
        self._append_unbilled()
        self._flush()
        try:
            if self._waiting or self._unsynced:
                await self._wait()
        except JournalUnavailable:
            self._log(
                "the usage journal was closed before its last entries were durable",
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
        self._page.close()
        self.directory.close()

    @property
    def is_writable(self) -> bool:
        """True if an intent of usual size would be accepted now. For the event loop only."""
        return not (self.is_closed or self._is_short(LARGE_INTENT_BYTES, promised_bytes(LARGE_INTENT_BYTES)))

    def _check_open(self) -> None:
        if self.is_closed:
            raise RuntimeError("The usage journal is closed.")

    def _is_short(self, size: int, promise: int = 0) -> bool:
        """Return True if `size` bytes now and `promise` bytes later would use space of the requests in flight."""
        if self._is_blocked or (self._has_lost_sync and (self._waiting or self._unsynced)):
            return True
        if not self._segments.has_failed or self._segments.is_misplaced:
            return self._segments.is_misplaced
        free = self._segments.room - frames_bytes(self._waiting)
        return free - size < self._reserved.bytes_with(promise)

    def _append(self, entry: bytes) -> None:
        if FRAME_BYTES + len(entry) > self._segments.segment_bytes:
            raise ValueError("A journal entry is larger than a segment.")
        self._waiting.append(entry)
        self.appended += 1

    def _forget(self, entry: bytes) -> None:
        """Remove an entry that is not written yet."""
        index = self._waiting.index(entry)
        self._durability_waiters.lower(self.appended - len(self._waiting) + index + 1)
        del self._waiting[index]
        self.appended -= 1
        self._page.publish_counts(self.appended - len(self._waiting), self.appended)

    def _append_unbilled(self) -> None:
        entries, lost = self._unbilled.take()
        if lost:
            self._log("usage records of unbilled requests were dropped: the disk was full", level="error", count=lost)
        self._waiting += entries
        self.appended += len(entries)

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write the waiting entries, complete the futures that wait for the write, and start a sync if one is due."""
        self._is_flush_due = False
        self._write()
        turn, self._turn = self._turn, []
        for turn_end in turn:
            if not turn_end.done():
                turn_end.set_result(None)
        if self._unbilled and self._segments.is_disk_ample and not self._is_short(self._unbilled.bytes):
            self._append_unbilled()
            self._write()
        self._durability_waiters.release(self._durable_entries())
        if not self._is_syncing:
            self._sync_soon()

    def _write(self) -> None:
        """Write the waiting entries, one write per segment; after an error they stay and are tried again."""
        try:
            while self._waiting:
                self._write_some()
        except OSError as error:
            self._failed("the usage journal cannot be written", error)

    def _write_some(self) -> None:
        """Write the waiting entries that fit into the current segment, or rotate if the first does not fit."""
        waiting, segments, count = self._waiting, self._segments, 0 if self._must_rotate else len(self._waiting)
        if count and frames_bytes(waiting) > segments.room:
            count = count_fitting(waiting, segments.room)
        if not count:
            self._rotate()
            return
        number = segments.number
        if count == 1:
            segments.write(seal(waiting[0], number))
        else:
            segments.write(b"".join([seal(entry, number) for entry in waiting[:count]]))
        if self._fsync != "off":
            self._unsynced += waiting[:count]
        del waiting[:count]
        if self._is_failing and not self._has_lost_sync:
            self._recovered()
        self._page.publish(number, segments.offset, self.appended - len(waiting), self.appended)

    def _rotate(self) -> None:
        before = self._segments.rotate()
        if self._must_rotate or self._fsync == "off":
            self._segments.discard([before])
        else:
            self._retired.append(before)
        self._must_rotate = False

    def _failed(self, event: str, error: OSError) -> None:
        """Refuse new intents until the next try, in half a second; log the first of a series of errors."""
        self._is_blocked = True
        self._page.publish_counts(self.appended - len(self._waiting), self.appended)
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
        """Sync at once if `durable` is awaited, else within INTERVAL_S."""
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
        """Start to sync everything written so far; segments that are full and not synced yet, too."""
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
            self._has_lost_sync = self._must_rotate = True
            self._segments.distrust()
            self._failed("the usage journal cannot be synced", failed)
        self._durability_waiters.release(self._durable_entries())
        self._sync_soon()

    def _durable_entries(self) -> int:
        """Return the number of entries that are as durable as the fsync policy requires."""
        unsynced = len(self._unsynced) if self._fsync == "always" or self.is_closed else 0
        return self.appended - len(self._waiting) - unsynced

    async def _wait(self) -> None:
        durable = self._durability_waiters.wait(self.appended)
        self._flush_soon()
        try:
            await durable
        finally:
            del durable  # a future holds the exception it raised here, whose traceback holds this frame
