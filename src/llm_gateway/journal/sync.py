"""Sync written files to disk without blocking the event loop: by the kernel's asynchronous fdatasync, else in a thread.

A sync covers what was written before it started. One runs at a time; what is written meanwhile is left to the next.
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


class AioSyncer:
    """Syncer that uses Linux AIO. If the kernel ever refuses to start a sync, switch to `fallback(reason)` for good.

    A refusal (EAGAIN, ENOSYS, EPERM, EINVAL: io_submit(2)) loses nothing, since nothing was started. An error in the
    result of a started sync may mean lost data, and goes to the caller.
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
        """Start to sync all `fds` in the kernel, up to 16 at once.

        Raises:
            RuntimeError: another sync is running.
        """
        if self._is_closed:
            return
        if self._then is not None:
            raise RuntimeError("Another sync is already running.")
        self._todo, self._then, self._failed = [*fds], then, None
        self._submit()

    async def close(self) -> None:
        """Wait for the running sync, then close the fallback, if any, and the AIO context."""
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
        """Submit the next descriptors of this sync, or end it if none are left."""
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
        except RuntimeError as error:  # the system has no thread left for the fallback
            self._failed = self._failed or OSError(str(error))
            self._todo.clear()
        self._submit()

    def _on_results(self) -> None:
        results = self._aio.results()
        if not results:  # an earlier call took these results before their signal on the eventfd was read
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
    """Return an AioSyncer; where Linux AIO is unavailable, log that and return a ThreadSyncer that calls `sync`."""

    def in_a_thread(reason: OSError) -> Syncer:
        log("Linux AIO is unavailable: a thread syncs the usage journal", reason=str(reason))
        return ThreadSyncer(sync)

    try:
        return AioSyncer(make_aio(), in_a_thread)
    except OSError as error:
        return in_a_thread(error)
