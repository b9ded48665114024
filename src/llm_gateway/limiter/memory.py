"""In-memory rate limiter of one process: 61 one-second buckets per provider, with running sums.

A call counts in the whole second in which it was taken. Any 60 seconds overlap at most 61 such seconds, so a sum over
61 buckets that stays within the limit keeps every 60 seconds within it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from llm_gateway.limiter.base import Decision, Reservation

BUCKETS = 61
"""Seconds in a window; see the module's docstring."""

_EXCEEDS = Decision(exceeds=True)


class _Window:
    """Counts of the last 61 seconds of one provider. `second` is the newest; second `s` has the index `s % 61`."""

    __slots__ = ("request_sum", "requests", "second", "token_sum", "tokens")

    def __init__(self, second: int) -> None:
        self.second = second
        self.requests = [0] * BUCKETS
        self.tokens = [0] * BUCKETS
        self.request_sum = 0
        self.token_sum = 0

    def advance(self, second: int) -> None:
        """Move the window's end to `second`, and drop the seconds that leave the window."""
        # At most one turn around the ring, however long nothing happened.
        for passed in range(max(self.second, second - BUCKETS) + 1, second + 1):
            index = passed % BUCKETS
            self.request_sum -= self.requests[index]
            self.token_sum -= self.tokens[index]
            self.requests[index] = self.tokens[index] = 0
        self.second = second

    def fits_at(self, rpm: int, tpm: int, tokens: int) -> int:
        """Return the first second in which a request with `tokens`, which does not fit now, fits if no other comes."""
        requests_over = self.request_sum + 1 - rpm
        tokens_over = self.token_sum + tokens - tpm
        for leaving in range(self.second - BUCKETS + 1, self.second + 1):  # the oldest second leaves first
            requests_over -= self.requests[leaving % BUCKETS]
            tokens_over -= self.tokens[leaving % BUCKETS]
            if requests_over <= 0 and tokens_over <= 0:
                break
        return leaving + BUCKETS


class MemoryLimiter:
    """A `Limiter` that counts the calls of one process.

    `clock` returns seconds. If it steps back, the limiter's time stands still for a moment and then goes on from there.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now = clock()
        self._behind = 0.0
        self._windows: dict[str, _Window] = {}

    async def take(self, provider_id: str, rpm: int, tpm: int, tokens: int) -> Decision:
        """Reserve one request and `tokens` if both fit into the limits `rpm` and `tpm`; otherwise reserve nothing.

        `exceeds` is True if waiting cannot help: `tokens` is above `tpm`, or `rpm` is 0. Otherwise `retry_after_s` is
        the time until the request fits if no other comes; it is above 0.
        """
        if tokens > tpm or rpm < 1:
            return _EXCEEDS
        tokens = max(tokens, 0)
        window = self._window(provider_id)
        if window.request_sum < rpm and window.token_sum + tokens <= tpm:
            second = window.second
            index = second % BUCKETS
            window.requests[index] += 1
            window.tokens[index] += tokens
            window.request_sum += 1
            window.token_sum += tokens
            return Decision(Reservation(provider_id, second, tokens))
        return Decision(None, window.fits_at(rpm, tpm, tokens) - self._now)

    def settle(self, reservation: Reservation, *, tokens: int, sent: bool = True) -> None:
        """Correct the reservation to `tokens` (negative counts as 0); `sent=False` releases the request as well.

        It has no effect once the reservation's second has left the window. A second `settle` would release what other
        calls reserved in that second; sums and counts stay consistent even then.
        """
        window = self._windows.get(reservation.provider_id)
        if window is None or not window.second - BUCKETS < reservation.bucket <= window.second:
            return
        index = reservation.bucket % BUCKETS
        change = max(max(tokens, 0) - reservation.tokens, -window.tokens[index])  # no count goes below 0
        window.tokens[index] += change
        window.token_sum += change
        if not sent and window.requests[index] > 0:
            window.requests[index] -= 1
            window.request_sum -= 1

    def refill(self, provider_id: str, age_s: float, tokens: int) -> None:
        """Count one request and `tokens` of a call that an earlier run made `age_s` seconds ago.

        It counts in the second after its start, but not later than now: records hold the time at which a call started,
        and its provider may have received it a little later.
        """
        window = self._window(provider_id)
        second = min(int(self._now - age_s) + 1, window.second)
        if second > window.second - BUCKETS:
            window.requests[second % BUCKETS] += 1
            window.tokens[second % BUCKETS] += max(tokens, 0)
            window.request_sum += 1
            window.token_sum += max(tokens, 0)

    def forget(self, provider_id: str) -> None:
        """Drop the window of a deleted provider; settling its open reservations then has no effect."""
        self._windows.pop(provider_id, None)

    def _window(self, provider_id: str) -> _Window:
        """Return the provider's window, advanced to the current second."""
        now = self._clock() + self._behind
        if now < self._now:
            self._behind += self._now - now
            now = self._now
        self._now = now
        second = int(now)
        window = self._windows.get(provider_id)
        if window is None:
            window = self._windows[provider_id] = _Window(second)
        elif second > window.second:
            window.advance(second)
        return window
