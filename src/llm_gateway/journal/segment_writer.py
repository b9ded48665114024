"""Write to the journal's current segment file, and have the next one (the spare) ready before it is needed.

A spare is a free segment (`free_segments.py`) or, if there is none, a new file. A segment that was used before is left
full: the rest of it is overwritten with zeros, so that after its last entry nothing stale is read.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import accumulate
from pathlib import Path

from llm_gateway.journal.file_thread import FileThread
from llm_gateway.journal.frames import FRAME_BYTES
from llm_gateway.journal.free_segments import FreeSegments
from llm_gateway.journal.position_page import create_page
from llm_gateway.journal.segments import ZEROS, FileSystem, Log, WriterDir, names_file
from llm_gateway.journal.waiting_usage import is_disk_ample, taking_space

RETRY_S = 0.5
"""Seconds between two tries to allocate a spare segment, or to write after an error."""

TRIAL_BYTES = 4096
"""Bytes written to find out whether the disk works again: one page."""

LOOK_S = 1.0
"""Seconds between two looks whether the journal's files are where its readers look for them."""

IDLE_S = 600.0
"""Seconds without a new spare after which free segments are deleted."""


class SegmentWriter:
    """Appends bytes to one journal's segment files; for its event loop only.

    `has_failed` is True while the last try to get a spare failed; the next try comes half a second later.
    `on_spare` is called whenever there is a new spare, or more space. `is_misplaced` is True while the directory, its
    lock or the current segment is gone from its path: writes succeed, and nobody will read them. `is_disk_ample` is
    False while the disk has little space, of which usage that bought nothing should take none from the database.
    """

    idle_s = IDLE_S

    def __init__(
        self,
        directory: WriterDir,
        segment_bytes: int,
        files: FileSystem,
        *,
        durable: bool,
        log: Log,
        on_spare: Callable[[], None],
        is_synced: bool = True,
    ) -> None:
        """Create the first segment; `durable` as in FileSystem.create, `is_synced` as in FileSystem.reuse.

        Raises:
            OSError: the first segment cannot be created.
        """
        self.number = 1
        self.offset = 0
        self.segment_bytes = segment_bytes
        self.has_failed = False
        self._directory = directory
        self._files = files
        self._durable = durable
        self._is_synced = is_synced
        self._log = log
        self._on_spare = on_spare
        self._loop = asyncio.get_running_loop()
        self.fd = files.create(directory.segment(1), segment_bytes, durable=durable)
        self._spare: int | None = None
        self._is_used = self._is_spare_used = False
        self._trusted_from = 1
        self._retry: asyncio.TimerHandle | None = None
        self._thread = FileThread("journal-allocate")
        self._idle = self._loop.call_later(self.idle_s, self._shrink, 1)
        self.is_misplaced = False
        self.is_disk_ample = is_disk_ample(directory.path.parent)
        self._look = self._loop.call_later(LOOK_S, self._look_again)
        self._make_spare()

    def try_to_write(self) -> None:
        """Find out whether the disk works: write zeros where the next entry goes, which readers take as unwritten.

        Raises:
            OSError: the disk does not work yet.
        """
        zeros = ZEROS[: min(self.room, TRIAL_BYTES)]
        if zeros and not self._files.write(self.fd, zeros, self.offset):
            raise OSError("nothing was written")

    @property
    def room(self) -> int:
        """Bytes left in the current segment."""
        return self.segment_bytes - self.offset

    def write(self, data: bytes) -> None:
        """Append `data`, which must fit into `room`. When this returns the kernel has it, so it survives the process.

        Raises:
            OSError: the write failed, perhaps in the middle; the next write overwrites the same place.
        """
        written = 0
        while written < len(data):
            count = self._files.write(self.fd, data[written:] if written else data, self.offset + written)
            if not count:
                raise OSError("nothing was written")
            written += count
        self.offset += written

    def rotate(self) -> int:
        """Switch to the spare segment. Returns the file descriptor of the previous one, for the caller to close.

        Raises:
            OSError: there is no spare segment.
        """
        if self._spare is None:
            raise OSError("no space for another segment")
        if self._is_used:
            self._blank_rest()
        before, self.fd, self._spare = self.fd, self._spare, None
        self._is_used = self._is_spare_used
        self.number += 1
        self.offset = 0
        self._make_spare()
        return before

    def distrust(self) -> None:
        """Never use a segment again that was written up to now: a sync failed."""
        self._trusted_from = self.number + 1

    def discard(self, fds: Iterable[int]) -> None:
        """Close file descriptors in the thread: closing the last one of a deleted file takes milliseconds."""
        for fd in fds:
            self._thread.do(partial(self._close, fd), _ignore)

    async def close(self) -> None:
        """Stop the thread, close the current segment, and delete the spare."""
        self._idle.cancel()
        self._look.cancel()
        if self._retry is not None:
            self._retry.cancel()
        await self._thread.stop()
        if self._spare is not None:
            self._files.close(self._spare)
            self._directory.segment(self.number + 1).unlink(missing_ok=True)
        self._files.close(self.fd)

    def _close(self, fd: int) -> int:
        self._files.close(fd)
        return 0

    def _blank_rest(self) -> None:
        """Overwrite the rest of the current segment: at most an entry's size, unless a sync failed."""
        at = self.offset
        try:
            while at < self.segment_bytes:
                count = self._files.write(self.fd, ZEROS[: self.segment_bytes - at], at)
                if not count:
                    raise OSError("nothing was written")
                at += count
        except OSError:  # its reader may report stale entries as damage
            self.distrust()

    def look(self) -> None:
        """Look whether the files are in their place, and log when that changes."""
        directory = self._directory
        is_misplaced = not (directory.is_in_place() and names_file(directory.segment(self.number), self.fd))
        if is_misplaced != self.is_misplaced:
            self.is_misplaced = is_misplaced
            if is_misplaced:
                self._log("the usage journal was deleted or moved", level="error", directory=str(directory.path))
            else:
                self._log("the usage journal is in its place again")

    def _look_again(self) -> None:
        self.look()
        was_ample, self.is_disk_ample = self.is_disk_ample, is_disk_ample(self._directory.path.parent)
        if self.is_disk_ample and not was_ample:
            self._on_spare()
        self._look = self._loop.call_later(LOOK_S, self._look_again)

    def _shrink(self, number: int) -> None:
        """Delete the free segments if the current one is still `number`."""
        if self.number == number:
            self._thread.do(self._clear, _ignore)
        self._idle = self._loop.call_later(self.idle_s, self._shrink, self.number)

    def _clear(self) -> int:
        self._directory.free.clear()
        return 0

    def _make_spare(self) -> None:
        self._retry = None
        path = self._directory.segment(self.number + 1)
        self._thread.do(partial(self._obtain, path), self._spare_made)

    def _obtain(self, path: Path) -> int:
        """Return the descriptor of a segment at `path`: a free one, or a new one. Called in the thread.

        Raises:
            OSError: there is no space for a new one, or the database needs it.
        """
        with suppress(OSError):  # the free ones cannot be listed
            for free in self._directory.free.segments():
                if int(free.stem) >= self._trusted_from:
                    with suppress(OSError):
                        fd = self._files.reuse(free, path, self.segment_bytes, is_synced=self._is_synced)
                        self._is_spare_used = True
                        return fd
                with suppress(OSError):
                    free.unlink(missing_ok=True)
        self._is_spare_used = False
        with taking_space(self._directory.path.parent, self.segment_bytes):
            return self._files.create(path, self.segment_bytes, durable=self._durable)

    def _spare_made(self, fd: int, failed: OSError | None) -> None:
        if failed is None:
            self._spare = fd
            self.has_failed = False
            self.is_disk_ample = is_disk_ample(self._directory.path.parent)
            self._on_spare()
            return
        if not self.has_failed:
            self._log("no space for the usage journal's next segment", level="warning", reason=str(failed))
        self.has_failed = True
        # Harmless if set while `close` waits for the thread: when the timer fires, the thread takes no more jobs.
        self._retry = self._loop.call_later(RETRY_S, self._make_spare)


def prepare(folder: Path, segment_bytes: int) -> None:
    """Fill the directory of a new writer, which uses segments again.

    Raises:
        OSError: there is no space.
    """
    create_page(folder, segment_bytes)
    FreeSegments(folder).path.mkdir(mode=0o700)


def frames_bytes(entries: list[bytes]) -> int:
    """Return the bytes that these entries take in a segment."""
    return sum(map(len, entries)) + FRAME_BYTES * len(entries)


def count_fitting(entries: list[bytes], room: int) -> int:
    """Return how many of the first `entries` fit into `room` bytes together."""
    return bisect_right(list(accumulate(FRAME_BYTES + len(entry) for entry in entries)), room)


def _ignore(_result: int, _failed: OSError | None) -> None:
    """Ignore the result of closing a file: its contents are durable already, or written again elsewhere."""
