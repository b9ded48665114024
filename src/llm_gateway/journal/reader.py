"""Reads a writer's segments in order, from a position up to a limit or to their end."""

from __future__ import annotations

import os
from collections.abc import Callable

from llm_gateway.journal.frames import Entry, scan
from llm_gateway.journal.segments import Position, WriterDir

CHUNK_BYTES = 256 * 1024
LONGEST_FRAME_BYTES = 128 * 1024

Damage = Callable[[str, int, int], None]
"""Hears of what could not be read: file, offset, bytes."""


class Reader:
    """A position that moves on through the segments of one directory."""

    def __init__(self, directory: WriterDir, damaged: Damage, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._directory = directory
        self._damaged = damaged
        self._chunk_bytes = chunk_bytes
        self._fd: int | None = None
        self._fd_segment = 0
        start = directory.checkpoint()
        there = directory.segments()
        if there and start.segment not in there:
            later = [number for number in there if number > start.segment]
            start = Position(later[0] if later else there[0], 0)
        self.position = start

    def read(self, limit: Position | None) -> list[tuple[Position, Entry]]:
        """The next entries, each with where it stands; none when everything up to `limit` was read.

        `limit` None means the end of the last segment: for a directory whose writer is gone.
        """
        while True:
            segment, offset = self.position
            last = segment >= (limit.segment if limit else max(self._directory.segments(), default=0))
            upto = limit.offset if limit and segment >= limit.segment else None
            entries = self._read_chunk(segment, offset, upto)
            if entries:
                return entries
            if self.position.offset != offset:
                continue
            if last:
                return []
            self._close()
            self.position = Position(segment + 1, 0)

    def close(self) -> None:
        """Close the segment that is open."""
        self._close()

    def _read_chunk(self, segment: int, offset: int, upto: int | None) -> list[tuple[Position, Entry]]:
        size = self._chunk_bytes if upto is None else min(self._chunk_bytes, upto - offset)
        fd = self._open(segment)
        chunk = os.pread(fd, size, offset) if fd is not None and size > 0 else b""
        found = scan(chunk)
        name = str(self._directory.segment(segment))
        for start, end in found.damage:
            self._damaged(name, offset + start, end - start)
        end = found.end
        if not found.entries and chunk:
            end = self._pass_over(chunk, name, offset, is_end=len(chunk) < self._chunk_bytes)
        self.position = Position(segment, offset + end)
        return [(Position(segment, offset + entry.start), entry) for entry in found.entries]

    def _pass_over(self, chunk: bytes, name: str, offset: int, *, is_end: bool) -> int:
        """Bytes of a chunk without a good entry that need not be read again: zeros, or damage, which is reported."""
        written = chunk.rstrip(b"\0")
        if not written:
            return 0 if is_end else len(chunk)
        if is_end:
            self._damaged(name, offset, len(written))
            return len(chunk)
        passed = len(chunk) - LONGEST_FRAME_BYTES
        self._damaged(name, offset, passed)
        return passed

    def _open(self, segment: int) -> int | None:
        if self._fd is None or self._fd_segment != segment:
            self._close()
            try:
                self._fd = os.open(self._directory.segment(segment), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            self._fd_segment = segment
        return self._fd

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
