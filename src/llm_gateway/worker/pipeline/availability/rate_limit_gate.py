"""Hold back calls to one model of a provider that answers 429 (Too Many Requests).

No I/O: the clock is injected, and the caller reports how each call ended. One `RateLimitGate` per (provider, model):

    open ── 5 × 429 in a row, or half of at least 10 calls in 10 s ──▶ closed ── wait is over ──▶ reopening
      ▲                                                                  ▲                          │   │
      │                                                                  └──── the same again ──────┘   │
      └────────── 10 s in which no call was held back, with less than 25 % of 429s ─────────────────────┘

The wait is what the provider asks for, or else 0.5 s, doubled each time up to 8 s. Fewer 429s concern their own
requests only. The count of 429s in a row survives the reopening, so one more 429 before a success closes the gate
again.

A gate reopens with one call a second. Once one is accepted, calls go through at the rate at which they were accepted
before the gate closed. It grows by a third each second; each 429 lowers it, at most to the rate of accepted calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from llm_gateway.worker.pipeline.availability.sliding_counts import WINDOW_S, SlidingCounts

GateState: TypeAlias = Literal["open", "closed", "reopening"]
_STATES: tuple[GateState, ...] = ("open", "closed", "reopening")

LIMITED_IN_A_ROW = 5
LIMITED_MIN_CALLS = 10
GATE_PAUSE_S = 0.5
"""First wait, in seconds, after a 429 without Retry-After."""
TOLD_PAUSE_S = 1.0
"""Retry-After, in seconds, for a client whose call got a 429 without one. SDKs would come again at once without it."""
MAX_GATE_PAUSE_S = 8.0
MAX_RETRY_AFTER_S = 120.0
"""Longest Retry-After, in seconds, that is followed; a longer one counts as this."""
TRIAL_PER_S = 1.0
"""Calls a second until the first one is accepted."""
LEAST_PER_S = 0.5
MOST_PER_S = 1000.0
GROWTH = 4 / 3
"""Factor by which the rate grows in a second without a 429."""
BACKOFF = 0.7
"""Factor by which a 429 lowers the rate, though not below the rate at which calls are accepted. Of 0.5, 0.7, 0.8 and
0.9, the factor that keeps most of a provider's limit in use whether or not refused calls count against it."""
FORGET_S = 10.0
"""Seconds without holding a call back after which a reopening gate is open."""


class RateLimitGate:
    """The gate of one (provider, model); it holds calls back while the provider answers 429.

    `is_open` and `counts_served` spare the hot path two calls: while open, `admit` need not be called, and while
    `counts_served` is False, `accepted` need not be.
    """

    __slots__ = (
        "_clock", "_held_at", "_next_at", "_pause_s", "_per_s", "_per_s_at", "_recent", "_until", "_was_accepted",
        "counts_served", "in_a_row", "is_open", "state",
    )  # fmt: skip

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._recent = SlidingCounts()  # 429s, and among all calls while reopening
        self._pause_s = GATE_PAUSE_S
        self._until = 0.0
        self._held_at = 0.0
        self._next_at = 0.0
        self._per_s = TRIAL_PER_S
        self._per_s_at = 0.0
        self._was_accepted = False
        self.state: GateState = "open"
        self.is_open = True
        self.counts_served = False
        self.in_a_row = 0
        """429s since the last call that was served."""

    def closed_for_s(self) -> float:
        """Return the seconds until the gate reopens; 0 or less if calls may start now."""
        return self._until - self._clock() if self.state == "closed" else 0.0

    def admit(self) -> float:
        """Let one call through: return 0; or return the seconds until one may go through. Reopens a closed gate."""
        now = self._clock()
        if self.state == "closed":
            if now < self._until:
                return self._until - now
            self._reopen(now)
        if self.state == "reopening":
            if now - self._held_at >= FORGET_S and self._is_over(now):
                self._set("open")
                return 0.0
            if now < self._next_at:
                self._held_at = now
                return self._next_at - now
            self._next_at = now + 1 / self._rate(now)
        return 0.0

    def wait_of_s(self, calls: int) -> float:
        """Return the seconds until the last one of `calls` calls could go through, if the rate stayed as it is."""
        if self.state == "open":
            return 0.0
        now = self._clock()
        if self.state == "closed":
            return max(self._until - now, 0.0) + (calls - 1) / max(self._per_s, TRIAL_PER_S)
        return max(self._next_at - now, 0.0) + (calls - 1) / self._rate(now)

    def accepted(self) -> None:
        """Report that the provider served a call: reset the count of 429s in a row and the wait."""
        self.in_a_row = 0
        self._pause_s = GATE_PAUSE_S
        if self.state == "open":
            self.counts_served = False
            return
        now = self._clock()
        self._recent.count(now)
        if not self._was_accepted:
            self._was_accepted = True
            self._per_s_at = now
            self._next_at = min(self._next_at, now + 1 / self._per_s)

    def limited(self, retry_after_s: float | None, answered: int, answered_per_s: float = 0.0) -> str | None:
        """Report a 429; `retry_after_s` is its Retry-After. Returns the reason if this closes the gate, otherwise None.

        `answered` is the number of calls that were answered in the last 10 seconds, `answered_per_s` their rate.
        """
        now = self._clock()
        recent = self._recent
        recent.count(now)
        recent.mark(now)
        self.in_a_row += 1
        self.counts_served = True
        if self.state == "closed" and self._until > now:  # a call from before it closed
            if retry_after_s is not None:
                self._until = max(self._until, now + min(retry_after_s, MAX_RETRY_AFTER_S))
            return None
        if self.state == "reopening":
            rate = self._rate(now)
            lowered = max(rate * BACKOFF, min(rate, recent.per_second(now)))
            self._per_s, self._per_s_at = max(lowered, LEAST_PER_S), now
        limited, calls = recent.sum_marked, recent.sum_marked + answered
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
        was_closed = self.state == "closed"
        self._set("closed")
        self._per_s = max(answered_per_s, LEAST_PER_S)
        recent.clear()
        return None if was_closed else why  # closed again before any call reopened it: not a change to log

    def wait_s(self, retry_after_s: float | None) -> float:
        """Return the Retry-After, in seconds, for a client whose call got a 429 with `retry_after_s`."""
        seconds = self.closed_for_s()
        if seconds > 0:
            return seconds
        if retry_after_s is None or not retry_after_s > 0:
            return TOLD_PAUSE_S
        return min(retry_after_s, MAX_RETRY_AFTER_S)

    def dump(self) -> tuple[float, ...]:
        """Return the state, without the calls of the last ten seconds, for `load`."""
        return (
            _STATES.index(self.state), self._until, self._held_at, self._next_at, self._per_s, self._per_s_at,
            self._was_accepted, self._pause_s, self.in_a_row, self.counts_served,
        )  # fmt: skip

    def load(self, dumped: Sequence[float]) -> None:
        """Take over the state that another worker's `dump` returned."""
        state, self._until, self._held_at, self._next_at, self._per_s, self._per_s_at = dumped[:6]
        accepted, self._pause_s, in_a_row, counts_served = dumped[6:]
        self._was_accepted, self.in_a_row, self.counts_served = accepted > 0, int(in_a_row), counts_served > 0
        self._set(_STATES[int(state)])

    def _set(self, state: GateState) -> None:
        self.state = state
        self.is_open = state == "open"

    def _reopen(self, now: float) -> None:
        self._set("reopening")
        self._held_at = self._next_at = now
        self._was_accepted = False

    def _rate(self, now: float) -> float:
        """Return the calls a second that may go through now."""
        if not self._was_accepted:
            return TRIAL_PER_S
        grown: float = GROWTH ** min(now - self._per_s_at, FORGET_S)
        return min(self._per_s * grown, MOST_PER_S)

    def _is_over(self, now: float) -> bool:
        """Return whether less than a quarter of the calls of the last 10 seconds were answered 429."""
        self._recent.advance(now)
        return self._recent.sum_marked * 4 < self._recent.sum_all or not self._recent.sum_all
