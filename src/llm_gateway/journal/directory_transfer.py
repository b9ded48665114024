"""Transfer one journal directory to the database: read, assemble, deliver, advance the checkpoint, free segments.

A segment is freed once it is read, closed and stored, and the other reader (`other_reader.py`) has read it. While the
writer lives, it is kept for the writer, which then writes over it (`free_segments.py`); otherwise it is deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.frames import Entry
from llm_gateway.journal.other_reader import NO_READER, OtherReader, hold_from
from llm_gateway.journal.reader import SegmentReader
from llm_gateway.journal.record_assembler import RecordAssembler
from llm_gateway.journal.record_delivery import BATCH_RECORDS, Quarantine, RecordDelivery, Sink, quarantine_file
from llm_gateway.journal.segments import JournalDir, Log, Position


class DirectoryTransfer:
    """Transfer of one journal directory's usage records to the sink.

    The process may be killed at any moment: a new transfer continues at the checkpoint, and the sink counts a record
    that it receives twice only once.
    """

    def __init__(
        self,
        directory: JournalDir,
        sink: Sink,
        *,
        log: Log,
        pause: Callable[[], None] = lambda: None,
        other: OtherReader = NO_READER,
    ) -> None:
        """Start at the checkpoint. `pause` is called after each chunk that was read."""
        self._directory = directory
        self._other = other
        self._log = log
        self._pause = pause
        self._quarantine = Quarantine(quarantine_file(directory.path.parents[1]), log)
        self._delivery = RecordDelivery(sink, self._quarantine, pause)
        self._undecodable: list[tuple[Entry, str]] = []
        self._assembler = RecordAssembler(
            directory.path.name, lambda entry, reason: self._undecodable.append((entry, reason))
        )
        self._reader = SegmentReader(directory, self._on_damage)
        self._records: list[UsageRecord] = []
        self._kept = self._reader.position
        self._segment = 0

    @property
    def position(self) -> Position:
        """The end of what was read; everything before it is delivered once `step` has returned."""
        return self._reader.position

    @property
    def open_requests(self) -> int:
        """Number of requests whose settle entry was not read yet."""
        return len(self._assembler)

    def step(self, limit: Position | None) -> tuple[int, bool]:
        """Move the next batch. Returns (number of records moved, True if there may be more).

        `limit` as in SegmentReader.read.

        Raises:
            StoreUnavailable: the database does not answer; the next step continues from here.
            OSError: the journal cannot be read.
        """
        is_living = limit is not None
        self._deliver(recycle=is_living)
        while len(self._records) < BATCH_RECORDS and (entries := self._reader.read(limit)):
            segment = self._reader.position.segment
            for entry in entries:
                record = self._assembler.add(segment, entry)
                if record is not None:
                    self._records.append(record)
            self._pause()
        records, self._records = self._records, []
        moved = len(records)
        self._delivery.add(records)
        del records  # so that the delivery frees them, a few at a time
        self._deliver(recycle=is_living)
        return moved, moved >= BATCH_RECORDS

    def abandon(self) -> int:
        """Close the open requests as crashed and deliver their records. Returns how many there were.

        Call it once `step` has read everything, and only if the writer's process has ended.

        Raises:
            StoreUnavailable: the database does not answer; a new transfer delivers them.
        """
        records = self._assembler.abandon()
        self._delivery.add(records)
        self._store()
        return len(records)

    def close(self) -> None:
        """Close the segment that is being read."""
        self._reader.close()

    def _deliver(self, *, recycle: bool) -> None:
        """Deliver what was read, then advance the checkpoint and free the segments before it."""
        self._store()
        # Without a checkpoint (the disk may be full) records are sent again; freeing segments makes space.
        with suppress(OSError):
            self._keep_checkpoint()
        with suppress(OSError):
            self._free_segments(recycle=recycle)

    def _store(self) -> None:
        try:
            self._delivery.run()
        except StoreUnavailable:
            with suppress(OSError):  # there are no free segments, or the disk does not answer either
                if self._directory.free.is_disk_short():
                    self._directory.free.clear()
            raise
        while self._undecodable:
            entry, reason = self._undecodable[-1]
            self._quarantine.add(entry.request_id, reason, payload=entry.payload.decode("utf-8", "replace"))
            self._undecodable.pop()

    def _keep_checkpoint(self) -> None:
        restart = self._assembler.restart(self._reader.position)
        if restart != self._kept:
            self._directory.keep_checkpoint(restart)
            self._kept = restart

    def _free_segments(self, *, recycle: bool) -> None:
        here = self._reader.position.segment
        if here == self._segment:
            return
        held_from = hold_from(self._other, self._directory, here)
        done = [number for number in self._directory.segments() if number < here]
        needed = {*self._assembler.segments(), *range(held_from, here)}
        for number in done:
            segment = self._directory.segment(number)
            if number not in needed and not (recycle and self._directory.free.add(segment)):
                segment.unlink(missing_ok=True)
        if needed.isdisjoint(done):
            self._segment = here

    def _on_damage(self, file: Path, offset: int, size: int) -> None:
        kept = self._directory.path.with_name(f"{self._directory.path.name}-{file.name}.damaged")
        with suppress(OSError):  # the copy exists already, or the disk is full: then the log line has to do
            kept.hardlink_to(file)
        self._log(
            "the usage journal is damaged",
            level="error",
            file=str(file),
            offset=offset,
            bytes=size,
            kept=str(kept),
        )
