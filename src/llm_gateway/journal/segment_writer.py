"""Write to the journal's current segment file, and allocate the next one (the spare) before it is needed."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import partial
from itertools import accumulate

from llm_gateway.journal.file_thread import FileThread
from llm_gateway.journal.segments import ZEROS, FileSystem, Log, WriterDir

RETRY_S = 0.5
"""Seconds between two tries to allocate a spare segment, or to write after an error."""

TRIAL_BYTES = 4096
"""Bytes written to find out whether the disk works again: one page."""


class SegmentWriter:
    """Appends bytes to one journal's segment files; for its event loop only.

    `has_failed` is True while the last try to allocate a spare failed; the next try comes half a second later.
    `on_spare` is called whenever a spare was allocated.
    """

    def __init__(
        self,
        directory: WriterDir,
        segment_bytes: int,
        files: FileSystem,
        *,
        durable: bool,
        log: Log,
        on_spare: Callable[[], None],
    ) -> None:
        """Create the first segment; `durable` as in FileSystem.create.

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
        self._log = log
        self._on_spare = on_spare
        self._loop = asyncio.get_running_loop()
        self.fd = files.create(directory.segment(1), segment_bytes, durable=durable)
        self._spare: int | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._thread = FileThread("journal-allocate")
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
        before, self.fd, self._spare = self.fd, self._spare, None
        self.number += 1
        self.offset = 0
        self._make_spare()
        return before

    def discard(self, fds: Iterable[int]) -> None:
        """Close file descriptors in the thread: closing the last one of a deleted file takes milliseconds."""
        for fd in fds:
            self._thread.do(partial(self._close, fd), _ignore)

    async def close(self) -> None:
        """Stop the thread, close the current segment, and delete the spare."""
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

    def _make_spare(self) -> None:
        self._retry = None
        path = self._directory.segment(self.number + 1)
        self._thread.do(lambda: self._files.create(path, self.segment_bytes, durable=self._durable), self._spare_made)

    def _spare_made(self, fd: int, failed: OSError | None) -> None:
        if failed is None:
            self._spare = fd
            self.has_failed = False
            self._on_spare()
            return
        if not self.has_failed:
            self._log("no space for the usage journal's next segment", level="warning", reason=str(failed))
        self.has_failed = True
        # Harmless if set while `close` waits for the thread: when the timer fires, the thread takes no more jobs.
        self._retry = self._loop.call_later(RETRY_S, self._make_spare)


def count_fitting(frames: list[bytes], room: int) -> int:
    """Return how many of the first `frames` fit into `room` bytes together."""
    return bisect_right(list(accumulate(map(len, frames))), room)


def _ignore(_result: int, _failed: OSError | None) -> None:
    """Ignore the result of closing a file: its contents are durable already, or written again elsewhere."""
