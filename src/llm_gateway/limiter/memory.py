"""In-memory rate limiter of one process: a window per provider, and the limits that its providers report."""

from __future__ import annotations

import time
from collections.abc import Callable

from llm_gateway.domain.rate_limits import ReportedLimits, WindowState
from llm_gateway.limiter.base import NOBODY, Before, Decision, OneByOne, Reservation
from llm_gateway.limiter.reported import ModelUse
from llm_gateway.limiter.window import BUCKETS, Window, blend

MOST_WINDOWS, IDLE_S = 1024, 2 * BUCKETS
"""Windows at which those without a call in the last `IDLE_S` seconds are dropped; later at twice those that stay."""
_EXCEEDS = Decision(exceeds=True)


class MemoryLimiter(OneByOne):
    """A `Limiter` that counts the calls of one process.

    `clock` returns seconds. If it steps back, the limiter's time stands still for a moment and then goes on from there.
    `has_models`: the holders of windows report limits of their models, and requests wait for them, as for providers.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, has_models: bool = True) -> None:
        self._clock = clock
        self._has_models = has_models
        self._now = clock()
        self._behind = 0.0
        self._windows: dict[str, Window] = {}
        self._watchers: dict[str, Callable[[], None]] = {}
        self._most = MOST_WINDOWS

    async def take(self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str = "") -> Decision:
        """Reserve one request and `tokens` if both fit into the limits `rpm` and `tpm`; otherwise reserve nothing.

        `exceeds` is True if waiting cannot help: `tokens` is above `tpm`, or `rpm` is 0. Otherwise `retry_after_s` is
        the time until the request fits if no other comes; it is above 0.
        """
        came = self.take_now(provider_id, rpm, tpm, tokens, model)
        if type(came) is Decision:
            return came
        window = self._windows[provider_id]
        return Decision(came, 0.0, False, window.request_sum * 2 > rpm or window.token_sum * 2 > tpm)

    def take_now(self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str = "") -> Reservation | Decision:
        """Reserve as `take` does. Returns the reservation, or the decision that there is none."""
        if tokens > tpm or rpm < 1:
            return _EXCEEDS
        tokens = tokens if tokens > 0 else 0  # noqa: FURB136 - max() takes five times as long
        now, window = self._clock() + self._behind, self._windows.get(provider_id)
        if window is None or now < self._now or now >= window.until:
            window = self._window(provider_id)
        else:
            self._now = now
        wait_s, use = 0.0, None
        if self._has_models:
            use = window.models.get(model)
            if use is None:
                use = window.models[model] = ModelUse()
            wait_s = use.wait_s(self._now, tokens) if use.is_reported else 0.0
        requests, all_tokens = window.request_sum + 1, window.token_sum + tokens
        if requests <= rpm and all_tokens <= tpm and not wait_s:
            window.request_sum, window.token_sum = requests, all_tokens
            second = window.newest = window.second
            index = second % BUCKETS
            window.requests[index] += 1
            window.tokens[index] += tokens
            window.open_tokens[index] += tokens
            if use is None:
                return Reservation(provider_id, second, tokens)
            use.take(self._now, tokens)
            return Reservation(provider_id, second, tokens, model, use.calls, use.tokens)
        window_s = window.wait_s(self._now, rpm, tpm, tokens)
        return Decision(None, max(wait_s, window_s), by_model=wait_s > window_s)

    def settle(self, reservation: Reservation, tokens: int, sent: bool = True, lasted_s: int | None = None) -> None:
        """Correct the reservation to `tokens` (negative counts as 0); `sent=False` releases the request as well.

        It has no effect once the reservation's second has left the window. A second `settle` would release what other
        calls reserved in that second; sums and counts stay consistent even then.
        """
        window = self._windows.get(reservation.provider_id)
        if window is None:
            return
        tokens = tokens if tokens > 0 else 0  # noqa: FURB136 - max() takes five times as long
        bucket, reserved = reservation.bucket, reservation.tokens
        window.durations.add(int(self._clock() + self._behind) - bucket if lasted_s is None else lasted_s)
        newest, index = window.second, bucket % BUCKETS
        if not newest - BUCKETS < bucket <= newest:
            return
        # No count goes below 0.
        count, still_open = window.tokens[index], window.open_tokens[index] - reserved
        left = count + tokens - reserved
        left = left if left > 0 else 0  # noqa: FURB136 - max() takes five times as long
        window.tokens[index] = left
        window.token_sum += left - count
        window.open_tokens[index] = still_open if still_open > 0 else 0  # noqa: FURB136 - max() takes five times as long
        if not sent and window.requests[index] > 0:
            window.requests[index] -= 1
            window.request_sum -= 1
        if self._has_models and reserved:
            window.used_share = blend(window.used_share, reserved, tokens)
        if self._watchers:
            self._freed(reservation.provider_id)

    def next_free(
        self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str = "", *, before: Before = NOBODY
    ) -> float:
        """Return the seconds until a request could fit if those `before` it, and no others, come first; 0 if now."""
        window = self._window(provider_id)
        requests = before.requests + 1
        tokens = min(max(tokens, 0) + int(before.tokens * window.used_share), tpm)
        use = window.models.get(model)
        reported = use.wait_s(self._now, tokens, requests) if use is not None and use.is_reported else 0.0
        return max(reported, window.wait_s(self._now, rpm, tpm, tokens, min(requests, rpm)))

    def cap(self, reservation: Reservation, reported: ReportedLimits) -> None:
        """Lower the window of (provider, model) to what the provider reported with the response to this call."""
        window = self._windows.get(reservation.provider_id)
        use = None if window is None else window.models.get(reservation.model)
        if use is None:
            return
        self._window(reservation.provider_id)  # advances `_now`
        use.report(reported, self._now, reservation.calls_taken, reservation.tokens_taken)
        if self._watchers:
            self._freed(reservation.provider_id)

    def uncap(self, provider_id: str, changed_ms: int) -> None:
        """Forget what the provider reported of its limits, once for a change of its account at `changed_ms`."""
        window = self._windows.get(provider_id)
        if window is not None and window.uncapped_ms < changed_ms:
            window.uncapped_ms = changed_ms
            for use in window.models.values():
                use.forget_report()

    def state(self, provider_id: str, rpm: int, tpm: int, model: str = "") -> WindowState:
        """Return what is left of the limits now; the smaller one of the window's and of what the provider reported."""
        window = self._window(provider_id)
        requests, tokens = rpm - window.request_sum, tpm - window.token_sum
        use = window.models.get(model)
        if use is not None and use.is_reported:
            requests, tokens = use.left(self._now, requests, tokens)
        reset_s = window.newest + BUCKETS - self._now if window.request_sum else 0.0
        requests = requests if requests > 0 else 0  # noqa: FURB136 - max() takes five times as long
        tokens = tokens if tokens > 0 else 0  # noqa: FURB136 - max() takes five times as long
        return WindowState(rpm, requests, tpm, tokens, reset_s if reset_s > 0 else 0.0)

    def watch(self, provider_id: str, freed: Callable[[], None] | None) -> None:
        """Call `freed` whenever a settled call or a provider's report can have made room; None ends it."""
        if freed is None:
            self._watchers.pop(provider_id, None)
        else:
            self._watchers[provider_id] = freed

    def refill(self, provider_id: str, age_s: float, tokens: int) -> None:
        """Count one request and `tokens` of a call that an earlier run made `age_s` seconds ago.

        It counts in the second after its start, but not later than now: records hold the time at which a call started,
        and its provider may have received it a little later.
        """
        window = self._window(provider_id)
        second = min(int(self._now - age_s) + 1, window.second)
        if second > window.second - BUCKETS:
            window.refill(second, max(tokens, 0))

    def close(self) -> None:
        """Do nothing: all that is counted are calls."""

    def forget(self, provider_id: str) -> None:
        """Drop the window of a deleted provider; settling its open reservations then has no effect."""
        self._windows.pop(provider_id, None)

    def _freed(self, provider_id: str) -> None:
        freed = self._watchers.get(provider_id)
        if freed is not None:
            freed()

    def _window(self, provider_id: str) -> Window:
        """Return the provider's window, advanced to the current second of the limiter's time, which is now `_now`."""
        now = self._clock() + self._behind
        if now < self._now:  # the clock stepped back
            self._behind += self._now - now
            now = self._now
        self._now = now
        second = int(now)
        window = self._windows.get(provider_id)
        if window is None:
            if len(self._windows) >= self._most:
                self._drop_idle(second)
            window = self._windows[provider_id] = Window(second)
        elif second > window.second:
            window.advance(second)
        return window

    def _drop_idle(self, second: int) -> None:
        """Drop the windows that hold nothing: there is one for each service key that was ever used, up to 50,000."""
        self._windows = {
            provider_id: window
            for provider_id, window in self._windows.items()
            if second - window.newest < IDLE_S or any(use.is_reported for use in window.models.values())
        }
        self._most = max(MOST_WINDOWS, 2 * len(self._windows))
