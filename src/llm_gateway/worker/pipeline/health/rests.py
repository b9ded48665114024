"""Hold calls back after refusals of a provider's account (401, 402, 403) and after 429s of one of its models.

No I/O: the clock is injected, and the caller reports how each call ended.

AccountRest, one per provider:

free ── 2 refusals in a row, of different requests ──▶ resting ── time is over, one call ──▶ probing
 ▲ ▲                                                     ▲                                   │  │
 │ └── a passing test, another key or address            └── refused: twice as long, ≤ 300 s ┘  │
 └────────────────────── answered: the count and the length are forgotten ──────────────────────┘

A probe that ends without telling anything (timeout, 5xx) lets the next call probe.

RateLimitGate, one per (provider, model):

open ── 5 × 429 in a row, or half of at least 10 calls in 10 s ──▶ closed ── its wait is over, the next call ──▶ open

A single 429 concerns its own request. The count of 429s in a row outlives the closing, so the next 429 without a
success between closes the gate again, for twice as long where the provider names no wait.
"""

from __future__ import annotations

from collections.abc import Callable

from llm_gateway.worker.pipeline.health.recent import RECENT_S, Recent

REFUSALS_IN_A_ROW = 2
REST_S = 15.0
MAX_REST_S = 300.0
PROBE_WAIT_S = 1.0
"""What a client is told to wait while the one probing call is out."""

LIMITED_IN_A_ROW = 5
LIMITED_MIN_CALLS = 10
PAUSE_S = 0.5
MAX_PAUSE_S = 8.0
MAX_SAID_S = 120.0


class AccountRest:
    """Whether calls to one provider's account are let through.

    `admit` gives a permit, or None while the account rests. Every permit ends in one of `accepted`, `refused` or
    `release`; what calls from before the last change of state report is ignored.
    """

    __slots__ = ("_clock", "_in_a_row", "_last", "_permit", "_probing", "_resting", "_seconds", "_until", "is_clear")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._permit = 1
        self._resting = False
        self._probing = False
        self._in_a_row = 0
        self._last: tuple[str, int] | None = None
        self._seconds = REST_S
        self._until = 0.0
        self.is_clear = True
        """No refusal is counted: `accepted` need not be called."""

    @property
    def is_resting(self) -> bool:
        """True from the second refusal until a probe is answered."""
        return self._resting

    def admit(self) -> int | None:
        """Return a permit for one call, or None while the account rests; after the rest, for one at a time."""
        if not self._resting:
            return self._permit
        if self._probing or self._clock() < self._until:
            return None
        self._probing = True
        self._permit += 1
        return self._permit

    def holds(self, permit: int) -> bool:
        """Whether the state that gave the permit is still the present one."""
        return permit == self._permit

    def accepted(self, permit: int) -> bool:
        """The provider served the call, so it takes the key. Returns whether this ended a rest."""
        if permit != self._permit:
            return False
        self._in_a_row = 0
        self.is_clear = True
        if not self._resting:
            return False
        self._resting = self._probing = False
        self._seconds = REST_S
        self._last = None
        self._permit += 1
        return True

    def refused(self, permit: int, request_id: str, content: int) -> float | None:
        """The provider refused the account. Returns the seconds of the rest that this begins, None if it begins none.

        The same request, or the same `content` (a hash of what was sent) in another one, counts once: a refusal that
        is really about one prompt, sent again by its client, must not take the provider from everybody.
        """
        if permit != self._permit:
            return None
        if self._resting:
            self._seconds = min(2 * self._seconds, MAX_REST_S)
        else:
            last = self._last
            if self._in_a_row and last is not None and (last[0] == request_id or last[1] == content):
                return None
            self._last = (request_id, content)
            self.is_clear = False
            self._in_a_row += 1
            if self._in_a_row < REFUSALS_IN_A_ROW:
                return None
        self._resting, self._probing = True, False
        self._until = self._clock() + self._seconds
        self._permit += 1
        return self._seconds

    def release(self, permit: int) -> None:
        """The call ended without telling anything about the account; the next call may probe."""
        if permit == self._permit and self._probing:
            self._probing = False
            self._permit += 1

    def retry_after_s(self) -> float:
        """Seconds until a call may start; 0 when it may now."""
        if not self._resting:
            return 0.0
        return PROBE_WAIT_S if self._probing else max(0.0, self._until - self._clock())


class RateLimitGate:
    """Whether calls of one (provider, model) are held back because the provider answers 429."""

    __slots__ = ("_clock", "_pause_s", "_recent", "_until", "in_a_row", "is_closed")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._recent = Recent()
        self._pause_s = PAUSE_S
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
        self._pause_s = PAUSE_S

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
            why = f"{limited} of {calls} calls in {RECENT_S} s answered 429"
        else:
            return None
        if said_s is None or not said_s > 0:
            said_s = self._pause_s
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        self._until = now + min(said_s, MAX_SAID_S)
        was_closed, self.is_closed = self.is_closed, True
        recent.clear()
        return None if was_closed else why

    def wait_s(self, said_s: float | None) -> float:
        """What a client whose call was answered 429 is told to wait, in seconds."""
        seconds = self.closed_for_s()
        if seconds > 0:
            return seconds
        return PAUSE_S if said_s is None else min(said_s, MAX_SAID_S)
