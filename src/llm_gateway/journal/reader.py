"""Follows a writer's segments in order, from its checkpoint on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from llm_gateway.journal.frames import Entry, scan
from llm_gateway.journal.segments import Position, WriterDir

CHUNK_BYTES = 32 * 1024
"""Read at a time, and so about as long as the loop's thread may have to wait: 0.1 ms."""

OnDamage: TypeAlias = Callable[[Path, int, int], None]
"""Hears what could not be read: file, offset, bytes."""


class SegmentReader:
    """A position in the segments of one directory that moves on as they are read. Segments may be missing."""

    def __init__(self, directory: WriterDir, on_damage: OnDamage, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._directory = directory
        self._on_damage = on_damage
        self._chunk_bytes = chunk_bytes
        self._fd: int | None = None
        self.position = directory.checkpoint()
        if self.position.segment not in directory.segments():
            self._go_to_next(None)

    def read(self, limit: Position | None) -> list[Entry]:
        """The next good entries, all of the segment that `position` is in; none when there are no more for now.

        `limit` is where the writer is; None when it is gone, and everything up to the end is to be read.

        Raises:
            OSError: a segment cannot be read.
        """
        while True:
            if entries := self._read_here(limit):
                return entries
            if not self._go_to_next(limit):
                return []

    def close(self) -> None:
        """Close the file that is open."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _go_to_next(self, limit: Position | None) -> bool:
        """Begin the next segment that is there, if the limit is in it or beyond it."""
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
        """The next entries of this segment; a chunk ends with a line, so it grows where a line is longer."""
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
