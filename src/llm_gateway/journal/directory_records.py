"""Read the usage records of one journal directory; once they are stored, advance the checkpoint and free segments.

A segment is freed once it is read, closed and stored, and the other reader (`other_reader.py`) has read it. While the
writer lives, it is kept for the writer, which then writes over it (`free_segments.py`); otherwise it is deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.journal.frames import Entry
from llm_gateway.journal.other_reader import NO_READER, OtherReader, hold_from
from llm_gateway.journal.reader import SegmentReader
from llm_gateway.journal.record_assembler import RecordAssembler
from llm_gateway.journal.record_delivery import Quarantine
from llm_gateway.journal.segments import JournalDir, Log, Position


class DirectoryRecords:
    """Usage records of one journal directory, from the checkpoint on.

    The process may be killed at any moment: what is read then continues at the checkpoint, so that records which were
    stored and not passed by it are read again.
    """

    def __init__(
        self,
        directory: JournalDir,
        quarantine: Quarantine,
        *,
        log: Log,
        pause: Callable[[], None],
        other: OtherReader = NO_READER,
    ) -> None:
        """Start at the checkpoint.

        Args:
            directory: of the writer.
            quarantine: gets the entries that cannot be decoded.
            log: log of the gateway.
            pause: called after each chunk that was read.
            other: reads the journal, too.
        """
        self._directory = directory
        self._other = other
        self._log = log
        self._pause = pause
        self._quarantine = quarantine
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
        """The end of what was read."""
        return self._reader.position

    @property
    def open_requests(self) -> int:
        """Number of requests whose settle entry was not read yet."""
        return len(self._assembler)

    def read(self, limit: Position | None, room: int) -> list[UsageRecord]:
        """Read the next records: all there are, or at least `room` of them, and few more.

        `limit` as in SegmentReader.read.

        Raises:
            OSError: the journal cannot be read; what was read before is kept for the next call.
        """
        while len(self._records) < room and (entries := self._reader.read(limit)):
            self._records += self._assembler.add(self._reader.position.segment, entries)
            self._pause()
        records, self._records = self._records, []
        return records

    def abandon(self) -> list[UsageRecord]:
        """Close the open requests as crashed and return their records.

        Call it once `read` has returned everything, and only if the writer's process has ended.
        """
        return self._assembler.abandon()

    def stored(self, *, recycle: bool) -> None:
        """Advance the checkpoint to the end of what was read and free the segments before it: all of it is stored.

        `recycle`: the writer lives and writes over free segments.

        Raises:
            StoreUnavailable: an entry that cannot be decoded cannot be quarantined either; call again later.
        """
        while self._undecodable:
            entry, reason = self._undecodable[-1]
            self._quarantine.add(entry.request_id, reason, payload=entry.payload.decode("utf-8", "replace"))
            self._undecodable.pop()
        # Without a checkpoint (the disk may be full) records are sent again; freeing segments makes space.
        with suppress(OSError):
            self._keep_checkpoint()
        with suppress(OSError):
            self._free_segments(recycle=recycle)

    def make_space(self) -> None:
        """If the disk is short, delete the free segments: call it while records cannot be stored."""
        with suppress(OSError):  # there are no free segments, or the disk does not answer either
            if self._directory.free.is_disk_short():
                self._directory.free.clear()

    def close(self) -> None:
        """Close the segment that is being read."""
        self._reader.close()

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
