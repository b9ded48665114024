"""Transfer one journal directory to the database alone: read, deliver, advance the checkpoint, free segments."""

from __future__ import annotations

from collections.abc import Callable

from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.directory_records import DirectoryRecords
from llm_gateway.journal.other_reader import NO_READER, OtherReader
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
        quarantine = Quarantine(quarantine_file(directory.path.parents[1]), log)
        self._records = DirectoryRecords(directory, quarantine, log=log, pause=pause, other=other)
        self._delivery = RecordDelivery(sink, quarantine, pause)

    @property
    def position(self) -> Position:
        """The end of what was read; everything before it is delivered once `step` has returned."""
        return self._records.position

    @property
    def open_requests(self) -> int:
        """Number of requests whose settle entry was not read yet."""
        return self._records.open_requests

    def step(self, limit: Position | None) -> tuple[int, bool]:
        """Move the next batch. Returns (number of records moved, True if there may be more).

        `limit` as in SegmentReader.read.

        Raises:
            StoreUnavailable: the database does not answer; the next step continues from here.
            OSError: the journal cannot be read.
        """
        recycle = limit is not None
        self._deliver(recycle=recycle)
        records = self._records.read(limit, BATCH_RECORDS)
        moved = len(records)
        self._delivery.add(records)
        del records  # so that the delivery frees them, a few at a time
        self._deliver(recycle=recycle)
        return moved, moved >= BATCH_RECORDS

    def abandon(self) -> int:
        """Close the open requests as crashed and deliver their records. Returns how many there were.

        Call it once `step` has read everything, and only if the writer's process has ended.

        Raises:
            StoreUnavailable: the database does not answer; a new transfer delivers them.
        """
        records = self._records.abandon()
        self._delivery.add(records)
        self._deliver(recycle=False)
        return len(records)

    def close(self) -> None:
        """Close the segment that is being read."""
        self._records.close()

    def _deliver(self, *, recycle: bool) -> None:
        """Deliver what was read, then advance the checkpoint and free the segments before it."""
        try:
            self._delivery.run()
        except StoreUnavailable:
            self._records.make_space()
            raise
        self._records.stored(recycle=recycle)
