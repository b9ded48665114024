"""Make written files durable without holding up the event loop: by the kernel's asynchronous fdatasync, else a thread.

A sync covers what was written before it began. One runs at a time; what is written meanwhile is covered by the next.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from llm_gateway.journal.file_thread import FileThread
from llm_gateway.journal.linux_aio import MOST_AT_ONCE, AioContext

Then: TypeAlias = Callable[[OSError | None], None]
"""Called on the event loop when a sync has ended: with None when everything is durable, else with the first error."""


class Syncer(Protocol):
    """Syncs descriptors for one event loop.

    syncer.sync([fd], lambda failed: print("durable" if failed is None else failed))
    """

    def sync(self, fds: Sequence[int], then: Then) -> None:
        """Begin to sync all `fds`, which stay open until `then` is called. Not while another sync runs.

        After an error anything may be lost, whatever a later sync of the same descriptor says (fsync(2)). Ignored once
        `close` was called.
        """

    async def close(self) -> None:
        """Return when the running sync has ended and its `then` was called. A second call has no effect."""


class ThreadSyncer:
    """Syncs in a thread of its own, by `sync` (os.fdatasync)."""

    def __init__(self, sync: Callable[[int], None]) -> None:
        self._sync = sync
        self._thread = FileThread("journal-sync")
        self._is_closed = False

    def sync(self, fds: Sequence[int], then: Then) -> None:
        """As in Syncer."""
        todo = [*fds]

        def job() -> int:
            for fd in todo:
                self._sync(fd)
            return 0

        self._thread.do(job, lambda _, failed: then(failed))

    async def close(self) -> None:
        """As in Syncer."""
        if not self._is_closed:
            self._is_closed = True
            await self._thread.stop()


class AioSyncer:
    """Syncs by the kernel. If it ever refuses to begin a sync, `fallback` makes the syncer that is used from then on.

    A refusal (EAGAIN, ENOSYS, EPERM, EINVAL: io_submit(2)) tried nothing and lost nothing; a result that is an error
    may have.
    """

    def __init__(self, aio: AioContext, fallback: Callable[[OSError], Syncer]) -> None:
        self._aio = aio
        self._make_fallback = fallback
        self._fallback: Syncer | None = None
        self._loop = asyncio.get_running_loop()
        self._todo: list[int] = []
        self._running = 0
        self._is_closed = False
        self._failed: OSError | None = None
        self._then: Then | None = None
        self._ended: asyncio.Future[None] | None = None
        self._loop.add_reader(aio.eventfd, self._on_results)

    def sync(self, fds: Sequence[int], then: Then) -> None:
        """As in Syncer."""
        if self._is_closed:
            return
        if self._then is not None:
            raise RuntimeError("A sync runs already.")
        self._todo, self._then, self._failed = [*fds], then, None
        self._submit()

    async def close(self) -> None:
        """As in Syncer."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._then is not None:
            self._ended = self._loop.create_future()
            await self._ended
        if self._fallback is not None:
            await self._fallback.close()
        self._loop.remove_reader(self._aio.eventfd)
        self._aio.close()

    def _submit(self) -> None:
        """Begin the next of what is to be synced."""
        if not self._todo:
            self._loop.call_soon(self._end)
            return
        if self._fallback is not None:
            self._fallback.sync(self._todo, self._on_fallback)
            return
        try:
            self._running = self._aio.submit(self._todo[:MOST_AT_ONCE])
        except OSError as refused:
            self._fall_back(refused)
        else:
            del self._todo[: self._running]

    def _fall_back(self, refused: OSError) -> None:
        try:
            self._fallback = self._make_fallback(refused)
        except RuntimeError as error:  # no thread can be started
            self._failed = self._failed or OSError(str(error))
            self._todo.clear()
        self._submit()

    def _on_results(self) -> None:
        results = self._aio.results()
        if not results:  # a signal that came after its event was taken already
            return
        for result in results:
            self._running -= 1
            if result < 0 and self._failed is None:
                self._failed = OSError(-result, os.strerror(-result))
        if not self._running:
            self._submit() if self._todo else self._end()

    def _on_fallback(self, failed: OSError | None) -> None:
        self._failed = self._failed or failed
        self._end()

    def _end(self) -> None:
        then, self._then = self._then, None
        if then is not None:
            then(self._failed)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


def open_syncer(
    sync: Callable[[int], None], log: Callable[..., None], *, make_aio: Callable[[], AioContext] = AioContext
) -> Syncer:
    """The kernel's syncer; where there is none or it refuses, a thread that calls `sync`, and a line in the log."""

    def in_a_thread(reason: OSError) -> Syncer:
        log("the kernel does not sync the usage journal asynchronously: a thread does", reason=str(reason))
        return ThreadSyncer(sync)

    try:
        return AioSyncer(make_aio(), in_a_thread)
    except OSError as error:
        return in_a_thread(error)
