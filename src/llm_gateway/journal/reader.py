"""Reads a writer's segments in order, from a position up to a limit or to their end."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

from llm_gateway.journal.frames import Entry, Scan, scan
from llm_gateway.journal.segments import Position, WriterDir

CHUNK_BYTES = 256 * 1024

Damage: TypeAlias = Callable[[str, int, int], None]
"""Hears of what could not be read: file, offset, bytes."""


class Reader:
    """A position that moves on through the segments of one directory."""

    def __init__(self, directory: WriterDir, damaged: Damage, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._directory = directory
        self._damaged = damaged
        self._chunk_bytes = chunk_bytes
        self._fd: int | None = None
        start = directory.checkpoint()
        there = directory.segments()
        if there and start.segment not in there:
            start = Position(next((number for number in there if number > start.segment), there[0]), 0)
        self.position = start

    def read(self, limit: Position | None) -> list[tuple[Position, Entry]]:
        """The next entries, each with where it stands; none when everything up to `limit` was read.

        `limit` None means the end of the last segment: for a directory whose writer is gone.
        """
        if limit is None:
            limit = Position(max(self._directory.segments(), default=0) + 1, 0)
        while self.position < limit:
            segment, start = self.position
            entries = self._read_on(segment, start, limit.offset - start if segment == limit.segment else None)
            if entries:
                return entries
            if segment == limit.segment:
                break
            self.close()
            self.position = Position(segment + 1, 0)
        return []

    def close(self) -> None:
        """Close the segment that is open."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _read_on(self, segment: int, start: int, most: int | None) -> list[tuple[Position, Entry]]:
        """The entries of the next chunk of a segment that has any; none at its end, or after `most` bytes."""
        path = self._directory.segment(segment)
        if self._fd is None:
            try:
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return []
        buffer, found = self._scan(self._fd, start, most)
        for at, end in found.damage:
            self._damaged(str(path), start + at, end - at)
        passed = found.end
        if not found.entries:
            passed = len(buffer)
            if unread := len(buffer.rstrip(b"\0")):
                self._damaged(str(path), start, unread)
        self.position = Position(segment, start + passed)
        return [(Position(segment, start + entry.start), entry) for entry in found.entries]

    def _scan(self, fd: int, start: int, most: int | None) -> tuple[bytes, Scan]:
        """A chunk and what is in it, longer while it holds no whole entry: one may be longer than a chunk."""
        size = self._chunk_bytes
        while True:
            wanted = size if most is None else min(size, most)
            buffer = os.pread(fd, wanted, start)
            found = scan(buffer)
            if found.entries or len(buffer) < size:
                return buffer, found
            size *= 2
