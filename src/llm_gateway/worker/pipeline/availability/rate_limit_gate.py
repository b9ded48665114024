"""Hold back calls to one model of a provider that answers 429 (Too Many Requests).

No I/O: the clock is injected, and the caller reports how each call ended. One `RateLimitGate` per (provider, model):

open ── 5 × 429 in a row, or half of at least 10 calls in 10 s ──▶ closed ── its wait is over, the next call ──▶ open

A single 429 concerns its own request. The count of 429s in a row outlives the closing, so the next 429 without a
success between closes the gate again, for twice as long where the provider names no wait.
"""

from __future__ import annotations

from collections.abc import Callable

from llm_gateway.worker.pipeline.availability.sliding_counts import WINDOW_S, SlidingCounts

LIMITED_IN_A_ROW = 5
LIMITED_MIN_CALLS = 10
GATE_PAUSE_S = 0.5
MAX_GATE_PAUSE_S = 8.0
MAX_SAID_S = 120.0


class RateLimitGate:
    """Whether calls of one (provider, model) are held back because the provider answers 429."""

    __slots__ = ("_clock", "_pause_s", "_recent", "_until", "in_a_row", "is_closed")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._recent = SlidingCounts()
        self._pause_s = GATE_PAUSE_S
        self._until = 0.0
        self.is_closed = False
        self.in_a_row = 0
        """429s since the last call that was served; while 0, `accepted` need not be called."""

    def closed_for_s(self) -> float:
        """Seconds until the next call may start; 0 or less when it may now."""
        return self._until - self._clock() if self.is_closed else 0.0

    def reopen(self) -> None:
        """Let calls through again, once `closed_for_s` is over."""
        self.is_closed = False

    def accepted(self) -> None:
        """A call was served."""
        self.in_a_row = 0
        self._pause_s = GATE_PAUSE_S

    def limited(self, said_s: float | None, answered: int) -> str | None:
        """A call was answered 429, with `said_s` as its Retry-After. Returns why this closes the gate, None if not.

        `answered` counts the calls that were answered in the last 10 seconds.
        """
        now = self._clock()
        recent = self._recent
        recent.count(now)
        self.in_a_row += 1
        if self.is_closed and self._until > now:  # a call from before it closed
            if said_s is not None:
                self._until = max(self._until, now + min(said_s, MAX_SAID_S))
            return None
        limited, calls = recent.sum_all, recent.sum_all + answered
        if self.in_a_row >= LIMITED_IN_A_ROW:
            why = f"{self.in_a_row} answers 429 in a row"
        elif calls >= LIMITED_MIN_CALLS and limited * 2 >= calls:
            why = f"{limited} of {calls} calls in {WINDOW_S} s answered 429"
        else:
            return None
        if said_s is None or not said_s > 0:
            said_s = self._pause_s
            self._pause_s = min(2 * self._pause_s, MAX_GATE_PAUSE_S)
        self._until = now + min(said_s, MAX_SAID_S)
        was_closed, self.is_closed = self.is_closed, True
        recent.clear()
        return None if was_closed else why

    def wait_s(self, said_s: float | None) -> float:
        """What a client whose call was answered 429 is told to wait, in seconds."""
        seconds = self.closed_for_s()
        if seconds > 0:
            return seconds
        return GATE_PAUSE_S if said_s is None else min(said_s, MAX_SAID_S)
