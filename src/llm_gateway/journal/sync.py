"""Sync written files to disk without blocking the event loop: in the C threads of its library, else in a Python thread.

A sync covers what was written before it started. One runs at a time; what is written meanwhile is left to the next.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from llm_gateway.journal.file_thread import FileThread
from llm_gateway.journal.libuv_fdatasync import LibuvPool

Then: TypeAlias = Callable[[OSError | None], None]
"""Called on the event loop when a sync has ended: with None when everything is durable, else with the first error."""


class Syncer(Protocol):
    """Asynchronous sync of file descriptors for one event loop: the contract between the journal writer and the disk.

        syncer = open_syncer(os.fdatasync, log)
        syncer.sync([fd], lambda failed: print("durable" if failed is None else failed))
        ...  # `then` is called on the event loop; only then the next sync
        await syncer.close()

    Order of calls: any number of `sync`, each after the `then` of the one before; `close` last. All on the event loop.
    """

    def sync(self, fds: Sequence[int], then: Then) -> None:
        """Start to sync all `fds`, and return at once; `then` is called once, later, never from within this call.

        The caller keeps the descriptors open until then. Not called while another sync runs. A call after `close` may
        be ignored, without calling `then`.

        After an error everything written since the last good sync may be lost, even if a later sync of the same
        descriptor succeeds (fsync(2)): the caller must write it again elsewhere.
        """

    async def close(self) -> None:
        """Wait for the running sync and its `then`, and free the resources. A second call has no effect."""


class ThreadSyncer:
    """Syncer with its own thread, which calls `sync` (os.fdatasync) on each descriptor."""

    def __init__(self, sync: Callable[[int], None]) -> None:
        self._sync = sync
        self._thread = FileThread("journal-sync")
        self._is_closed = False

    def sync(self, fds: Sequence[int], then: Then) -> None:
        """Start to sync all `fds`, in order, in the thread."""
        todo = [*fds]

        def job() -> int:
            for fd in todo:
                self._sync(fd)
            return 0

        self._thread.do(job, lambda _, failed: then(failed))

    async def close(self) -> None:
        """End the thread after the running sync. A second call has no effect."""
        if not self._is_closed:
            self._is_closed = True
            await self._thread.stop()


class PoolSyncer:
    """Syncer that uses the C thread pool of the event loop, one descriptor after the other."""

    def __init__(self, pool: LibuvPool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._todo: list[int] = []
        self._is_closed = False
        self._failed: OSError | None = None
        self._then: Then | None = None
        self._ended: asyncio.Future[None] | None = None

    def sync(self, fds: Sequence[int], then: Then) -> None:
        """Start to sync all `fds`, in order.

        Raises:
            RuntimeError: another sync is running.
        """
        if self._is_closed:
            return
        if self._then is not None:
            raise RuntimeError("Another sync is already running.")
        self._todo, self._then, self._failed = [*fds], then, None
        self._next()

    async def close(self) -> None:
        """Wait for the running sync and its `then`. A second call has no effect."""
        self._is_closed = True
        if self._then is not None:
            self._ended = self._ended or self._loop.create_future()
            await self._ended

    def _next(self) -> None:
        """Sync the next descriptor, or end this sync if none is left."""
        if self._todo:
            try:
                self._pool.fdatasync(self._todo.pop(0), self._on_result)
            except OSError as refused:
                self._failed = self._failed or refused
                self._todo.clear()
            else:
                return
        self._loop.call_soon(self._end)

    def _on_result(self, result: int) -> None:
        if result < 0 and self._failed is None:
            self._failed = OSError(-result, os.strerror(-result))
        self._next()

    def _end(self) -> None:
        then, self._then = self._then, None
        if then is not None:
            then(self._failed)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


def open_syncer(
    sync: Callable[[int], None],
    log: Callable[..., None],
    *,
    make_pool: Callable[[asyncio.AbstractEventLoop], LibuvPool] = LibuvPool,
) -> Syncer:
    """Return a PoolSyncer; where the event loop has no C threads, log that and return a ThreadSyncer over `sync`."""
    try:
        return PoolSyncer(make_pool(asyncio.get_running_loop()))
    except OSError as error:
        log("the event loop has no C threads: a Python thread syncs the usage journal", reason=str(error))
        return ThreadSyncer(sync)
