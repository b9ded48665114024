"""Calls of other hosts in a window that all hosts share, as far as the last replies of Redis tell."""

from __future__ import annotations

from collections.abc import Sequence

from llm_gateway.domain.rate_limits import WindowState
from llm_gateway.limiter.base import NOBODY, Before, Reservation
from llm_gateway.limiter.durations import Durations
from llm_gateway.limiter.window import BUCKETS, Window, blend

FULL_S = 0.05
"""Seconds for which a window that was full is believed to be so, without asking again."""

NEVER = float("-inf")


class OtherHosts:
    """The calls of other hosts in one window, noted once in each `second` of Redis's clock; and the window when full.

    All times are in seconds of this host's clock.
    """

    __slots__ = ("_at", "_durations", "_offset_s", "_requests", "_tokens", "_used_share", "full", "full_at", "second")

    def __init__(self) -> None:
        self._at = self.full_at = NEVER
        self._offset_s = self._used_share = 0.0
        self._requests = self._tokens = 0
        self._durations = Durations()
        self.second = -1
        self.full: Window | None = None

    def note(self, now: float, second: int, requests: int, tokens: int, own: WindowState) -> None:
        """Note the sums that Redis told, of which `own` are this host's."""
        self.second, self._at, self.full = second, now, None
        self._requests = max(requests - (own.limit_requests - own.remaining_requests), 0)
        self._tokens = max(tokens - (own.limit_tokens - own.remaining_tokens), 0)

    def note_full(self, now: float, second: int, redis_now: float, fields: Sequence[bytes]) -> None:
        """Note a full window: the fields and values of its hash, at the time `redis_now` of Redis's clock."""
        full = self.full = Window(second)
        counts = {b"r": full.requests, b"k": full.tokens, b"o": full.open_tokens}
        for place in range(0, len(fields), 2):
            kind = counts.get(fields[place][:1])
            if kind is not None and len(fields[place]) > 1:
                kind[int(fields[place][1:])] = int(fields[place + 1])
        full.request_sum, full.token_sum = sum(full.requests), sum(full.tokens)
        full.durations = self._durations
        self.full_at = now
        # Redis's clock can be behind the window's newest second; then the window's time stands still.
        self._offset_s = max(redis_now, float(second)) - now

    def full_s(self, now: float, rpm: int, tpm: int, tokens: int, before: Before = NOBODY) -> float:
        """Return the seconds until a request fits into a window that was full just now; 0 if it is worth asking."""
        full = self.full
        if full is None or now - self.full_at > (FULL_S if before is NOBODY else BUCKETS):
            return 0.0
        now += self._offset_s
        if int(now) > full.second:
            full.advance(int(now))
        tokens = min(max(tokens, 0) + int(before.tokens * self._used_share), tpm)
        return full.wait_s(now, rpm, tpm, tokens, min(before.requests + 1, rpm))

    def settled(self, now: float, reservation: Reservation, tokens: int) -> None:
        """Note the end of a call: it may have made room. How long calls take matters while the window fills up."""
        self.full = None
        if now - self.full_at < BUCKETS:
            self._durations.add(int(now) - reservation.bucket)
            if reservation.tokens:
                self._used_share = blend(self._used_share, reservation.tokens, tokens)

    def left(self, now: float, own: WindowState) -> WindowState:
        """Return what is left of the limits, given what is left after this host's own calls."""
        age_s = now - self._at
        if not self._requests or age_s >= BUCKETS:
            return own
        return WindowState(
            own.limit_requests,
            max(own.remaining_requests - self._requests, 0),
            own.limit_tokens,
            max(own.remaining_tokens - self._tokens, 0),
            max(own.reset_s, BUCKETS - age_s),
        )
