"""Pause calls to a provider's account after it refused the key or the account (401, 402, 403).

No I/O: the clock is injected, and the caller reports how each call ended. One `AccountPause` per provider:

free ── 2 refusals in a row, of different requests ──▶ paused ── time is over, one call ──▶ probing
 ▲ ▲                                                     ▲                                   │  │
 │ └── a passing test, another key or address            └── refused: twice as long, ≤ 300 s ┘  │
 └────────────────────── answered: the count and the length are forgotten ──────────────────────┘

A probe that ends with neither (timeout, 5xx) lets the next call probe. The log calls a paused account resting.
"""

from __future__ import annotations

from collections.abc import Callable

REFUSALS_IN_A_ROW = 2
ACCOUNT_PAUSE_S = 15.0
MAX_ACCOUNT_PAUSE_S = 300.0
PROBE_WAIT_S = 1.0
"""What a client is told to wait while the one probing call is out."""


class AccountPause:
    """Whether calls to one provider's account are let through.

    `admit` gives a permit, or None while the account is paused. Every permit ends in one of `accepted`, `refused` or
    `release`; what calls from before the last change of state report is ignored.
    """

    __slots__ = ("_clock", "_in_a_row", "_last", "_paused", "_permit", "_probing", "_seconds", "_until", "is_clear")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._permit = 1
        self._paused = False
        self._probing = False
        self._in_a_row = 0
        self._last: tuple[str, int] | None = None
        self._seconds = ACCOUNT_PAUSE_S
        self._until = 0.0
        self.is_clear = True
        """No refusal is counted: `accepted` need not be called."""

    @property
    def is_paused(self) -> bool:
        """True from the second refusal until a probe is answered."""
        return self._paused

    def admit(self) -> int | None:
        """Return a permit for one call, or None while the account is paused; after the pause, for one at a time."""
        if not self._paused:
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
        """The provider served the call, so it takes the key. Returns whether this ended a pause."""
        if permit != self._permit:
            return False
        self._in_a_row = 0
        self.is_clear = True
        if not self._paused:
            return False
        self._paused = self._probing = False
        self._seconds = ACCOUNT_PAUSE_S
        self._last = None
        self._permit += 1
        return True

    def refused(self, permit: int, request_id: str, content: int) -> float | None:
        """The provider refused the account. Returns the seconds of the pause that this begins, None if it begins none.

        The same request, or the same `content` (a hash of what was sent) in another one, counts once: a refusal that
        is really about one prompt, sent again by its client, must not take the provider from everybody.
        """
        if permit != self._permit:
            return None
        if self._paused:
            self._seconds = min(2 * self._seconds, MAX_ACCOUNT_PAUSE_S)
        else:
            last = self._last
            if self._in_a_row and last is not None and (last[0] == request_id or last[1] == content):
                return None
            self._last = (request_id, content)
            self.is_clear = False
            self._in_a_row += 1
            if self._in_a_row < REFUSALS_IN_A_ROW:
                return None
        self._paused, self._probing = True, False
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
        if not self._paused:
            return 0.0
        return PROBE_WAIT_S if self._probing else max(0.0, self._until - self._clock())
