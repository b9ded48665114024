"""Read journal entries from a directory's segments in order, starting at the checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from llm_gateway.journal.frames import Entry, scan
from llm_gateway.journal.segments import JournalDir, Position

CHUNK_BYTES = 32 * 1024
"""Bytes read and parsed at a time: takes 0.1 ms, during which the event loop's thread may wait for the GIL."""

OnDamage: TypeAlias = Callable[[Path, int, int], None]
"""Called with (file, offset, number of bytes) of each damaged region."""
_ZEROS = bytes(CHUNK_BYTES)


class SegmentReader:
    """Sequential reader over the segments of one directory. Missing segment numbers are skipped."""

    def __init__(self, directory: JournalDir, on_damage: OnDamage, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._directory = directory
        self._on_damage = on_damage
        self._chunk_bytes = chunk_bytes
        self._fd: int | None = None
        self.position = directory.checkpoint()
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
            found = scan(chunk[:cut], offset)
            for start, stop in found.damage:
                self._on_damage(self._directory.segment(segment), start, stop - start)
            offset += cut
            size = self._chunk_bytes
            self.position = Position(segment, offset)
            if found.entries:
                return found.entries
        return []


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
