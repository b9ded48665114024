"""Segments that can be written again: a writer's spares come from here, so that it allocates and fills no file.

<data_dir>/journal/<writer>/free/000003.seg     was segment 3; its old entries are stale under any later number

The shipper moves a segment here that it has read, closed and stored, while the writer lives. The writer moves it back
under the number that comes next, and writes over it. Both are renames, so a crash leaves the file in one place: here
nobody reads it, and there it holds no entry of its new number yet. A segment that is kept as evidence of damage (a hard
link, `directory_records.py`) is never moved here.

The folder exists from the writer's start: readers know by it that a file may hold stale entries (`frames.py`). Writers
of version 0.1.0 have none, and their segments are deleted.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from llm_gateway.journal.listing import segments_in

NAME = "free"

MOST = 2
"""Segments kept for a writer; others are deleted. It uses one at a time; the shipper looks once a second or more."""

SHORT_BYTES = 128 * 1024 * 1024
"""Below this much free disk space no segment is kept: the database, which must take the records, needs the space."""


class FreeSegments:
    """The folder with free segments of one writer. The writer and the shipper use it at the same time."""

    def __init__(self, folder: Path) -> None:
        """Set the writer's directory."""
        self.path = folder / NAME

    def exists(self) -> bool:
        """Return True if the writer uses segments again."""
        return self.path.is_dir()

    def segments(self) -> list[Path]:
        """Return the free segments, in the order of their last numbers; none if the folder does not exist.

        Raises:
            OSError: the folder cannot be listed.
        """
        return [self.path / name for _, name in segments_in(self.path)]

    def add(self, segment: Path) -> bool:
        """Move a segment here that nobody has open. Returns False if it cannot or must not be kept.

        Raises:
            OSError: the segment or the folder cannot be read or written.
        """
        if not self.exists() or segment.stat().st_nlink > 1:
            return False
        if self.is_disk_short():
            self.clear()
            return False
        if len(self.segments()) >= MOST:
            return False
        segment.rename(self.path / segment.name)
        return True

    def clear(self) -> None:
        """Delete the free segments, as far as possible."""
        with suppress(OSError):  # it cannot be listed
            for segment in self.segments():
                with suppress(OSError):
                    segment.unlink(missing_ok=True)

    def is_disk_short(self) -> bool:
        """Return True if the disk has less than SHORT_BYTES left.

        Raises:
            OSError: the file system does not say.
        """
        return is_disk_short(self.path)


def is_disk_short(path: Path) -> bool:
    """Return True if the disk with this directory has less than SHORT_BYTES left.

    Raises:
        OSError: the file system does not say.
    """
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize < SHORT_BYTES
