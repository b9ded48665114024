"""The circuit breaker of one (provider, model), which learns from calls that fail.

No I/O: the clock and the chance are injected, and the caller reports how each call ended.

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

from llm_gateway.worker.pipeline.availability.sliding_counts import WINDOW_S, SlidingCounts

State: TypeAlias = Literal["closed", "open", "half_open"]

FAILURES_IN_A_ROW = 5
RATE_MIN_CALLS = 20
COOLDOWN_S = 30.0
MAX_COOLDOWN_S = 300.0
JITTER = 0.2
PROBE_WAIT_S = 1.0
"""What a client is told to wait while the one call of a half-open breaker is out."""


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
        self._recent = SlidingCounts()
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
        """Return a permit for one call, or None while no call may start; half-open allows one at a time."""
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

    def succeed(self, permit: int) -> str | None:
        """Report that the call was answered. Returns why this changes the state, None if it does not.

        Half-open closes, and everything before is forgotten, the cooldown's length too.
        """
        if permit != self._permit:
            return None
        if self._probing:
            self._close()
            return "its trial call was answered"
        self._in_a_row = 0
        self._recent.count(self._clock())
        return self._judge() if self._recent.sum_marked else None

    def fail(self, permit: int) -> str | None:
        """Report that the call failed by the provider's fault. Returns why this opens the breaker, None if it does not.

        Half-open opens again for twice as long.
        """
        if permit != self._permit:
            return None
        if self._probing:
            self._open()
            return "its trial call failed"
        self._in_a_row += 1
        now = self._clock()
        self._recent.count(now)
        self._recent.mark(now)
        return self._judge()

    def release(self, permit: int) -> None:
        """The call ended without telling anything; half-open may try another."""
        if permit == self._permit and self._probing:
            self._probing = False
            self._permit += 1

    def answered(self) -> int:
        """How many calls were answered in the last ten seconds, or since the last change of state."""
        self._recent.advance(self._clock())
        return self._recent.sum_all - self._recent.sum_marked

    def retry_after_s(self) -> float:
        """Seconds until a call may start; 0 when it may now."""
        if self._state == "closed":
            return 0.0
        if self._probing:
            return PROBE_WAIT_S
        return max(0.0, self._open_until - self._clock())

    def _judge(self) -> str | None:
        recent = self._recent
        if self._in_a_row >= FAILURES_IN_A_ROW:
            why = f"{self._in_a_row} failures in a row"
        elif recent.sum_all >= RATE_MIN_CALLS and recent.sum_marked * 2 >= recent.sum_all:
            why = f"{recent.sum_marked} of {recent.sum_all} calls in {WINDOW_S} s failed"
        else:
            return None
        self._open()
        return why

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
