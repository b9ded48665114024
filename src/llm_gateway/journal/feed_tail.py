"""Read the finished records of one writer for the record feed (`record_feed.py`), from positions of its own.

    following -- the shipper hands the directory over --> ended -- everything is read --> finished
    reads up to the published position                    reads to the end of the last segment,
                                                          then closes open requests as crashed

It holds a position for what was handed out, and one where reading must start again so that the intents of open requests
are known: the first entry of the oldest one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.journal.frames import Entry
from llm_gateway.journal.other_reader import MOST_HELD
from llm_gateway.journal.position_page import PageReader, PageUnreadable
from llm_gateway.journal.reader import SegmentReader
from llm_gateway.journal.record_assembler import RecordAssembler
from llm_gateway.journal.segments import START, JournalDir, Position

MOST_REMEMBERED = 2_000
"""Ids of records that are remembered: after a failed sync, a writer writes its last entries again."""


class Bookmark(msgspec.Struct, frozen=True):
    """Positions in a writer's journal: of the end of what was handed out, and of where reading must start again."""

    done: tuple[int, int] = START
    restart: tuple[int, int] = START


class FeedTail:
    """Tail of one writer's directory. `is_ended`: the writer has ended, and the directory is the feed's."""

    def __init__(self, path: Path, bookmark: Bookmark, *, is_ended: bool, pause: Callable[[], None]) -> None:
        self.directory = JournalDir(path)
        self.is_ended = is_ended
        self.is_finished = False
        """Everything was read of a writer that has ended."""
        self.is_done = False
        """And confirmed."""
        self.bookmark = bookmark
        """What is confirmed."""
        self.lost_records = 0
        """Records that were passed over so far, also by a call that failed."""
        self._pause = pause
        self._done = Position(*bookmark.done)
        self._assembler = RecordAssembler(path.name, _ignore_entry)
        self._reader = SegmentReader(self.directory, _ignore_damage, start=Position(*bookmark.restart))
        self._page: PageReader | None = None
        self._seen: dict[str, None] = {}

    def read(self) -> list[UsageRecord]:
        """Return the records of the next chunk, with or without any; `is_finished` tells the end of an ended writer.

        Raises:
            OSError: the journal cannot be read.
        """
        limit = None if self.is_ended else self._written()
        if limit is None and not self.is_ended:
            return []
        entries = self._reader.read(limit)
        records = self._records(entries)
        self._pause()
        if not entries and self.is_ended:
            self.is_finished = True
            records += self._fresh(self._assembler.abandon())
        return records

    @property
    def position(self) -> Position:
        """The end of what was read."""
        return self._reader.position

    def confirm(self) -> None:
        """Note that the records returned so far need not be returned again."""
        position = max(self._reader.position, self._done)
        self.bookmark = Bookmark(position, self._assembler.restart(self._reader.position))
        self.is_done = self.is_finished

    def skip_excess(self, most_held: int = MOST_HELD) -> None:
        """Read past what lies more than `most_held` segments behind the writer.

        An open request that is older does not hold segments back: if this process ends before it is settled, its
        intents are not known any more.

        Raises:
            OSError: the journal cannot be read.
        """
        written = self._written()
        if self.is_ended or written is None or written.segment - self.bookmark.restart[0] <= most_held:
            return
        start = Position(written.segment - most_held, 0)
        while self._reader.position < start and (entries := self._reader.read(start)):
            self.lost_records += len(self._records(entries))
            self._pause()
        restart = max(start, self._assembler.restart(self._reader.position))
        self.bookmark = Bookmark(max(start, Position(*self.bookmark.done)), restart)

    def skip_rest(self) -> None:
        """Read past everything that is left of an ended writer.

        Raises:
            OSError: the journal cannot be read.
        """
        while not self.is_finished:
            self.lost_records += len(self.read())
        self.confirm()

    def unread_bytes(self) -> int:
        """Return the size of what is not confirmed.

        Raises:
            OSError: the directory cannot be listed.
        """
        segment, offset = self.bookmark.done
        if self.is_ended:
            sizes = (self._size(number) - (offset if number == segment else 0) for number in self._numbers())
            return max(0, sum(sizes))
        written = self._written()
        if written is None or self._page is None:
            return 0
        return max(0, (written.segment - segment) * self._page.segment_bytes + written.offset - offset)

    def segments(self) -> int:
        """Return the number of segments that are not confirmed as a whole.

        Raises:
            OSError: the directory cannot be listed.
        """
        return len(self._numbers())

    def close(self) -> None:
        """Close all files. A second call has no effect."""
        self._reader.close()
        if self._page is not None:
            self._page.close()
            self._page = None

    def _records(self, entries: list[Entry]) -> list[UsageRecord]:
        segment = self._reader.position.segment
        done = sum(Position(segment, entry.start) < self._done for entry in entries)
        self._assembler.add(segment, entries[:done])
        return self._fresh(self._assembler.add(segment, entries[done:]))

    def _fresh(self, records: list[UsageRecord]) -> list[UsageRecord]:
        fresh = []
        for record in records:
            if record.id not in self._seen:
                self._seen[record.id] = None
                fresh.append(record)
        while len(self._seen) > MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return fresh

    def _written(self) -> Position | None:
        """Return the published position; None if the page cannot be read, which the shipper logs."""
        if self._page is None:
            with suppress(OSError, PageUnreadable):
                self._page = PageReader(self.directory.path)
        if self._page is None:
            return None
        written = self._page.read().written
        return Position(written.segment, written.offset)

    def _numbers(self) -> list[int]:
        return [number for number in self.directory.segments() if number >= self.bookmark.done[0]]

    def _size(self, number: int) -> int:
        try:
            return self.directory.segment(number).stat().st_size
        except OSError:
            return 0


def _ignore_entry(_entry: Entry, _reason: str) -> None:
    """Leave an entry that cannot be decoded to the shipper, which keeps it in the quarantine file."""


def _ignore_damage(_file: Path, _offset: int, _size: int) -> None:
    """Leave damage to the shipper, which logs it."""
