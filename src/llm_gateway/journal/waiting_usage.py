"""Usage that waits in the journals for the database, and the disk space that is left to the database for it.

When a full disk has space again, the writers would take it first, 16 MiB each, and refuse calls again once that is
full; the database could never store what waits, and no segment would ever be freed. So a writer makes no new segment in
space that the database needs. Where the database keeps up, next to nothing waits, and the journal may take all space.

Writers look and take in turns: all at once, each would see the same space as free.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from llm_gateway.data_dir import lock_directory
from llm_gateway.journal.free_segments import is_disk_short
from llm_gateway.journal.position_page import PageReader, PageUnreadable
from llm_gateway.journal.record_delivery import BATCH_RECORDS
from llm_gateway.journal.segments import JournalDir, find_writers

FIRST_BYTES = 40 * 1024 * 1024
"""Disk space that the database takes until the first segment is freed. If all labels have maximum length, its rows take
1.24 times as much as in the journal, and SQLite's write-ahead log up to 20 MB; otherwise a fifth."""

LOG_BYTES = 20 * 1024 * 1024
"""Disk space that the log's pages take in the database file, if all of them are new."""

MOST_LEFT_BYTES = 256 * 1024 * 1024
"""Most disk space that is left to the database, which may be on another disk."""

AMPLE_BYTES = 64 * 1024 * 1024
"""Free space with which records of unbilled requests leave the memory where they wait for it: 8 MiB a writer."""

TURN = ".turn"
"""Directory in the journal's root that the writer whose turn it is has locked; a reimport locks the root itself."""

MOST_WRITERS = 64
"""Writers of a host: two generations of workers. Where all can take a segment at once, none waits for its turn."""

TURN_S = 2.0
"""Seconds for which a writer waits for its turn. Another one that is stopped meanwhile must not stop all."""

LOOK_S = 0.01
"""Seconds between two looks whether it is a writer's turn."""

SHORT_BATCH_RECORDS = 250
"""Records stored at a time while the disk is short: a batch of BATCH_RECORDS, all labels of maximum length, takes 20 MB
of the write-ahead log, and as much of the database file."""


@contextmanager
def taking_space(root: Path, size: int) -> Iterator[None]:
    """Check whether `size` bytes of the disk can be taken and leave enough to the database; `root` is the journal's.

    Take them in the `with` block: other writers wait for its end.

    Raises:
        OSError: they leave too little (ENOSPC), or the disk does not say.
    """
    if _free_bytes(root) - MOST_WRITERS * size >= MOST_LEFT_BYTES:
        yield
        return
    with _turn(root):
        left = _free_bytes(root) - size
        if 0 <= left < MOST_LEFT_BYTES and left < needed_bytes(waiting_bytes(root)):
            raise OSError(errno.ENOSPC, "what is left of the disk is for usage that is not in the database yet")
        yield


def is_disk_ample(root: Path) -> bool:
    """Return whether the disk has space for usage that bought nothing; True if it does not say."""
    try:
        return _free_bytes(root) >= AMPLE_BYTES
    except OSError:
        return True


def _free_bytes(path: Path) -> int:
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


@contextmanager
def _turn(root: Path) -> Iterator[None]:
    """Lock a directory, once no other writer has or after `TURN_S`; do nothing where none can be made or locked."""
    descriptor, deadline = None, time.monotonic() + TURN_S
    with suppress(OSError):  # it exists, or the disk is full
        (root / TURN).mkdir(mode=0o700)
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            descriptor = lock_directory(root / TURN)
            break
        time.sleep(LOOK_S)
    try:
        yield
    finally:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a process that was forked meanwhile has a copy of the descriptor
            os.close(descriptor)


def needed_bytes(waiting: int) -> int:
    """Return the disk space that the database needs to store `waiting` bytes of the journal, at most MOST_LEFT_BYTES.

    Its rows go to SQLite's log and then to its file, each 1.24 times as large, beside what the log has already: without
    space for that in the file, it is never emptied. What waits for a second or two is no reason to expect a full log.
    Of much usage, each segment that is freed has space for four fifths of its rows; a third leaves some for the rest.
    """
    first = waiting * 5 // 2 + min(16 * waiting, LOG_BYTES)
    return min(first, FIRST_BYTES + waiting // 3, MOST_LEFT_BYTES)


def waiting_bytes(root: Path) -> int:
    """Return the size of what writers have written and the shipper has not passed, by its checkpoints."""
    total = 0
    for path in find_writers(root):
        with suppress(OSError, PageUnreadable), closing(PageReader(path)) as page:  # OSError: it has just been deleted
            segment, offset = JournalDir(path).checkpoint()
            written = page.read().written
            total += (written.segment - segment) * page.segment_bytes + written.offset - offset
    return total


class BatchSize:
    """Number of records stored at a time: few once a batch was full, or failed, on a disk that is short since then."""

    def __init__(self, root: Path) -> None:
        """Look at the disk with the directory `root`."""
        self._root = root
        self.records = BATCH_RECORDS

    @property
    def is_small(self) -> bool:
        """True while the disk is short, and much usage waits."""
        return self.records < BATCH_RECORDS

    def note(self, records: int, *, is_stored: bool) -> None:
        """Call it after each batch with its size: it is stored, or the database did not answer."""
        if is_stored and records < self.records == BATCH_RECORDS:
            return
        with suppress(OSError):  # the disk does not say
            self.records = SHORT_BATCH_RECORDS if is_disk_short(self._root) else BATCH_RECORDS
