"""A thread for file operations that would block the event loop: create, close, sync."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable


class FileThread:
    """A thread that runs file operations in order and reports each result on the event loop."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def do(self, job: Callable[[], int], then: Callable[[int, OSError | None], None]) -> None:
        """Run `job` in the thread, then call `then(result, error)` on the event loop.

        After an error `result` is -1; otherwise `error` is None. `then` is called exactly once for each job.
        """

        def run() -> None:
            result, failed = -1, None
            try:
                result = job()
            except OSError as error:
                failed = error
            except Exception as error:  # edge: `then` must be called whatever happens, and the thread must go on
                failed = OSError(f"unexpected error in a file operation: {error!r}")
            self._loop.call_soon_threadsafe(then, result, failed)

        self._jobs.put(run)

    async def stop(self) -> None:
        """End the thread; return once every job queued before has run and been reported."""
        ended = self._loop.create_future()
        self._jobs.put(lambda: _tell(self._loop, ended))
        self._jobs.put(None)
        await ended

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _tell(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
    loop.call_soon_threadsafe(ended.set_result, None)
