"""Rate limits in the memory of one process: 61 one-second buckets a provider, with running sums.

A call counts in the whole second it was taken in. Any 60 seconds touch at most 61 such seconds, so a sum over 61
buckets that stays within the limit keeps every 60 seconds within it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from llm_gateway.limiter.base import Decision, Reservation

BUCKETS = 61

_EXCEEDS = Decision(exceeds=True)


class _Window:
    """The last 61 seconds of one provider; `second` is the newest, second `s` is counted at index `s % 61`."""

    __slots__ = ("request_sum", "requests", "second", "token_sum", "tokens")

    def __init__(self, second: int) -> None:
        self.second = second
        self.requests = [0] * BUCKETS
        self.tokens = [0] * BUCKETS
        self.request_sum = 0
        self.token_sum = 0

    def advance(self, second: int) -> None:
        """Let the seconds that left the window go."""
        for passed in range(max(self.second, second - BUCKETS) + 1, second + 1):
            index = passed % BUCKETS
            self.request_sum -= self.requests[index]
            self.token_sum -= self.tokens[index]
            self.requests[index] = self.tokens[index] = 0
        self.second = second

    def fits_at(self, rpm: int, tpm: int, tokens: int) -> int:
        """The second from which a request with `tokens`, which does not fit now, fits if nothing else comes."""
        requests_over = self.request_sum + 1 - rpm
        tokens_over = self.token_sum + tokens - tpm
        for leaving in range(self.second - BUCKETS + 1, self.second + 1):
            requests_over -= self.requests[leaving % BUCKETS]
            tokens_over -= self.tokens[leaving % BUCKETS]
            if requests_over <= 0 and tokens_over <= 0:
                break
        return leaving + BUCKETS


class MemoryLimiter:
    """`limiter.base.Limiter` for one process.

    `clock` gives seconds; where it steps back, time is taken to stand still and to go on from there. Limits are those
    of each call, so a changed limit holds from the next one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now = clock()
        self._behind = 0.0
        self._windows: dict[str, _Window] = {}

    async def take(self, provider_id: str, rpm: int, tpm: int, tokens: int) -> Decision:
        """Take one request and `tokens`, if both fit into the limits `rpm` and `tpm`; otherwise take nothing.

        `exceeds` when no waiting can help (`tokens` above `tpm`, or a limit of no requests at all); else a refusal's
        `retry_after_s` is the time until the request fits, above zero, if nothing else comes.
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
        """Correct the reservation to `tokens` (below zero counts as zero); `sent=False` gives the request back too.

        Nothing happens once its second has left the window. Settle a reservation once: a second time takes what others
        reserved in that second, though the sums stay right and no count goes below zero.
        """
        window = self._windows.get(reservation.provider_id)
        if window is None or not window.second - BUCKETS < reservation.bucket <= window.second:
            return
        index = reservation.bucket % BUCKETS
        change = max(max(tokens, 0) - reservation.tokens, -window.tokens[index])
        window.tokens[index] += change
        window.token_sum += change
        if not sent and window.requests[index] > 0:
            window.requests[index] -= 1
            window.request_sum -= 1

    def refill(self, provider_id: str, age_s: float, tokens: int) -> None:
        """Count a call that was made `age_s` seconds ago, by an earlier run.

        It counts in the second after the one it began in (at most the present one): records tell when a call began,
        and its provider may have seen it later.
        """
        window = self._window(provider_id)
        second = min(int(self._now - age_s) + 1, window.second)
        if second > window.second - BUCKETS:
            window.requests[second % BUCKETS] += 1
            window.tokens[second % BUCKETS] += max(tokens, 0)
            window.request_sum += 1
            window.token_sum += max(tokens, 0)

    def forget(self, provider_id: str) -> None:
        """Drop the window of a provider that is no more; reservations still out are settled into nothing."""
        self._windows.pop(provider_id, None)

    def _window(self, provider_id: str) -> _Window:
        """The provider's window, brought up to now."""
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
