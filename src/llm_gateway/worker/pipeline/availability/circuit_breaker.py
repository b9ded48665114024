"""Circuit breaker of one (provider, model): stop calling it after failures, and try it again with one call at a time.

States and the events that change them; the first cooldown is 30 s, ± 20 % at random, the longest 300 s:

    closed ── failures in a row, or half of ≥ 20 calls in 10 s ──▶ open ── cooldown over, one call ──▶ half_open
      ▲                                                             ▲                                    │   │
      │                                                             └── fail: cooldown doubles ──────────┘   │
      └── succeed: failures are forgotten, cooldown is 30 s again ───────────────────────────────────────────┘

Five failures in a row open it; ten if there were 20 calls in the last ten seconds. Of many calls to a provider that
fails at every fifth, five fail in a row by chance every few minutes.

    state       admit                                succeed, fail                       release
    closed      a permit for every call              counted                             no effect
    open        None                                 ignored: given before it opened     no effect
    half_open   one permit at a time, None besides   closes or opens the breaker         the next call may probe

No I/O: the clock and the random numbers are injected, and the caller reports how each call ended.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from llm_gateway.worker.pipeline.availability.sliding_counts import WINDOW_S, SlidingCounts

State: TypeAlias = Literal["closed", "open", "half_open"]
_STATES: tuple[State, ...] = ("closed", "open", "half_open")

FAILURES_IN_A_ROW = 5
FAILURES_IN_A_ROW_OF_MANY = 10
"""Failures in a row that open the breaker if `RATE_MIN_CALLS` were made in the last ten seconds."""
RATE_MIN_CALLS = 20
COOLDOWN_S = 30.0
MAX_COOLDOWN_S = 300.0
JITTER = 0.2
"""Share by which a cooldown varies at random, so that breakers that opened together do not probe together."""
PROBE_WAIT_S = 1.0
"""Retry-After for clients, in seconds, while the one call of a half-open breaker is in flight."""


class CircuitBreaker:
    """The breaker of one (provider, model).

    `admit` returns a permit, or None while no call may start. End every permit with exactly one of `succeed`, `fail`
    or `release` (for a call that was cancelled, not sent, answered 4xx, or cut short by its request's deadline).

    A permit is bound to the state that gave it: reports from before the last change of state are ignored, so that a
    late failure does not lengthen a cooldown and a late success does not end one. A call counts in the second in which
    it ends.
    """

    __slots__ = (
        "_clock",
        "_cooldown_s",
        "_open_until",
        "_random",
        "_recent",
        "_state",
        "in_a_row",
        "is_closed",
        "permit",
        "prober",
    )

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, random: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._random = random
        self._recent = SlidingCounts()
        self.permit = 1
        """The permit of calls while the breaker is closed."""
        self._state: State = "closed"
        self.is_closed = True
        """True while a permit is given for every call."""
        self.in_a_row = 0
        """Failures since the last call that was answered."""
        self._cooldown_s = COOLDOWN_S
        self._open_until = 0.0
        self.prober = 0
        """Id of the worker whose call probes the half-open breaker; 0 while no call does."""

    @property
    def state(self) -> State:
        """The state now: `half_open` as soon as the cooldown is over, even before the next call."""
        if self._state == "open" and self._clock() >= self._open_until:
            return "half_open"
        return self._state

    def admit(self, worker: int = 1) -> int | None:
        """Return a permit for one call, or None while no call may start; half-open allows one at a time.

        `worker` is the id of the worker that makes the call.
        """
        if self._state == "closed":
            return self.permit
        if self.prober or self._clock() < self._open_until:
            return None
        self._set("half_open")
        self.prober = worker
        self.permit += 1  # each probe gets a number of its own: reports of earlier permits are ignored
        return self.permit

    def holds(self, permit: int) -> bool:
        """Return whether the state has not changed since the permit was given."""
        return permit == self.permit

    def succeed(self, permit: int) -> str | None:
        """Report that the call was answered. Returns the reason if this changes the state, otherwise None.

        A half-open breaker closes, forgets all failures, and resets the cooldown's length. A closed one may open: this
        call may be the 20th of ten seconds, half of which failed.
        """
        if permit != self.permit:
            return None
        if self.prober:
            self._close()
            return "its trial call was answered"
        self.in_a_row = 0
        self._recent.count(self._clock())
        return self._judge() if self._recent.sum_marked else None

    def fail(self, permit: int) -> str | None:
        """Report that the call failed by the provider's fault. Returns the reason if this opens the breaker, or None.

        A half-open breaker opens again, for twice as long.
        """
        if permit != self.permit:
            return None
        if self.prober:
            self._open()
            return "its trial call failed"
        self.in_a_row += 1
        now = self._clock()
        self._recent.count(now)
        self._recent.mark(now)
        return self._judge()

    def release(self, permit: int) -> None:
        """End the permit of a call that shows nothing about the provider; a half-open breaker admits another one."""
        if permit == self.permit and self.prober:
            self.prober = 0
            self.permit += 1

    def abandon(self) -> None:
        """End the permit of the half-open breaker's one call, whose worker has ended."""
        self.prober = 0
        self.permit += 1

    def dump(self) -> tuple[float, ...]:
        """Return the state, without the calls of the last ten seconds, for `load`. It begins with the permit."""
        return (
            self.permit,
            _STATES.index(self._state),
            self.in_a_row,
            self._cooldown_s,
            self._open_until,
            self.prober,
        )

    def load(self, dumped: Sequence[float]) -> None:
        """Take over the state that another worker's `dump` returned. A breaker that it closed forgets its calls."""
        permit, is_open, in_a_row, self._cooldown_s, self._open_until, prober = dumped
        state = _STATES[int(is_open)]
        if state == "closed" != self._state:
            self._recent.clear()
        self._set(state)
        self.permit, self.in_a_row, self.prober = int(permit), int(in_a_row), int(prober)

    def answered(self) -> int:
        """Return the number of calls answered in the last ten seconds, or since the breaker last closed."""
        self._recent.advance(self._clock())
        return self._recent.sum_all - self._recent.sum_marked

    def answered_per_s(self) -> float:
        """Return the calls answered per second in the same time."""
        return self._recent.per_second(self._clock())

    def retry_after_s(self) -> float:
        """Return the seconds until a call may start; 0 if it may start now."""
        if self._state == "closed":
            return 0.0
        if self.prober:
            return PROBE_WAIT_S
        return max(0.0, self._open_until - self._clock())

    def _judge(self) -> str | None:
        recent = self._recent
        has_many = recent.sum_all >= RATE_MIN_CALLS
        if self.in_a_row >= (FAILURES_IN_A_ROW_OF_MANY if has_many else FAILURES_IN_A_ROW):
            why = f"{self.in_a_row} failures in a row"
        elif has_many and recent.sum_marked * 2 >= recent.sum_all:
            why = f"{recent.sum_marked} of {recent.sum_all} calls in {WINDOW_S} s failed"
        else:
            return None
        self._open()
        return why

    def _set(self, state: State) -> None:
        self._state = state
        self.is_closed = state == "closed"

    def _open(self) -> None:
        jitter = 1 - JITTER + 2 * JITTER * self._random()
        self._set("open")
        self._open_until = self._clock() + self._cooldown_s * jitter
        self._cooldown_s = min(2 * self._cooldown_s, MAX_COOLDOWN_S)  # of the next opening, unless a call succeeds
        self.prober = 0
        self.permit += 1

    def _close(self) -> None:
        self._set("closed")
        self.in_a_row = 0
        self._recent.clear()
        self._cooldown_s = COOLDOWN_S
        self.prober = 0
        self.permit += 1
