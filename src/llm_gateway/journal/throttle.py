"""Make a background thread sleep at intervals, so that the event loop's thread gets the GIL."""

from __future__ import annotations

import time
from collections.abc import Callable

WORK_S = 0.0004
REST_S = 0.0002
"""Seconds of work between two sleeps, and seconds of each sleep: at most two thirds of the time is work."""


class Throttle:
    """Throttle for a background thread: call it between small pieces of work; it sleeps after each `work_s` seconds.

    A thread that works without sleeping takes the GIL whenever the event loop releases it for a system call, and the
    loop then waits a switch interval (sys.getswitchinterval) to get it back: several times per request.
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
        """Sleep `rest_s` seconds if `work_s` seconds have passed since the last sleep."""
        if self._clock() >= self._rest_at:
            self._sleep(self._rest_s)
            self._rest_at = self._clock() + self._work_s
