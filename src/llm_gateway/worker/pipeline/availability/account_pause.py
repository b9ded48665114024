"""Pause calls to a provider's account after it refused the key or the account (401, 402, 403).

No I/O: the clock is injected, and the caller reports how each call ended. One `AccountPause` per provider:

    active ── 2 refusals in a row, of different requests ──▶ paused ── time is over, one call ──▶ probing
      ▲                                                        ▲                                   │  │
      │                                                        └── refused: twice as long, ≤ 300 s ┘  │
      └── accepted: count and length of the pause are reset ──────────────────────────────────────────┘

A probe that ends in neither way (time-out, 5xx) lets the next call probe. A new key or address, or a passing test of
the provider, replaces the `AccountPause` with a new, active one.
"""

from __future__ import annotations

from collections.abc import Callable

REFUSALS_IN_A_ROW = 2
ACCOUNT_PAUSE_S = 15.0
"""Length of the first pause in seconds; each refused probe doubles it, up to `MAX_ACCOUNT_PAUSE_S`."""
MAX_ACCOUNT_PAUSE_S = 300.0
PROBE_WAIT_S = 1.0
"""Retry-After for clients, in seconds, while the probing call is in flight."""


class AccountPause:
    """The pause of one provider's account.

    `admit` returns a permit, or None while the account is paused. End every permit with one of `accepted`, `refused`
    or `release`; reports of permits from before the last change of state are ignored.
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
        """True while no refusal is counted, so that `accepted` need not be called."""

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
        """Return whether the state has not changed since the permit was given."""
        return permit == self._permit

    def accepted(self, permit: int) -> bool:
        """Report that the provider served the call, so it accepts the key. Returns whether this ended a pause."""
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
        """Report a refusal (401, 402, 403). Returns the seconds of the pause it begins, None if it begins none.

        `content` is a hash of the call's body. Refusals of the same request, or of the same content in another
        request, count once: if the refusal is about one prompt, a client that repeats it must not pause the account
        for all.
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
        """End the permit of a call that shows nothing about the account; the next call may probe."""
        if permit == self._permit and self._probing:
            self._probing = False
            self._permit += 1

    def retry_after_s(self) -> float:
        """Return the seconds until a call may start; 0 if it may start now."""
        if not self._paused:
            return 0.0
        return PROBE_WAIT_S if self._probing else max(0.0, self._until - self._clock())
