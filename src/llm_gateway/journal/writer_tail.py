"""Follow the journal of one writer, of this process or another, and take its directory over once the writer has ended.

    following -- the lock is free --> adopted -- everything is stored --> finished
      |   ^                            |   ^
      '---' read up to the             '---' read up to the end of the last segment,
            published position               then close the open requests as crashed, and delete the directory (or leave
                                       it to the other reader, `other_reader.py`)

The shipper stores what `read` returned, and then calls `advance`.

While the writer lives nothing beyond its published position is read: zeros, an entry that is being written and damage
could not be told apart there. A writer whose page cannot be read is not followed: its records wait until it has ended.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.journal.directory_records import DirectoryRecords
from llm_gateway.journal.other_reader import NO_READER, OtherReader
from llm_gateway.journal.position_page import PAGE_NAME, PageReader, PageUnreadable, Published
from llm_gateway.journal.record_delivery import Quarantine
from llm_gateway.journal.segments import START, LockableDir, Log, Position

MOST_LOOKS = 10_000
"""Positions remembered of a backlog; those of the oldest looks are dropped first."""


class ShippingLag(NamedTuple):
    """Lag of the database behind the journal: size in bytes, and the age of the oldest missing entry in seconds."""

    size: int
    seconds: float


class WriterTail:
    """Tail of one writer's directory, for the shipper's thread; `lag` may be called from others until `close`."""

    def __init__(
        self,
        path: Path,
        quarantine: Quarantine,
        *,
        log: Log,
        pause: Callable[[], None],
        other: OtherReader = NO_READER,
    ) -> None:
        """Follow the writer with the directory `path`. `log` never raises; the rest as in DirectoryRecords.

        Raises:
            OSError: the directory's lock file cannot be opened.
        """
        self._directory = LockableDir(path)
        self._is_adopted = self._directory.lock()
        self.is_finished = False
        self._quarantine = quarantine
        self._log = log
        self._pause = pause
        self._other = other
        self._page: PageReader | None = None
        self._is_unreadable = False
        self._records: DirectoryRecords | None = None
        self._is_more = False
        self._read_at = 0.0
        self._cut_off = 0
        self._shipped = 0
        self._moved = START
        self._looks: deque[tuple[Position, int]] = deque(maxlen=MOST_LOOKS)
        self._complete_at = time.monotonic()

    def read(self, room: int) -> list[UsageRecord]:
        """Read the next records, as DirectoryRecords.read does. Call `advance` once they are stored.

        Raises:
            OSError: the journal or the page cannot be read; call `restart`.
        """
        self._read_at = time.monotonic()
        self._is_more = False
        self._is_adopted = self._is_adopted or self._directory.lock()
        limit: Position | None = None
        if not self._is_adopted:
            published = self._published()
            if published is None:
                return []
            segment, offset, entries = published.written
            limit = Position(segment, offset)
            self._looks.append((limit, entries))
        if self._records is None:
            self._records = DirectoryRecords(
                self._directory, self._quarantine, log=self._log, pause=self._pause, other=self._other
            )
        records = self._records.read(limit, room)
        self._is_more = len(records) >= room
        if self._is_adopted and not self._is_more:
            cut_off = self._records.abandon()
            self._cut_off = len(cut_off)
            records += cut_off
        return records

    def advance(self) -> bool:
        """Go on behind what was read, since all of it is stored. Returns True if there may be more.

        Raises:
            StoreUnavailable: an entry cannot be quarantined; call again later.
        """
        if self._records is None:
            return False
        self._records.stored(recycle=not self._is_adopted)
        self._moved = self._records.position
        if not self._is_adopted:
            self._count_shipped()
        elif not self._is_more:
            self._finish()
        return self._is_more

    def make_space(self) -> None:
        """If the disk is short, delete the free segments: call it while records cannot be stored."""
        if self._records is not None:
            self._records.make_space()

    def appended(self) -> int | None:
        """Return the number of entries that the writer has accepted so far; 0 if its page cannot be read.

        None while a failing disk keeps the writer from publishing the number: ask again later.
        """
        published = self._published()
        if published is None or self._page is None or self._is_adopted:
            return 0 if published is None else published.appended
        return None if self._page.is_behind() else self._page.read().appended

    def has_shipped(self, entries: int) -> bool:
        """Return True if the first `entries` entries are in the database, or all that there ever will be."""
        if self._is_adopted:
            return self.is_finished
        published = self._published()
        return published is not None and self._shipped >= min(entries, published.appended)

    @property
    def segment(self) -> int:
        """Number of the segment up to which everything is stored."""
        return self._moved.segment

    @property
    def shipped(self) -> int:
        """Number of the writer's entries from which all finished requests are in the database."""
        return self._shipped

    def is_complete(self) -> bool:
        """Return True if every entry that the writer has accepted is in the database. Opens no file."""
        published = None if self._page is None else self._page.read()
        if self._is_adopted:  # what it had accepted and not written is lost
            return self.is_finished and (published is None or published.written.entries >= published.appended)
        return published is not None and self._shipped >= published.appended

    def lag(self) -> ShippingLag:
        """Return how much of this writer's journal is not in the database yet."""
        seconds = time.monotonic() - self._complete_at
        if self._page is None:
            return ShippingLag(1, seconds) if self._is_unreadable or self._is_adopted else ShippingLag(0, 0.0)
        written = self._page.read().written
        if self._shipped >= written.entries:
            return ShippingLag(0, 0.0)
        segment, offset = self._moved
        size = (written.segment - segment) * self._page.segment_bytes + written.offset - offset
        return ShippingLag(max(1, size), seconds)

    def restart(self) -> None:
        """Go back to the checkpoint, after an error that leaves open what was shipped."""
        records, self._records = self._records, None
        if records is not None:
            with suppress(OSError):  # the file was only read, so an error at closing loses nothing
                records.close()

    def close(self) -> None:
        """Close all files and release the lock. A second call has no effect."""
        self.restart()
        if self._page is not None:
            self._page.close()
            self._page = None
        self._directory.close()

    def _published(self) -> Published | None:
        """Return what the writer has published; None if its page cannot be read."""
        if self._page is None and not self._is_unreadable:
            try:
                self._page = PageReader(self._directory.path)
            except (FileNotFoundError, PageUnreadable) as error:
                self._is_unreadable = True
                if not self._is_adopted:
                    self._log(
                        "the usage journal of a running process is not read: its records are stored once it has ended",
                        level="error",
                        file=str(self._directory.path / PAGE_NAME),
                        reason=str(error),
                    )
        return None if self._page is None else self._page.read()

    def _count_shipped(self) -> None:
        """Count the writer's entries that are stored: all that it had published at a look, once that is passed."""
        while self._looks and (self._looks[0][0] <= self._moved or not self._is_more):
            self._shipped = self._looks.popleft()[1]
        if not self._is_more:
            self._complete_at = self._read_at

    def _finish(self) -> None:
        """Delete the directory of the writer that has ended, or leave it to the other reader."""
        published = self._published()
        if published is not None and not published.is_closed:
            self._log(
                "a process ended without closing its usage journal: its records are stored",
                level="warning",
                journal=self._directory.path.name,
                cut_off=self._cut_off,
            )
        self.is_finished = True
        try:
            self._other.take_over(self._directory)
        except OSError as error:
            self._log("cannot delete the usage journal's directory", level="warning", reason=str(error))
