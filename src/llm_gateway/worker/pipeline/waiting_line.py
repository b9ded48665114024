"""Waiting at a rate limit: a fair line per (provider, model), so that a request is served late rather than refused.

    held ──▶ join ──▶ waiting ── its turn ──▶ tries to take a place ── granted ──▶ leave(is_served=True)
                        ▲  │                          │
                        └──┼──── full: again(s) ──────┘
                           └── out of time, provider deleted, or cancelled ──▶ leave

One request of a provider has the turn at a time; it takes the place itself (`rate_limit_waits.py`), or calls `again`
if none is free yet. Lines of the provider's models take turns; within a line, `FairQueue` decides. The turn is given
when the limiter reports room, and at the end of the wait that the last waiter passed to `again`.

Pacing: while two or more customers asked within 60 s and more than half of the window is taken, places are given out
at the limit's own rate. Without it a burst fills the window, and the next place is a minute away for everybody.

While nobody waits there is no timer, and a request costs one look-up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from llm_gateway.domain.catalog import Candidate, Provider
from llm_gateway.limiter.base import NOBODY, Before, Limiter
from llm_gateway.worker.pipeline.fair_queue import FairQueue

MOST_WAITING = 1_000
"""Requests that wait at once, in all lines."""
MOST_OF_CUSTOMER = 100
"""Requests of one customer that wait at once in one line."""
RECENT_S = 60.0
"""Seconds within which a second customer's request turns pacing on."""
SLOWEST = 2
"""Most intervals of the limit's own rate between two places."""


class Waiter:
    """One request in a line. Await `turn`; then call `again` and await it again, or call `leave` in any case.

    `is_deleted`: its provider was deleted.
    """

    __slots__ = (
        "_expiry", "_is_out_of_time", "_lines", "_turn", "candidate", "customer", "is_deleted", "line", "tokens",
    )  # fmt: skip

    def __init__(self, lines: WaitingLines, line: _Line, candidate: Candidate, customer: str, tokens: int) -> None:
        self._lines = lines
        self.line = line
        self.candidate = candidate
        self.customer = customer
        self.tokens = tokens
        self._turn: asyncio.Future[bool] = lines.loop.create_future()
        self._expiry: asyncio.TimerHandle | None = None
        self._is_out_of_time = False
        self.is_deleted = False

    async def turn(self) -> bool:
        """Wait for the turn. Returns False if time is over or the provider was deleted."""
        return await self._turn

    def again(self, seconds: float, *, by_model: bool) -> None:
        """Give the turn back: there is no place for `seconds`, for this model only (`by_model`) or for the provider."""
        self._turn = self._lines.loop.create_future()
        if self._is_out_of_time:
            self._turn.set_result(False)
        self._lines.give_back(self, seconds, by_model=by_model)

    def expected_s(self) -> float:
        """Return the seconds after which it would be served if it joined again."""
        return self._lines.expected_s(self.candidate, self.customer, self.tokens)

    def leave(self, *, is_served: bool) -> None:
        """Leave the line. `is_served`: with a place. A second call does nothing."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
            self._lines.remove(self, is_served=is_served)

    def expire_in(self, seconds: float) -> None:
        """Set the time after which `turn` returns False."""
        self._expiry = self._lines.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._is_out_of_time = True
        self.end(False)

    def end(self, has_turn: bool) -> None:
        """End `turn` with this result, unless it has ended."""
        if not self._turn.done():
            self._turn.set_result(has_turn)


class _Line:
    """The line of one model. `full_until`: no turn before this time, for its gate or its own limits."""

    __slots__ = ("full_until", "queue")

    def __init__(self) -> None:
        self.queue: FairQueue[Waiter] = FairQueue()
        self.full_until = 0.0


class _ProviderLines:
    """The lines of one provider, by model; who asked last, and when someone else did.

    `is_busy`: requests wait, or the window is crowded. `full_until`: the window has no room before this time.
    `changed`: the provider as it was configured last while the gateway ran, None if it was not changed.
    """

    __slots__ = (
        "asked_at", "changed", "count", "customer", "full_until", "holder", "is_busy", "lines", "other_asked_at",
        "paced_until", "timer",
    )  # fmt: skip

    def __init__(self) -> None:
        self.lines: dict[str, _Line] = {}
        self.count = 0
        self.is_busy = False
        self.changed: Provider | None = None
        self.customer = ""
        self.asked_at = self.other_asked_at = float("-inf")
        self.full_until = 0.0
        self.paced_until = 0.0
        self.holder: Waiter | None = None
        self.timer: asyncio.TimerHandle | None = None


class WaitingLines:
    """The lines of all providers. A customer is a request's `user_id`.

    Args:
        limiter: counts the places; it is watched while requests wait.
        gate_wait_s: seconds until the n-th call from now passes the candidate's rate-limit gate.
        max_wait_s: longest wait of a request; 0 turns waiting and pacing off.
        clock: seconds of the event loop's own clock.
    """

    def __init__(
        self,
        limiter: Limiter,
        gate_wait_s: Callable[[Candidate, int], float],
        *,
        max_wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._limiter = limiter
        self._gate_wait_s = gate_wait_s
        self._clock = clock
        self._providers: dict[str, _ProviderLines] = {}
        self.max_wait_s = max_wait_s
        self.count = 0
        self.loop: asyncio.AbstractEventLoop

    def held(self, candidate: Candidate, customer: str) -> bool:
        """Return whether the request has to join the line, since others wait or places are paced."""
        provider = self._providers.get(candidate.provider.id)
        if provider is None:
            provider = self._providers[candidate.provider.id] = _ProviderLines()
        now = self._clock()
        if customer != provider.customer:
            provider.customer, provider.other_asked_at = customer, provider.asked_at
        provider.asked_at = now
        return provider.is_busy and self._is_held(provider, candidate, now)

    def crowded(self, provider_id: str) -> None:
        """Note that more than half of the provider's window is taken, so that pacing may be due."""
        provider = self._providers.get(provider_id)
        if provider is not None:
            provider.is_busy = True

    def _is_held(self, provider: _ProviderLines, candidate: Candidate, now: float) -> bool:
        if candidate.model in provider.lines or (provider.count and now < provider.full_until):
            return True
        interval_s = self._interval_s(provider, candidate.provider, now)
        if interval_s is None:
            provider.is_busy = provider.count > 0
            return False
        if provider.count or now < provider.paced_until:
            return True
        self._pace(provider, interval_s, now)
        return False

    def _interval_s(self, provider: _ProviderLines, of: Provider, now: float) -> float | None:
        """Return the seconds between two places while they are paced; None while they are not."""
        if now - provider.other_asked_at > RECENT_S:
            return None
        rpm, tpm = of.rate_limit_rpm, of.rate_limit_tpm
        state = self._limiter.state(of.id, rpm, tpm)
        requests, tokens = rpm - state.remaining_requests, tpm - state.remaining_tokens
        if requests * 2 <= rpm and tokens * 2 <= tpm:
            return None
        # Most of a request's reserved tokens are given back, so its share is that of the calls in the window.
        size = max(tokens // max(requests, 1), 1)
        interval_s = RECENT_S * max(1 / rpm, size / tpm)
        places = min(state.remaining_requests, state.remaining_tokens // size)
        if not places:
            return interval_s
        # After a burst, the places that are left have to last until the first ones of the burst are free again.
        more_s = self._limiter.next_free(of.id, rpm, tpm, (places + 1) * size, before=Before(places))
        return min(max(interval_s, more_s / (places + 1)), SLOWEST * interval_s)

    @staticmethod
    def _pace(provider: _ProviderLines, interval_s: float, now: float) -> None:
        """Note that a place was given out; one that was not used for a while is made up for."""
        provider.paced_until = max(provider.paced_until, now - interval_s) + interval_s

    def expected_s(self, candidate: Candidate, customer: str, tokens: int) -> float:
        """Return the seconds after which a request that joined the line now would be served; 0 if at once."""
        of = candidate.provider
        provider = self._providers.get(of.id)
        before = NOBODY
        if provider is not None and provider.count:
            line = provider.lines.get(candidate.model)
            if line is not None:
                before = Before(*line.queue.ahead_of(customer, _cost(of, tokens)))
            # The lines of the provider's other models have as many turns meanwhile.
            turns = before.requests + 1
            others = sum(min(other.queue.count, turns) for other in provider.lines.values() if other is not line)
            before = Before(before.requests + others, before.tokens)
        wait_s = self._limiter.next_free(
            of.id, of.rate_limit_rpm, of.rate_limit_tpm, tokens, candidate.model, before=before
        )
        wait_s = max(wait_s, self._gate_wait_s(candidate, before.requests + 1))
        if provider is not None and provider.is_busy:
            now = self._clock()
            interval_s = self._interval_s(provider, of, now)
            if interval_s is not None:
                wait_s = max(wait_s, provider.paced_until - now + before.requests * interval_s)
        return wait_s

    def join(self, candidate: Candidate, customer: str, tokens: int, wait_s: float) -> Waiter | None:
        """Join the candidate's line for `wait_s` seconds at most; None if too many wait already."""
        candidate = self.current(candidate)
        provider = self._providers.setdefault(candidate.provider.id, _ProviderLines())
        line = provider.lines.get(candidate.model)
        if self.count >= MOST_WAITING or (line is not None and line.queue.waiting(customer) >= MOST_OF_CUSTOMER):
            return None
        self.loop = asyncio.get_running_loop()
        if line is None:
            line = provider.lines[candidate.model] = _Line()
        if not provider.count:
            provider.is_busy = True
            provider.full_until = 0.0
            self._limiter.watch(candidate.provider.id, partial(self._freed, provider))
        waiter = Waiter(self, line, candidate, customer, tokens)
        line.queue.add(customer, waiter, _cost(candidate.provider, tokens))
        provider.count += 1
        self.count += 1
        waiter.expire_in(wait_s)
        self._serve(provider)
        return waiter

    def give_back(self, waiter: Waiter, seconds: float, *, by_model: bool) -> None:
        """Take the turn back from a waiter that found no place; for `Waiter.again`."""
        provider = self._providers.get(waiter.candidate.provider.id)
        if provider is None or provider.holder is not waiter:
            waiter.end(False)  # the provider was deleted meanwhile
            waiter.is_deleted = True
            return
        provider.holder = None
        if by_model:
            waiter.line.full_until = self._clock() + seconds
        else:
            provider.full_until = self._clock() + seconds
        self._serve(provider)

    def remove(self, waiter: Waiter, *, is_served: bool) -> None:
        """Take a waiter out of its line; for `Waiter.leave`."""
        of = waiter.candidate.provider
        waiter.line.queue.remove(waiter.customer, waiter, is_served=is_served)
        self.count -= 1
        provider = self._providers.get(of.id)
        if provider is None or provider.lines.get(waiter.candidate.model) is not waiter.line:
            return  # the provider was deleted meanwhile
        provider.count -= 1
        if not waiter.line.queue.count:
            del provider.lines[waiter.candidate.model]
        elif is_served:  # to the end, so that the provider's models take turns
            provider.lines[waiter.candidate.model] = provider.lines.pop(waiter.candidate.model)
        if provider.holder is waiter:
            provider.holder = None
        if is_served:
            now = self._clock()
            interval_s = self._interval_s(provider, of, now)
            if interval_s is not None:
                self._pace(provider, interval_s, now)
        if provider.count:
            self._serve(provider)
        else:
            self._limiter.watch(of.id, None)
            self._stop(provider)

    def change(self, after: Provider) -> None:
        """Let the requests that wait for a provider try again at once: its limits, key or address changed."""
        provider = self._providers.get(after.id)
        if provider is None:
            return
        provider.changed = after
        provider.paced_until = 0.0
        for line in provider.lines.values():
            for waiter in line.queue.items():
                waiter.candidate = self.current(waiter.candidate)
        self._freed(provider)

    def current(self, candidate: Candidate) -> Candidate:
        """Return the candidate with the limits that its provider has now, if they changed since it was planned.

        All else stays as planned.
        """
        planned = candidate.provider
        provider = self._providers.get(planned.id)
        after = None if provider is None else provider.changed
        if after is None or after.updated_at_ms < planned.updated_at_ms:
            return candidate
        rpm, tpm = after.rate_limit_rpm, after.rate_limit_tpm
        if (rpm, tpm) == (planned.rate_limit_rpm, planned.rate_limit_tpm):
            return candidate
        return replace(candidate, provider=replace(planned, rate_limit_rpm=rpm, rate_limit_tpm=tpm))

    def forget(self, provider_id: str) -> None:
        """End the waits for a deleted provider."""
        provider = self._providers.pop(provider_id, None)
        if provider is None:
            return
        self._limiter.watch(provider_id, None)
        self._stop(provider)
        for line in provider.lines.values():
            for waiter in line.queue.items():
                waiter.is_deleted = True
                waiter.end(False)

    @staticmethod
    def _stop(provider: _ProviderLines) -> None:
        if provider.timer is not None:
            provider.timer.cancel()
            provider.timer = None

    def _freed(self, provider: _ProviderLines) -> None:
        provider.full_until = 0.0
        for line in provider.lines.values():
            line.full_until = 0.0
        self._serve(provider)

    def _serve(self, provider: _ProviderLines) -> None:
        """Give the turn to the next waiter, or set the timer for the time at which there can be a place."""
        if provider.holder is not None or not provider.count:
            return
        self._stop(provider)
        now = self._clock()
        ready_at = provider.full_until
        of = next(iter(provider.lines.values())).queue.first()
        if of is not None and self._interval_s(provider, of.candidate.provider, now) is not None:
            ready_at = max(ready_at, provider.paced_until)
        if ready_at <= now:
            for line in provider.lines.values():
                if line.full_until <= now:
                    provider.holder = line.queue.first()
                    break
            else:
                ready_at = min(line.full_until for line in provider.lines.values())
        if provider.holder is not None:
            provider.holder.end(True)
        else:
            provider.timer = self.loop.call_later(ready_at - now, self._on_time, provider)

    def _on_time(self, provider: _ProviderLines) -> None:
        provider.timer = None
        self._serve(provider)


def _cost(provider: Provider, tokens: int) -> int:
    """Return what a request costs in the line: its tokens, at least what the window has for each request."""
    return max(tokens, provider.rate_limit_tpm // provider.rate_limit_rpm, 1)
