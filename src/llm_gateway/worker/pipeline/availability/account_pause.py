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

from collections.abc import Callable, Sequence
from zlib import crc32

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

    __slots__ = ("_clock", "_in_a_row", "_last", "_seconds", "_until", "is_clear", "is_paused", "permit", "prober")

    def __init__(self, clock: Callable[[], float], permit: int = 1) -> None:
        self._clock = clock
        self.permit = permit
        """The permit of calls while the account is not paused."""
        self.is_paused = False
        """True from the second refusal until a probe is answered."""
        self.prober = 0
        """Id of the worker whose call probes the paused account; 0 while no call does."""
        self._in_a_row = 0
        self._last: tuple[int, int] | None = None
        self._seconds = ACCOUNT_PAUSE_S
        self._until = 0.0
        self.is_clear = True
        """True while no refusal is counted, so that `accepted` need not be called."""

    def admit(self, worker: int = 1) -> int | None:
        """Return a permit for one call, or None while the account is paused; after the pause, for one at a time.

        `worker` is the id of the worker that makes the call.
        """
        if not self.is_paused:
            return self.permit
        if self.prober or self._clock() < self._until:
            return None
        self.prober = worker
        self.permit += 1
        return self.permit

    def holds(self, permit: int) -> bool:
        """Return whether the state has not changed since the permit was given."""
        return permit == self.permit

    def accepted(self, permit: int) -> bool:
        """Report that the provider served the call, so it accepts the key. Returns whether this ended a pause."""
        if permit != self.permit:
            return False
        self._in_a_row = 0
        self.is_clear = True
        if not self.is_paused:
            return False
        self.is_paused, self.prober = False, 0
        self._seconds = ACCOUNT_PAUSE_S
        self._last = None
        self.permit += 1
        return True

    def refused(self, permit: int, request_id: str, content: int) -> float | None:
        """Report a refusal (401, 402, 403). Returns the seconds of the pause it begins, None if it begins none.

        `content` is a hash of the call's body, the same in all workers. Refusals of the same request, or of the same
        content in another request, count once: if the refusal is about one prompt, a client that repeats it must not
        pause the account for all.
        """
        if permit != self.permit:
            return None
        if self.is_paused:
            self._seconds = min(2 * self._seconds, MAX_ACCOUNT_PAUSE_S)
        else:
            last, this = self._last, (crc32(request_id.encode()), content % 2**48)
            if self._in_a_row and last is not None and (last[0] == this[0] or last[1] == this[1]):
                return None
            self._last = this
            self.is_clear = False
            self._in_a_row += 1
            if self._in_a_row < REFUSALS_IN_A_ROW:
                return None
        self.is_paused, self.prober = True, 0
        self._until = self._clock() + self._seconds
        self.permit += 1
        return self._seconds

    def release(self, permit: int) -> None:
        """End the permit of a call that shows nothing about the account; the next call may probe."""
        if permit == self.permit and self.prober:
            self.prober = 0
            self.permit += 1

    def abandon(self) -> None:
        """End the permit of the probing call, whose worker has ended."""
        self.prober = 0
        self.permit += 1

    def successor(self) -> AccountPause:
        """Return an active `AccountPause` to which permits of this one mean nothing."""
        return AccountPause(self._clock, self.permit + 1)

    def dump(self) -> tuple[float, ...]:
        """Return the state for `load`. It begins with the permit."""
        request, content = self._last or (-1, -1)
        return (
            self.permit, self.is_paused, self.prober, self._in_a_row, request, content, self._seconds, self._until
        )  # fmt: skip

    def load(self, dumped: Sequence[float]) -> None:
        """Take over the state that another worker's `dump` returned."""
        permit, paused, prober, in_a_row, request, content, self._seconds, self._until = dumped
        self.permit, self.is_paused, self.prober, self._in_a_row = int(permit), paused > 0, int(prober), int(in_a_row)
        self._last = (int(request), int(content)) if request >= 0 else None
        self.is_clear = not self.is_paused and not self._in_a_row

    def retry_after_s(self) -> float:
        """Return the seconds until a call may start; 0 if it may start now."""
        if not self.is_paused:
            return 0.0
        return PROBE_WAIT_S if self.prober else max(0.0, self._until - self._clock())
