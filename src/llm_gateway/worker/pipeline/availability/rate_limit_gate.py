"""Hold back calls to one model of a provider that answers 429 (Too Many Requests).

No I/O: the clock is injected, and the caller reports how each call ended. One `RateLimitGate` per (provider, model):

    open ── 5 × 429 in a row, or half of at least 10 calls in 10 s ──▶ closed ── wait is over, next call ──▶ open

The wait is the provider's Retry-After, or else 0.5 s, doubled each time up to 8 s. Fewer 429s concern their own
requests only. The count of 429s in a row survives the reopening, so one more 429 before a success closes the gate
again.
"""

from __future__ import annotations

from collections.abc import Callable

from llm_gateway.worker.pipeline.availability.sliding_counts import WINDOW_S, SlidingCounts

LIMITED_IN_A_ROW = 5
LIMITED_MIN_CALLS = 10
GATE_PAUSE_S = 0.5
"""First wait, in seconds, after a 429 without Retry-After."""
MAX_GATE_PAUSE_S = 8.0
MAX_RETRY_AFTER_S = 120.0
"""Longest Retry-After, in seconds, that is followed; a longer one counts as this."""


class RateLimitGate:
    """The gate of one (provider, model); it is closed while calls are held back because the provider answers 429."""

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
        """Return the seconds until the next call may start; 0 or less if it may start now."""
        return self._until - self._clock() if self.is_closed else 0.0

    def reopen(self) -> None:
        """Open the gate; call it before the first call after the wait."""
        self.is_closed = False

    def accepted(self) -> None:
        """Report that the provider served a call: reset the count of 429s in a row and the wait."""
        self.in_a_row = 0
        self._pause_s = GATE_PAUSE_S

    def limited(self, retry_after_s: float | None, answered: int) -> str | None:
        """Report a 429; `retry_after_s` is its Retry-After. Returns the reason if this closes the gate, otherwise None.

        `answered` is the number of calls that were answered in the last 10 seconds.
        """
        now = self._clock()
        recent = self._recent
        recent.count(now)
        self.in_a_row += 1
        if self.is_closed and self._until > now:  # a call from before it closed
            if retry_after_s is not None:
                self._until = max(self._until, now + min(retry_after_s, MAX_RETRY_AFTER_S))
            return None
        limited, calls = recent.sum_all, recent.sum_all + answered
        if self.in_a_row >= LIMITED_IN_A_ROW:
            why = f"{self.in_a_row} answers 429 in a row"
        elif calls >= LIMITED_MIN_CALLS and limited * 2 >= calls:
            why = f"{limited} of {calls} calls in {WINDOW_S} s answered 429"
        else:
            return None
        if retry_after_s is None or not retry_after_s > 0:
            retry_after_s = self._pause_s
            self._pause_s = min(2 * self._pause_s, MAX_GATE_PAUSE_S)
        self._until = now + min(retry_after_s, MAX_RETRY_AFTER_S)
        was_closed, self.is_closed = self.is_closed, True
        recent.clear()
        return None if was_closed else why  # closed again before any call reopened it: not a change to log

    def wait_s(self, retry_after_s: float | None) -> float:
        """Return the Retry-After, in seconds, for a client whose call got a 429 with `retry_after_s`."""
        seconds = self.closed_for_s()
        if seconds > 0:
            return seconds
        return GATE_PAUSE_S if retry_after_s is None else min(retry_after_s, MAX_RETRY_AFTER_S)
