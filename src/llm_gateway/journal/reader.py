"""Read journal entries from a directory's segments in order, starting at the checkpoint.

Where a writer that uses segments again has ended, something stale may follow: the rest of an old entry, then old
entries. What is no entry of the segment's number is damage

- before a good entry, since a writer writes in order;
- before the published position, and in earlier segments than its own, whose rest a writer fills with zeros;
- if it begins like an entry, and is no intact one of an earlier number: its write was cut off.

The rest is passed over. Up to the limit of a writer that lives nothing is stale.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from llm_gateway.journal.frames import MARK, Entry, Scan, scan, sealed_for
from llm_gateway.journal.position_page import PageReader, PageUnreadable
from llm_gateway.journal.segments import JournalDir, Position

CHUNK_BYTES = 32 * 1024
"""Bytes read and parsed at a time: takes 0.1 ms, during which the event loop's thread may wait for the GIL."""

OnDamage: TypeAlias = Callable[[Path, int, int], None]
"""Called with (file, offset, number of bytes) of each damaged region."""
_ZEROS = bytes(CHUNK_BYTES)


class SegmentReader:
    """Sequential reader over the segments of one directory. Missing segment numbers are skipped."""

    def __init__(
        self,
        directory: JournalDir,
        on_damage: OnDamage,
        *,
        start: Position | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """Start at the position `start`, the checkpoint if it is None, or at the first segment after it that exists."""
        self._directory = directory
        self._on_damage = on_damage
        self._chunk_bytes = chunk_bytes
        self._fd: int | None = None
        self._is_recycled = directory.free.exists()
        self._unsure: tuple[int, int] | None = None
        self.position = directory.checkpoint() if start is None else start
        existing = directory.segments()  # listed once: a writer that has just begun may add its first ones meanwhile
        later = [number for number in existing if number > self.position.segment]
        if later and self.position.segment not in existing:
            self.position = Position(later[0], 0)

    def read(self, limit: Position | None) -> list[Entry]:
        """Return the next good entries, all from the segment of `position`; an empty list if there are none for now.

        Nothing at or after `limit`, the writer's position, is read. Pass None if the writer's process has ended: then
        everything up to the end of the last segment is read.

        Raises:
            OSError: a segment cannot be read.
        """
        while True:
            if entries := self._read_here(limit):
                return entries
            if not self._go_to_next(limit):
                return []

    def close(self) -> None:
        """Close the segment that is open. A second call has no effect."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _go_to_next(self, limit: Position | None) -> bool:
        """Move to the start of the next existing segment; False if no later one exists up to `limit`."""
        here = self.position.segment
        if limit is not None and limit.segment <= here:
            return False
        later = [number for number in self._directory.segments() if number > here]
        if not later or (limit is not None and later[0] > limit.segment):
            return False
        self.close()
        self._unsure = None
        self.position = Position(later[0], 0)
        return True

    def _read_here(self, limit: Position | None) -> list[Entry]:
        """Return the next entries of this segment.

        A chunk must end with a newline, so the chunk size doubles until a long line fits.
        """
        if self._fd is None:
            try:
                self._fd = os.open(self._directory.segment(self.position.segment), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return []
        segment, offset = self.position
        end = limit.offset if limit is not None and limit.segment == segment else os.fstat(self._fd).st_size
        size = self._chunk_bytes
        while offset < end:
            wanted = min(size, end - offset)
            chunk = os.pread(self._fd, wanted, offset)
            is_short = len(chunk) < wanted
            cut = len(chunk) if is_short or offset + len(chunk) >= end else chunk.rfind(b"\n") + 1
            if not chunk:
                break
            if not cut:
                if _is_blank(self._fd, offset, end):  # reserved space, up to 16 MiB: parsing it would take 0.1 s
                    self.position = Position(segment, end)
                    break
                size *= 2
                continue
            found = scan(chunk[:cut], offset, segment=segment, is_recycled=self._is_recycled)
            self._report(found, may_be_stale=limit is None and self._is_recycled)
            offset += cut
            size = self._chunk_bytes
            self.position = Position(segment, offset)
            if found.entries:
                return found.entries
        self._report_end(self._fd)
        return []

    def _report(self, found: Scan, *, may_be_stale: bool) -> None:
        """Report damage; what follows the last good entry, if it may be stale, is kept until more is read."""
        if found.entries and self._unsure is not None:
            self._on_region(*self._unsure)
            self._unsure = None
        last = found.entries[-1].end if found.entries else 0
        for start, stop in found.damage:
            if may_be_stale and start >= last:
                self._unsure = (start if self._unsure is None else self._unsure[0], stop)
            else:
                self._on_region(start, stop)

    def _report_end(self, fd: int) -> None:
        """Report what is damage of the bytes after the segment's last good entry (see the module's docstring)."""
        if self._unsure is None:
            return
        (start, stop), self._unsure = self._unsure, None
        segment = self.position.segment
        written = _published(self._directory)
        if segment < written.segment:
            self._on_region(start, stop)
            return
        end = max(start, written.offset) if segment == written.segment else start
        if start < end:
            self._on_region(start, min(end, stop))
        if end < stop and (cut_off := self._cut_off(fd, end, stop)):
            self._on_region(end, end + cut_off)

    def _cut_off(self, fd: int, start: int, stop: int) -> int:
        """Return the size of the line at `start` if it begins like an entry and is not stale, else 0."""
        line, size = b"", self._chunk_bytes
        while b"\n" not in line and len(line) < stop - start:
            line, size = os.pread(fd, min(size, stop - start), start), 2 * size
        line = line.partition(b"\n")[0]
        if not line.startswith(MARK):
            return 0
        with suppress(ValueError):
            if 0 < sealed_for(line) < self.position.segment:
                return 0
        return min(len(line) + 1, stop - start)

    def _on_region(self, start: int, stop: int) -> None:
        self._on_damage(self._directory.segment(self.position.segment), start, stop - start)


def _published(directory: JournalDir) -> Position:
    """Return the position that a writer published last; a place before any segment if it cannot be read."""
    try:
        page = PageReader(directory.path)
    except (OSError, PageUnreadable):
        return Position(0, 0)
    written = page.read().written
    page.close()
    return Position(written.segment, written.offset)


def _is_blank(fd: int, offset: int, end: int) -> bool:
    """Return True if the file holds nothing but zeros from `offset` to `end`.

    Raises:
        OSError: the file cannot be read.
    """
    while offset < end:
        chunk = os.pread(fd, min(CHUNK_BYTES, end - offset), offset)
        if not chunk or not _ZEROS.startswith(chunk):
            return not chunk
        offset += len(chunk)
    return True
