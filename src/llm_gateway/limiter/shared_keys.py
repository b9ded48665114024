"""Rate limiter of service keys over all processes of a host: as that of providers, but most calls need no lock.

    take ──▶ another call of the key in this second? ── no ──▶ counted in the memory, under the lock
                └── yes ──▶ counted there with 16 more, which the next calls in the same second take without the lock
    settle, if calls are counted ahead ──▶ noted ── the next take under the lock, or 0.1 s later ──▶ corrected there

What was counted ahead and not taken is given back in the same way. So too much counts for a moment, never too little,
and nobody waits in line for the room of a key. Only keys with much room left count ahead. A process that ends gives it
back. If one is killed, nobody knows what it had noted and counted ahead: the calls that are noted count like those in
flight, with all their tokens, and up to 16 that no request took count, too, until they leave the window.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from llm_gateway.host_memory import HostMemory
from llm_gateway.limiter.base import Decision, Reservation
from llm_gateway.limiter.key_window import KeyWindow
from llm_gateway.limiter.shared import SharedLimiter
from llm_gateway.limiter.shared_window import KEYS_WINDOWS, WindowTable


class SharedKeyLimiter(SharedLimiter):
    """A `SharedLimiter` for the limits of service keys."""

    _windows: dict[str, KeyWindow]

    def __init__(
        self,
        memory: HostMemory,
        number: int,
        clock: Callable[[], float] = time.monotonic,
        table: WindowTable = KEYS_WINDOWS,
    ) -> None:
        super().__init__(memory, number, clock, table)
        self._noted: set[KeyWindow] = set()
        """Windows in which something may be noted, or counted ahead."""

    def take_now(
        self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str = ""
    ) -> Reservation | Decision | None:
        """Reserve as `take` does, unless another process holds the lock and nothing is counted ahead."""
        window = self._windows.get(provider_id)
        if window is None or not window.ahead_calls:
            return super().take_now(provider_id, rpm, tpm, tokens, model)
        now = self._clock() + self._behind
        if now < self._now or not window.take_ahead(int(now), rpm, tpm, tokens):
            return super().take_now(provider_id, rpm, tpm, tokens, model)
        self._now, self._is_crowded = now, window.is_crowded
        return Reservation(provider_id, window.ahead_second, tokens)

    def settle(self, reservation: Reservation, tokens: int, sent: bool = True, lasted_s: int | None = None) -> None:
        """Correct the reservation; see `Limiter.settle`. One that used more than it had reserved is counted at once."""
        bucket, window = reservation.bucket, self._windows.get(reservation.provider_id)
        tokens = tokens if tokens > 0 else 0  # noqa: FURB136 - max() takes five times as long
        if window is not None and window.is_busy and tokens <= reservation.tokens:
            window.durations.add(int(self._clock() + self._behind) - bucket if lasted_s is None else lasted_s)
            window.note(bucket, reservation.tokens, tokens, 0 if sent else 1)
            self._correct_soon(window)
            return
        super().settle(reservation, tokens, sent, lasted_s)

    def _open(self, provider_id: str) -> KeyWindow:
        return KeyWindow(self._memory, provider_id, self._number, self._table, self._correct_soon)

    def _correct_soon(self, window: KeyWindow) -> None:
        self._noted.add(window)
        self._retry.start()

    def _carry_out(self) -> bool:
        self._late += [partial(_settle_noted, window) for window in self._noted]
        self._noted.clear()
        return super()._carry_out()


def _settle_noted(window: KeyWindow) -> None:
    if window.is_found():
        window.settle_noted()
