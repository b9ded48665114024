"""Contract of a reader of the journals beside the shipper: what the shipper does not free before that one has read it.

The shipper asks it before it frees a segment, and hands it the directory of a writer that has ended in place of
deleting it. `hold_from` bounds what it can hold back, so that a reader that lags, or has ended, never fills the disk.
"""

from __future__ import annotations

from contextlib import suppress

from llm_gateway.journal.segments import JournalDir, LockableDir

MOST_HELD, SLACK = 8, 4
"""Segments of a writer that are kept for the other reader beside the current one, 128 MiB, and those beyond that the
reader has time to pass over by itself, so that it can count what it loses."""


class OtherReader:
    """There is no other reader: nothing is held back. A subclass reads the journals, too."""

    def first_needed(self, writer: str) -> int | None:
        """Return the number of the first segment that is needed of this writer; None if none is."""

    def take_over(self, directory: LockableDir) -> None:
        """Take the directory of a writer that has ended, once the shipper has stored all of it. Closes it.

        Raises:
            OSError: it cannot be moved or deleted.
        """
        directory.remove()


NO_READER = OtherReader()


def hold_from(other: OtherReader, directory: JournalDir, here: int) -> int:
    """Return the number of the first segment to keep for the other reader, where the shipper reads segment `here`."""
    needed = other.first_needed(directory.path.name)
    if needed is None:
        return here
    with suppress(OSError):  # a writer of version 0.1.0 has no folder for free segments
        if directory.free.is_disk_short():
            return here
    return min(here, max(needed, here - MOST_HELD - SLACK))
