"""Where the writer's next byte goes: the segment in use, and a spare one that is made before it is needed."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable

from llm_gateway.journal.segments import Files, Log, WriterDir

RETRY_S = 0.5
"""How long after a failure to try again."""


class Worker:
    """A thread that does one job after the other, and tells the loop how each ended."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def do(self, job: Callable[[], int], then: Callable[[int, OSError | None], None]) -> None:
        """Do `job` in the thread, and call `then(its result, its error)` on the loop, whatever happens."""

        def run() -> None:
            result, failed = -1, None
            try:
                result = job()
            except OSError as error:
                failed = error
            except Exception as error:  # edge: whoever waits for the job must hear of any end, and the thread lives on
                failed = OSError(f"a defect: {error!r}")
            self._loop.call_soon_threadsafe(then, result, failed)

        self._jobs.put(run)

    async def stop(self) -> None:
        """End the thread; returns when every job before this has been done and told."""
        ended = self._loop.create_future()
        self._jobs.put(lambda: _tell(self._loop, ended))
        self._jobs.put(None)
        await ended

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _tell(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
    loop.call_soon_threadsafe(ended.set_result, None)


class Tape:
    """The segments of one writer, for its event loop only.

    `has_failed` says that the last try to make a spare failed; it is tried again every half second. `on_spare` is
    called when there is one again.
    """

    def __init__(
        self,
        directory: WriterDir,
        segment_bytes: int,
        files: Files,
        *,
        durable: bool,
        log: Log,
        on_spare: Callable[[], None],
    ) -> None:
        """Begin with the first segment; `durable` as in Files.create.

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
        self._worker = Worker("journal-allocate")
        self._make_spare()

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

    async def close(self) -> None:
        """Close all files, and delete the spare."""
        if self._retry is not None:
            self._retry.cancel()
        await self._worker.stop()
        if self._spare is not None:
            self._files.close(self._spare)
            self._directory.segment(self.number + 1).unlink(missing_ok=True)
        self._files.close(self.fd)

    def _make_spare(self) -> None:
        self._retry = None
        path = self._directory.segment(self.number + 1)
        self._worker.do(lambda: self._files.create(path, self.segment_bytes, durable=self._durable), self._spare_made)

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
