"""Futures of callers that wait for journal entries to become durable, with a time limit."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from llm_gateway.errors import JournalUnavailable

NOT_DURABLE = "The usage record of this answer could not be made durable."


class _Waiter(NamedTuple):
    """Waits until the first `entries` entries are durable, or until `deadline` on the loop's clock."""

    entries: int
    deadline: float
    future: asyncio.Future[None]


class DurabilityWaiters:
    """FIFO of waiters; entry counts and deadlines never decrease."""

    def __init__(self, patience_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._patience_s = patience_s
        self._waiting: deque[_Waiter] = deque()
        self._watchdog: asyncio.TimerHandle | None = None

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def wait(self, entries: int) -> asyncio.Future[None]:
        """Done when so many entries are durable; fails with JournalUnavailable when that takes too long."""
        future = self._loop.create_future()
        self._waiting.append(_Waiter(entries, self._loop.time() + self._patience_s, future))
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(self._patience_s, self._lose_patience)
        return future

    def lower(self, number: int) -> None:
        """The entry of that number (from 1) was taken back: all after it come one earlier."""
        self._waiting = deque(
            waiter._replace(entries=waiter.entries - 1) if waiter.entries >= number else waiter
            for waiter in self._waiting
        )

    def release(self, entries: int) -> None:
        """So many entries are durable now."""
        while self._waiting and self._waiting[0].entries <= entries:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_result(None)

    def close(self) -> None:
        """Nobody is told anything any more."""
        if self._watchdog is not None:
            self._watchdog.cancel()

    def _lose_patience(self) -> None:
        """Answer those who have waited long enough; the next of them is looked after by the same timer."""
        now = self._loop.time()
        while self._waiting and self._waiting[0].deadline <= now:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_exception(JournalUnavailable(NOT_DURABLE, retry_after_s=5))
        self._watchdog = None
        if self._waiting:
            self._watchdog = self._loop.call_at(self._waiting[0].deadline, self._lose_patience)
