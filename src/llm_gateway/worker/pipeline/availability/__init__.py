"""Whether each provider may be called now, its calls in flight, and its budget of retries.

Three things hold calls back: a circuit breaker and a rate-limit gate per (provider, model), and a pause per account.
No I/O: the clock and the chance are injected, and the caller reports how each call ended.

Every change of one of them is logged once, as a warning. That a wait is over is noticed by the next call: a gate opens
with it; a breaker or an account lets it through on trial, and the outcome of the trial is the change that is logged.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from llm_gateway.domain.catalog import Candidate
from llm_gateway.worker.pipeline.availability.account_pause import REFUSALS_IN_A_ROW, AccountPause
from llm_gateway.worker.pipeline.availability.circuit_breaker import CircuitBreaker, State
from llm_gateway.worker.pipeline.availability.rate_limit_gate import RateLimitGate
from llm_gateway.worker.pipeline.availability.sliding_counts import SlidingCounts

RETRY_SHARE = 5
"""Requests for each retry that is allowed."""
FREE_RETRIES = 3

BREAKER_OPENED, BREAKER_CLOSED = "circuit breaker opened", "circuit breaker closed"
ACCOUNT_PAUSE_BEGAN, ACCOUNT_PAUSE_ENDED = "provider account rests", "provider account rest ended"
GATE_CLOSED, GATE_OPENED = "rate limit gate closed", "rate limit gate opened"
CONFIGURATION_CHANGED = "its configuration changed"


_Tell: TypeAlias = Callable[[str, Candidate, str, float | None], None]
"""Logs a change: the event, the candidate it happened to, the reason, and for how many seconds it lasts, if known."""


class Wait(NamedTuple):
    """A candidate must not be called for `seconds`; `limited`: it is at a rate limit, else it failed or refused."""

    seconds: float
    limited: bool


class _Model:
    """What is known of one (provider, model). `candidate` is that of the last change, for the log."""

    __slots__ = ("breaker", "candidate", "gate", "is_current")

    def __init__(self, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self.breaker = CircuitBreaker(clock, random)
        self.gate = RateLimitGate(clock)
        self.candidate: Candidate | None = None
        self.is_current = True


class _Provider:
    """What is known of one provider: its account, its models, its calls in flight and its retries."""

    __slots__ = ("account", "calls", "candidate", "in_flight", "models", "tell")

    def __init__(self, clock: Callable[[], float], tell: _Tell) -> None:
        self.tell = tell
        self.account = AccountPause(clock)
        self.candidate: Candidate | None = None
        self.models: dict[str, _Model] = {}
        self.in_flight = 0
        self.calls = SlidingCounts()


class Permit:
    """Permits one call, which ends in exactly one of `succeed`, `fail`, `limited`, `refused` or `release`.

    It holds for the state that gave it: reports from before a change of state are ignored. `accepted` says earlier
    that the provider serves the call: with the first content of a stream.
    """

    __slots__ = ("_account", "_account_permit", "_breaker_permit", "_candidate", "_model", "_provider")

    def __init__(
        self, candidate: Candidate, provider: _Provider, model: _Model, account_permit: int, breaker_permit: int
    ) -> None:
        self._candidate = candidate
        self._provider = provider
        self._account = provider.account
        self._model = model
        self._account_permit = account_permit
        self._breaker_permit = breaker_permit

    def holds(self) -> bool:
        """Whether the provider may still be called: nothing opened or paused since."""
        return self._model.breaker.holds(self._breaker_permit) and self._account.holds(self._account_permit)

    def accepted(self) -> None:
        """The provider serves the call: it takes the key, and the call was within its limits."""
        gate, account = self._model.gate, self._account
        if gate.in_a_row:
            gate.accepted()
        if not account.is_clear and account.accepted(self._account_permit):
            self._tell_account(ACCOUNT_PAUSE_ENDED, "its trial call was accepted")

    def succeed(self) -> None:
        """The call was answered, all of it."""
        breaker = self._model.breaker
        why = breaker.succeed(self._breaker_permit)
        if why is not None:
            self._tell_breaker(why)

    def fail(self, message: str) -> None:
        """The call failed by the provider's fault, as `message` says (redacted)."""
        self._account.release(self._account_permit)
        why = self._model.breaker.fail(self._breaker_permit)
        if why is not None:
            self._tell_breaker(f"{why}: {message}")

    def limited(self, said_s: float | None, message: str) -> float:
        """The call was answered 429, with `said_s` as its Retry-After. Returns the seconds a client is told to wait."""
        self.release()
        gate = self._model.gate
        why = gate.limited(said_s, self._model.breaker.answered())
        if why is not None:
            self._tell_model(GATE_CLOSED, f"{why}: {message}", gate.closed_for_s())
        return gate.wait_s(said_s)

    def refused(self, request_id: str, content: int, message: str) -> None:
        """The provider refused the account; `content` is a hash of what was sent (see `AccountPause.refused`)."""
        self._model.breaker.release(self._breaker_permit)
        account = self._account
        why = "its trial call was refused" if account.is_paused else f"{REFUSALS_IN_A_ROW} refusals in a row"
        seconds = account.refused(self._account_permit, request_id, content)
        if seconds is not None:
            self._tell_account(ACCOUNT_PAUSE_BEGAN, f"{why}: {message}", seconds)

    def release(self) -> None:
        """The call ended without telling anything, or was never made."""
        self._account.release(self._account_permit)
        self._model.breaker.release(self._breaker_permit)

    def _tell_breaker(self, why: str) -> None:
        breaker = self._model.breaker
        if breaker.state == "closed":
            self._tell_model(BREAKER_CLOSED, why)
        else:
            self._tell_model(BREAKER_OPENED, why, breaker.retry_after_s())

    def _tell_model(self, event: str, reason: str, seconds: float | None = None) -> None:
        if self._model.is_current:
            self._model.candidate = self._candidate
            self._provider.tell(event, self._candidate, reason, seconds)

    def _tell_account(self, event: str, reason: str, seconds: float | None = None) -> None:
        if self._provider.account is self._account:
            self._provider.candidate = self._candidate
            self._provider.tell(event, self._candidate, reason, seconds)


class ProviderAvailability:
    """Availability of every provider: breakers, gates, account pauses, calls in flight, budget of retries.

    Keyed by provider id and model, so as large as the configuration; `forget` a provider that is deleted. `log` is
    told every change, with the provider's name, the model and the reason.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
        *,
        log: Callable[..., None],
    ) -> None:
        self._clock = clock
        self._random = random
        self._log = log
        self._providers: dict[str, _Provider] = {}

    def _provider(self, provider_id: str) -> _Provider:
        known = self._providers.get(provider_id)
        if known is None:
            known = self._providers[provider_id] = _Provider(self._clock, self._tell)
        return known

    def _model(self, provider: _Provider, name: str) -> _Model:
        model = provider.models.get(name)
        if model is None:
            model = provider.models[name] = _Model(self._clock, self._random)
        return model

    def breaker(self, provider_id: str, model: str) -> CircuitBreaker:
        """The breaker of (provider, model). Keep it with its permit: after a `reset` there is another one."""
        return self._model(self._provider(provider_id), model).breaker

    def admit(self, candidate: Candidate) -> Permit | Wait:
        """Return a permit for one call of the candidate, or how long to wait for one."""
        provider = self._provider(candidate.provider.id)
        model = self._model(provider, candidate.model)
        gate = model.gate
        if gate.is_closed:
            seconds = gate.closed_for_s()
            if seconds > 0:
                return Wait(seconds, limited=True)
            gate.reopen()
            self._tell(GATE_OPENED, candidate, "its wait is over")
        account = provider.account
        account_permit = account.admit()
        if account_permit is None:
            return Wait(account.retry_after_s(), limited=False)
        breaker_permit = model.breaker.admit()
        if breaker_permit is None:
            account.release(account_permit)
            return Wait(model.breaker.retry_after_s(), limited=False)
        return Permit(candidate, provider, model, account_permit, breaker_permit)

    def _tell(self, event: str, candidate: Candidate, reason: str, seconds: float | None = None) -> None:
        lasts = {} if seconds is None else {"seconds": round(seconds, 1)}
        self._log(
            event, level="warning", provider=candidate.provider.name, model=candidate.model, reason=reason, **lasts
        )

    def begin(self, provider_id: str) -> None:
        """A call to the provider starts: one more in flight, and one more that its retries are measured by."""
        provider = self._provider(provider_id)
        provider.in_flight += 1
        provider.calls.count(self._clock())

    def end(self, provider_id: str) -> None:
        """That call is over, however it ended."""
        provider = self._providers.get(provider_id)
        if provider is not None and provider.in_flight:
            provider.in_flight -= 1

    def in_flight(self, provider_id: str) -> int:
        """How many calls to the provider have begun and not ended."""
        provider = self._providers.get(provider_id)
        return 0 if provider is None else provider.in_flight

    def may_retry(self, provider_id: str) -> bool:
        """Whether a call may be retried on the same provider; if so it is counted as a retry (and `begin` it too).

        Within 10 seconds 3 retries are free; beyond them there is one for every five calls that were no retries.
        """
        calls = self._provider(provider_id).calls
        now = self._clock()
        calls.advance(now)
        retries = calls.sum_marked
        if retries >= FREE_RETRIES and (retries + 1) * RETRY_SHARE > calls.sum_all - retries:
            return False
        calls.mark(now)
        return True

    def lift(self, provider_id: str, reason: str) -> None:
        """End the pause of the provider's account, and forget what was counted towards one."""
        provider = self._providers.get(provider_id)
        if provider is None:
            return
        was_paused = provider.account.is_paused
        provider.account = AccountPause(self._clock)  # calls in flight report to the old one
        if was_paused and provider.candidate is not None:
            self._tell(ACCOUNT_PAUSE_ENDED, provider.candidate, reason)

    def reset(self, provider_id: str) -> None:
        """Close the breakers and open the gates of a provider whose configuration changed. Calls in flight stay."""
        provider = self._providers.get(provider_id)
        if provider is None:
            return
        for model in self._drop_models(provider):
            if model.candidate is None:
                continue
            if model.breaker.state != "closed":
                self._tell(BREAKER_CLOSED, model.candidate, CONFIGURATION_CHANGED)
            if model.gate.is_closed:
                self._tell(GATE_OPENED, model.candidate, CONFIGURATION_CHANGED)

    def forget(self, provider_id: str) -> None:
        """Drop everything about a provider that is no more."""
        provider = self._providers.pop(provider_id, None)
        if provider is not None:
            self._drop_models(provider)
            provider.account = AccountPause(self._clock)

    @staticmethod
    def _drop_models(provider: _Provider) -> list[_Model]:
        """Calls in flight go on reporting to these models, but no change of them is logged."""
        models, provider.models = provider.models, {}
        dropped = list(models.values())
        for model in dropped:
            model.is_current = False
        return dropped

    def states(self) -> dict[tuple[str, str], State]:
        """Every breaker's state by (provider_id, model), for the metrics."""
        return {
            (provider_id, name): model.breaker.state
            for provider_id, provider in list(self._providers.items())  # the loop may change them meanwhile
            for name, model in list(provider.models.items())
        }
