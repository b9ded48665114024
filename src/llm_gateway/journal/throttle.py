"""Make a background thread sleep at intervals, so that the event loop's thread gets the interpreter's lock."""

from __future__ import annotations

import time
from collections.abc import Callable

WORK_S = 0.0004
REST_S = 0.0002


class Throttle:
    """Throttles a background thread: call it between small pieces of work; it sleeps after each `work_s` of them.

    A thread that works without sleeping takes the interpreter's lock whenever the loop gives it up for a system call,
    and the loop then waits a switch interval to get it back: several times a request.
    """

    def __init__(
        self,
        *,
        work_s: float = WORK_S,
        rest_s: float = REST_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._work_s = work_s
        self._rest_s = rest_s
        self._clock = clock
        self._sleep = sleep
        self._rest_at = 0.0

    def __call__(self) -> None:
        """Sleep if it is time to."""
        if self._clock() >= self._rest_at:
            self._sleep(self._rest_s)
            self._rest_at = self._clock() + self._work_s
