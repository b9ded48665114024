"""Writes to a journal's current segment file, and makes a spare one before it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from llm_gateway.journal.file_thread import FileThread
from llm_gateway.journal.segments import ZEROS, FileSystem, Log, WriterDir

RETRY_S = 0.5
"""How long after a failure to try again."""

TRIAL_BYTES = 4096


class SegmentWriter:
    """Appends bytes to one journal's segment files; for its event loop only.

    `has_failed` says that the last try to make a spare failed; it is tried again every half second. `on_spare` is
    called when there is one again.
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
        """Begin with the first segment; `durable` as in FileSystem.create.

        Raises:
            OSError: it cannot be made.
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
        """Write zeros where the next entry goes, which says nothing to a reader: find out whether the disk works.

        Raises:
            OSError: it does not.
        """
        zeros = ZEROS[: min(self.room, TRIAL_BYTES)]
        if zeros and not self._files.write(self.fd, zeros, self.offset):
            raise OSError("nothing was written")

    @property
    def room(self) -> int:
        """Bytes left in the segment in use."""
        return self.segment_bytes - self.offset

    def write(self, data: bytes) -> None:
        """Append `data`, for which there is room; it is in the kernel when this returns.

        Raises:
            OSError: it is not, and the next write goes to the same place.
        """
        written = 0
        while written < len(data):
            count = self._files.write(self.fd, data[written:] if written else data, self.offset + written)
            if not count:
                raise OSError("nothing was written")
            written += count
        self.offset += written

    def rotate(self) -> int:
        """Go on in the spare segment. Returns the descriptor of the one before, for the caller to close.

        Raises:
            OSError: there is no spare segment.
        """
        if self._spare is None:
            raise OSError("no space could be set aside for another segment")
        before, self.fd, self._spare = self.fd, self._spare, None
        self.number += 1
        self.offset = 0
        self._make_spare()
        return before

    def discard(self, fds: Iterable[int]) -> None:
        """Close descriptors in the thread: the last one of a deleted file frees its space, which takes milliseconds."""
        for fd in fds:
            self._thread.do(partial(self._close, fd), _ignore)

    async def close(self) -> None:
        """Close all files, and delete the spare."""
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
        self._retry = self._loop.call_later(RETRY_S, self._make_spare)  # after closing there is no thread to do it


def _ignore(_result: int, _failed: OSError | None) -> None:
    """What became of a descriptor that is given up is nobody's concern: its contents are durable, or written again."""
