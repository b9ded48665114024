"""Retry of what could not be done while another process held a lock: some time later, until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

AGAIN_S = 0.1
"""Seconds between two tries. The holder of a lock that is not free within a millisecond does not run at the moment."""


class Retry:
    """Calls `attempt` by a timer of the running event loop until it returns True, also after it has raised.

    Without it a change that waits for the lock is made by the next request of the same process, which may never come.
    """

    __slots__ = ("_attempt", "_timer")

    def __init__(self, attempt: Callable[[], bool]) -> None:
        self._attempt = attempt
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Try later, unless that is due already. Without a running event loop nothing is tried."""
        if self._timer is None and (loop := asyncio._get_running_loop()) is not None:
            self._timer = loop.call_later(AGAIN_S, self._try)

    def stop(self) -> None:
        """Try no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def now(self) -> None:
        """Try at once, and later again if that fails."""
        self.stop()
        self._try()

    def _try(self) -> None:
        self._timer = None
        is_done = False
        try:
            is_done = self._attempt()
        finally:  # also after an error, which the event loop logs
            if not is_done:
                self.start()
