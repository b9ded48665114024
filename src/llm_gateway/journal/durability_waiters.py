"""Futures of callers that wait for journal entries to become durable, with a time limit."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from llm_gateway.errors import JournalUnavailable

PATIENCE_S = 2.0
"""Seconds that a client's answer waits for its usage record to become durable, before it fails."""

NOT_DURABLE = "The usage record of this answer could not be made durable."


class _Waiter(NamedTuple):
    """A future for the moment when the first `entries` entries are durable; fails at `deadline` (the loop's clock)."""

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
        """Return a future that is done once the first `entries` entries are durable.

        It fails with JournalUnavailable after `patience_s` seconds.
        """
        future = self._loop.create_future()
        self._waiting.append(_Waiter(entries, self._loop.time() + self._patience_s, future))
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(self._patience_s, self._expire)
        return future

    def longest_wait_s(self) -> float:
        """Return the seconds that the oldest waiter has waited; 0 without one."""
        return self._loop.time() - self._waiting[0].deadline + self._patience_s if self._waiting else 0.0

    def lower(self, number: int) -> None:
        """Adjust the waiters after entry `number` (from 1) was removed: later entries move up by one."""
        self._waiting = deque(
            waiter._replace(entries=waiter.entries - 1) if waiter.entries >= number else waiter
            for waiter in self._waiting
        )

    def release(self, entries: int) -> None:
        """Complete the futures of everyone waiting for the first `entries` entries or fewer."""
        while self._waiting and self._waiting[0].entries <= entries:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_result(None)

    def close(self) -> None:
        """Cancel the timer; futures still pending stay pending."""
        if self._watchdog is not None:
            self._watchdog.cancel()

    def _expire(self) -> None:
        """Fail the futures whose deadline has passed, and set the timer to the next deadline."""
        now = self._loop.time()
        while self._waiting and self._waiting[0].deadline <= now:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_exception(JournalUnavailable(NOT_DURABLE, retry_after_s=5))
        self._watchdog = None
        if self._waiting:
            self._watchdog = self._loop.call_at(self._waiting[0].deadline, self._expire)
