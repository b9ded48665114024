"""Whom not to call now: breakers per (provider, model), and what is known of each provider's health.

A breaker learns from calls that fail; a rest is what a provider itself asked for (429) or brought on (a refused key).
No I/O: the clock and the chance are injected, and whoever makes the calls reports how they ended.

closed ── 5 failures in a row, or half of at least 20 calls in 10 s ──▶ open ── cooldown ends, one call ──▶ half_open
  ▲                                                                      ▲                                    │   │
  │                                                                      └── fails: cooldown doubles ─────────┘   │
  └─────────────────────────── succeeds: all failures forgotten, cooldown back to 30 s ───────────────────────────┘
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

State: TypeAlias = Literal["closed", "open", "half_open"]
RestReason: TypeAlias = Literal["rate_limited", "refused"]

RECENT_S = 10
FAILURES_IN_A_ROW = 5
RATE_MIN_CALLS = 20
COOLDOWN_S = 30.0
MAX_COOLDOWN_S = 300.0
JITTER = 0.2
PROBE_WAIT_S = 1.0
"""What a caller is told to wait while the one call of a half-open breaker is out."""

RATE_LIMITED_REST_S = 10.0
RATE_LIMITED_MAX_REST_S = 120.0
REFUSED_REST_S = 300.0

RETRY_SHARE = 5
"""One retry in so many requests."""
FREE_RETRIES = 3


class _Recent:
    """Two counters over the present second and the nine before it."""

    __slots__ = ("all", "marked", "second", "sum_all", "sum_marked")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.second = 0
        self.all = [0] * RECENT_S
        self.marked = [0] * RECENT_S
        self.sum_all = 0
        self.sum_marked = 0

    def advance(self, now: float) -> int:
        """Let the seconds go that are too old; the index of the present one. A clock that steps back stands still."""
        second = int(now)
        if second > self.second:
            for passed in range(max(self.second, second - RECENT_S) + 1, second + 1):
                index = passed % RECENT_S
                self.sum_all -= self.all[index]
                self.sum_marked -= self.marked[index]
                self.all[index] = self.marked[index] = 0
            self.second = second
        return self.second % RECENT_S

    def count(self, now: float) -> None:
        """Count one."""
        self.all[self.advance(now)] += 1
        self.sum_all += 1

    def mark(self, now: float) -> None:
        """Count one among the marked."""
        self.marked[self.advance(now)] += 1
        self.sum_marked += 1


class CircuitBreaker:
    """The breaker of one (provider, model).

    `admit` gives a permit, or None while no call may start; every permit ends in exactly one of `succeed`, `fail` or
    `release` (neither: cancelled, a deadline the caller had shortened, 4xx, never sent). A permit holds for the state
    it was given in: what calls from before the last change of state report is ignored, so that a late failure does not
    lengthen a cooldown and a late success does not end one. Calls count in the second they end in.
    """

    __slots__ = (
        "_clock",
        "_cooldown_s",
        "_in_a_row",
        "_open_until",
        "_permit",
        "_probing",
        "_random",
        "_recent",
        "_state",
    )

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, random: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._random = random
        self._recent = _Recent()
        self._permit = 1
        self._state: State = "closed"
        self._in_a_row = 0
        self._cooldown_s = COOLDOWN_S
        self._open_until = 0.0
        self._probing = False

    @property
    def state(self) -> State:
        """`half_open` from the cooldown's end on, whether or not the one call is out."""
        if self._state == "open" and self._clock() >= self._open_until:
            return "half_open"
        return self._state

    def admit(self) -> int | None:
        """A permit for one call now, None while there is none; half-open gives one at a time."""
        if self._state == "closed":
            return self._permit
        if self._probing or self._clock() < self._open_until:
            return None
        self._state = "half_open"
        self._probing = True
        self._permit += 1
        return self._permit

    def holds(self, permit: int) -> bool:
        """Whether the state that gave the permit is still the present one."""
        return permit == self._permit

    def succeed(self, permit: int) -> None:
        """The call was answered. Half-open closes, and everything before is forgotten, the cooldown's length too."""
        if permit != self._permit:
            return
        if self._probing:
            self._close()
            return
        self._in_a_row = 0
        self._recent.count(self._clock())
        if self._recent.sum_marked:
            self._judge()

    def fail(self, permit: int) -> None:
        """The call failed by the provider's fault. Half-open opens again for twice as long."""
        if permit != self._permit:
            return
        if self._probing:
            self._open()
            return
        self._in_a_row += 1
        now = self._clock()
        self._recent.count(now)
        self._recent.mark(now)
        self._judge()

    def release(self, permit: int) -> None:
        """The call ended without telling anything; half-open may try another."""
        if permit == self._permit and self._probing:
            self._probing = False
            self._permit += 1

    def retry_after_s(self) -> float:
        """Seconds until a call may start; 0 when it may now."""
        if self._state == "closed":
            return 0.0
        if self._probing:
            return PROBE_WAIT_S
        return max(0.0, self._open_until - self._clock())

    def _judge(self) -> None:
        recent = self._recent
        if self._in_a_row >= FAILURES_IN_A_ROW or (
            recent.sum_all >= RATE_MIN_CALLS and recent.sum_marked * 2 >= recent.sum_all
        ):
            self._open()

    def _open(self) -> None:
        jitter = 1 - JITTER + 2 * JITTER * self._random()
        self._state = "open"
        self._open_until = self._clock() + self._cooldown_s * jitter
        self._cooldown_s = min(2 * self._cooldown_s, MAX_COOLDOWN_S)
        self._probing = False
        self._permit += 1

    def _close(self) -> None:
        self._state = "closed"
        self._in_a_row = 0
        self._recent.clear()
        self._cooldown_s = COOLDOWN_S
        self._probing = False
        self._permit += 1


class Health:
    """What is known of every provider: its breakers, its rest, its calls in flight, its budget of retries.

    Keyed by provider id and model, so as large as the configuration; `forget` a provider that is deleted.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, random: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._random = random
        self._breakers: dict[str, dict[str, CircuitBreaker]] = {}
        self._rests: dict[str, tuple[float, RestReason]] = {}
        self._in_flight: dict[str, int] = {}
        self._calls: dict[str, _Recent] = {}

    def breaker(self, provider_id: str, model: str) -> CircuitBreaker:
        """The breaker of (provider, model). Keep it with its permit: after a `reset` there is another one."""
        breakers = self._breakers.get(provider_id)
        if breakers is None:
            breakers = self._breakers[provider_id] = {}
        breaker = breakers.get(model)
        if breaker is None:
            breaker = breakers[model] = CircuitBreaker(self._clock, self._random)
        return breaker

    def rest(self, provider_id: str, seconds: float | None, reason: RestReason) -> None:
        """Pass the provider over for a while; of two rests the one that ends later holds.

        `rate_limited`: for the `seconds` of its Retry-After (at most 120), 10 without; nothing when they are not above
        zero. `refused` (401, 403): always 5 minutes.
        """
        if reason == "refused":
            seconds = REFUSED_REST_S
        elif seconds is None:
            seconds = RATE_LIMITED_REST_S
        else:
            seconds = min(seconds, RATE_LIMITED_MAX_REST_S)
        until = self._clock() + seconds
        held = self._rests.get(provider_id)
        if seconds > 0 and (held is None or until > held[0]):
            self._rests[provider_id] = (until, reason)

    def resting(self, provider_id: str) -> tuple[float, RestReason] | None:
        """The seconds that remain of its rest and why it rests, None when it does not."""
        rest = self._rests.get(provider_id)
        if rest is None:
            return None
        remaining = rest[0] - self._clock()
        if remaining > 0:
            return remaining, rest[1]
        self._rests.pop(provider_id, None)  # another thread may forget the provider meanwhile
        return None

    def begin(self, provider_id: str) -> None:
        """A call to the provider starts: one more in flight, and one more that its retries are measured by."""
        self._in_flight[provider_id] = self._in_flight.get(provider_id, 0) + 1
        calls = self._calls.get(provider_id)
        if calls is None:
            calls = self._calls[provider_id] = _Recent()
        calls.count(self._clock())

    def end(self, provider_id: str) -> None:
        """That call is over, however it ended."""
        count = self._in_flight.get(provider_id, 0)
        if count > 1:
            self._in_flight[provider_id] = count - 1
        else:
            self._in_flight.pop(provider_id, None)

    def in_flight(self, provider_id: str) -> int:
        """How many calls to the provider have begun and not ended."""
        return self._in_flight.get(provider_id, 0)

    def may_retry(self, provider_id: str) -> bool:
        """Whether a call may be retried on the same provider; if so it is counted as a retry (and `begin` it too).

        Within 10 seconds 3 retries are free; beyond them there is one for every five calls that were no retries.
        """
        calls = self._calls.get(provider_id)
        if calls is None:
            calls = self._calls[provider_id] = _Recent()
        now = self._clock()
        calls.advance(now)
        retries = calls.sum_marked
        if retries >= FREE_RETRIES and (retries + 1) * RETRY_SHARE > calls.sum_all - retries:
            return False
        calls.mark(now)
        return True

    def reset(self, provider_id: str) -> None:
        """Start anew after the provider's configuration changed: breakers closed, no rest. Calls in flight stay."""
        self._breakers.pop(provider_id, None)
        self._rests.pop(provider_id, None)

    def forget(self, provider_id: str) -> None:
        """Drop everything about a provider that is no more."""
        self.reset(provider_id)
        self._in_flight.pop(provider_id, None)
        self._calls.pop(provider_id, None)

    def states(self) -> dict[tuple[str, str], State]:
        """Every breaker's state by (provider_id, model), for the metrics."""
        return {
            (provider_id, model): breaker.state
            for provider_id, breakers in list(self._breakers.items())  # the loop may change them meanwhile
            for model, breaker in list(breakers.items())
        }
