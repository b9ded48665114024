"""Availability of providers: circuit breakers, rate-limit gates and pauses, and the limit of retries.

Four things hold calls back: a circuit breaker, a rate-limit gate and a pause per (provider, model), and a pause per
account.
Each is a state machine without I/O: the clock and the random numbers are injected, and the caller reports how each
call ended. Calls in flight are counted for the choice between providers of one tier; they are not limited here.

    admit ──▶ Wait, or a Permit ──▶ [accepted] ──▶ succeed | fail | limited | refused | model_refused | release

Each change of state is logged once, as a warning. There are no timers: the first call after a wait notices that it is
over. It reopens a gate and ends a model's pause; for a breaker or an account it is a trial call, whose outcome is the
change that is logged.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import msgspec

from llm_gateway.domain.catalog import Candidate
from llm_gateway.worker.pipeline.availability.account_pause import REFUSALS_IN_A_ROW, AccountPause
from llm_gateway.worker.pipeline.availability.circuit_breaker import CircuitBreaker, State
from llm_gateway.worker.pipeline.availability.context_limits import ContextLimits
from llm_gateway.worker.pipeline.availability.model_pause import MODEL_PAUSE_S, ModelPause
from llm_gateway.worker.pipeline.availability.rate_limit_gate import RateLimitGate
from llm_gateway.worker.pipeline.availability.sliding_counts import SlidingCounts

RETRY_SHARE = 2
"""Calls, other than retries, per retry that is allowed."""
FREE_RETRIES = 3
"""Retries in 10 seconds that are allowed however few calls there are."""

BREAKER_OPENED, BREAKER_CLOSED = "circuit breaker opened", "circuit breaker closed"
ACCOUNT_PAUSE_BEGAN, ACCOUNT_PAUSE_ENDED = "provider account paused", "provider account pause ended"
MODEL_PAUSE_BEGAN, MODEL_PAUSE_ENDED = "provider model paused", "provider model pause ended"
GATE_CLOSED, GATE_OPENED = "rate limit gate closed", "rate limit gate opened"
CONFIGURATION_CHANGED = "its configuration changed"


_LogChange: TypeAlias = Callable[[str, Candidate, str, float | None], None]
"""Log a change: the event, the candidate whose call caused it, the reason, and for how many seconds, if known."""


class Wait(NamedTuple):
    """A candidate must not be called for `seconds`. `limited`: it is at a rate limit, else it failed or refused.

    `by_model`: its provider's other models may be called, since only its rate-limit gate, or what the provider reported
    of its limits for this model, holds it back.
    """

    seconds: float
    limited: bool
    by_model: bool = False


class _Model:
    """The state of one (provider, model): its breaker, its gate and its pause.

    `candidate` is the one of the last change, for the log. `is_current` is False once the configuration has replaced
    it; only calls in flight still report to it.
    """

    __slots__ = ("breaker", "candidate", "gate", "is_current", "pause")

    def __init__(self, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self.breaker = CircuitBreaker(clock, random)
        self.gate = RateLimitGate(clock)
        self.pause = ModelPause(clock)
        self.candidate: Candidate | None = None
        self.is_current = True


class _Provider:
    """The state of one provider: its account, its models, its calls in flight, and its recent calls and retries."""

    __slots__ = ("account", "calls", "candidate", "in_flight", "log_change", "models")

    def __init__(self, clock: Callable[[], float], log_change: _LogChange) -> None:
        self.log_change = log_change
        self.account = AccountPause(clock)
        self.candidate: Candidate | None = None
        self.models: dict[str, _Model] = {}
        self.in_flight = 0
        self.calls = SlidingCounts()


class Permit(msgspec.Struct, eq=False):
    """The permission for one call.

    End it with exactly one of `succeed`, `fail`, `limited`, `refused`, `model_refused` or `release`.

    Before that, call `accepted` once the provider serves the call: with the first content of a stream, say. A permit
    is bound to the state that gave it: after a change of state, its report is ignored.
    """

    _candidate: Candidate
    _provider: _Provider
    _account: AccountPause
    _model: _Model
    _account_permit: int
    _breaker_permit: int

    def holds(self) -> bool:
        """Return whether the call may still start: no breaker opened and no pause began since."""
        return self._model.breaker.holds(self._breaker_permit) and self._account.holds(self._account_permit)

    def accepted(self) -> None:
        """Report that the provider serves the call: it accepts the key, and the call is within its rate limit."""
        gate, account = self._model.gate, self._account
        # Nearly every call finds nothing to reset, so this saves two method calls on the hot path.
        if gate.counts_served:
            gate.accepted()
        if not account.is_clear and account.accepted(self._account_permit):
            self._log_account(ACCOUNT_PAUSE_ENDED, "its trial call was accepted")

    def succeed(self) -> None:
        """Report that the call got a complete answer."""
        breaker = self._model.breaker
        why = breaker.succeed(self._breaker_permit)
        if why is not None:
            self._log_breaker(why)

    def fail(self, message: str) -> None:
        """Report that the call failed by the provider's fault; `message` is logged and must not hold secrets."""
        self._account.release(self._account_permit)
        why = self._model.breaker.fail(self._breaker_permit)
        if why is not None:
            self._log_breaker(f"{why}: {message}")

    def limited(self, retry_after_s: float | None, message: str) -> float:
        """Report a 429; `retry_after_s` is its Retry-After. Returns the Retry-After for the client, in seconds."""
        self.release()
        gate, breaker = self._model.gate, self._model.breaker
        why = gate.limited(retry_after_s, breaker.answered(), breaker.answered_per_s())
        if why is not None:
            self._log_model(GATE_CLOSED, f"{why}: {message}", gate.closed_for_s())
        return gate.wait_s(retry_after_s)

    def refused(self, request_id: str, content: int, message: str) -> None:
        """Report that the provider refused the account; `content` hashes the call (see `AccountPause.refused`)."""
        self._model.breaker.release(self._breaker_permit)
        account = self._account
        why = "its trial call was refused" if account.is_paused else f"{REFUSALS_IN_A_ROW} refusals in a row"
        seconds = account.refused(self._account_permit, request_id, content)
        if seconds is not None:
            self._log_account(ACCOUNT_PAUSE_BEGAN, f"{why}: {message}", seconds)

    def model_refused(self, message: str) -> None:
        """Report that the provider does not have the model, or not for this account."""
        self.release()
        if self._model.pause.refused():
            self._log_model(MODEL_PAUSE_BEGAN, message, MODEL_PAUSE_S)

    def release(self) -> None:
        """End the permit of a call that was not sent, or whose end is not the provider's doing (cancelled, 4xx)."""
        self._account.release(self._account_permit)
        self._model.breaker.release(self._breaker_permit)

    def _log_breaker(self, why: str) -> None:
        breaker = self._model.breaker
        if breaker.state == "closed":
            self._log_model(BREAKER_CLOSED, why)
        else:
            self._log_model(BREAKER_OPENED, why, breaker.retry_after_s())

    def _log_model(self, event: str, reason: str, seconds: float | None = None) -> None:
        if self._model.is_current:
            self._model.candidate = self._candidate
            self._provider.log_change(event, self._candidate, reason, seconds)

    def _log_account(self, event: str, reason: str, seconds: float | None = None) -> None:
        if self._provider.account is self._account:
            self._provider.candidate = self._candidate
            self._provider.log_change(event, self._candidate, reason, seconds)


class ProviderAvailability:
    """Availability of every provider: breakers, gates, account pauses, calls in flight, limit of retries.

    It holds an entry per provider id and model; call `forget` for a deleted provider. `log` is called with every
    change: the provider's name, the model, the reason, and the seconds it lasts. `clock` returns seconds.
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
        self.context_limits = ContextLimits(clock)
        self._providers: dict[str, _Provider] = {}

    def _provider(self, provider_id: str) -> _Provider:
        known = self._providers.get(provider_id)
        if known is None:
            known = self._providers[provider_id] = _Provider(self._clock, self._log_change)
        return known

    def _model(self, provider: _Provider, name: str) -> _Model:
        model = provider.models.get(name)
        if model is None:
            model = provider.models[name] = _Model(self._clock, self._random)
        return model

    def breaker(self, provider_id: str, model: str) -> CircuitBreaker:
        """Return the breaker of (provider, model). `reset` replaces it, so end a permit at the breaker that gave it."""
        return self._model(self._provider(provider_id), model).breaker

    def admit(self, candidate: Candidate) -> Permit | Wait:
        """Return a permit for one call to the candidate, or how long to wait for one."""
        provider = self._provider(candidate.provider.id)
        model = self._model(provider, candidate.model)
        gate = model.gate
        if not gate.is_open:
            was_closed = gate.state == "closed"
            seconds = gate.admit()
            if seconds > 0:
                return Wait(seconds, limited=True, by_model=True)
            if was_closed:
                self._log_change(GATE_OPENED, candidate, "its wait is over")
        if model.pause.is_paused:
            seconds = model.pause.remaining_s()
            if seconds > 0:
                return Wait(seconds, limited=False)
            model.pause.end()
            self._log_change(MODEL_PAUSE_ENDED, candidate, "its time is over")
        account = provider.account
        account_permit = account.admit()
        if account_permit is None:
            return Wait(account.retry_after_s(), limited=False)
        breaker_permit = model.breaker.admit()
        if breaker_permit is None:
            account.release(account_permit)  # it may be the account's only probe
            return Wait(model.breaker.retry_after_s(), limited=False)
        return Permit(candidate, provider, account, model, account_permit, breaker_permit)

    def is_gated(self, candidate: Candidate) -> bool:
        """Return whether the candidate's rate-limit gate is closed, or lets calls through at a limited rate."""
        provider = self._providers.get(candidate.provider.id)
        model = None if provider is None else provider.models.get(candidate.model)
        return model is not None and not model.gate.is_open

    def gate_wait_s(self, candidate: Candidate, calls: int) -> float:
        """Return the seconds until the last one of `calls` calls from now passes the candidate's rate-limit gate."""
        provider = self._providers.get(candidate.provider.id)
        model = None if provider is None else provider.models.get(candidate.model)
        return 0.0 if model is None else model.gate.wait_of_s(calls)

    def _log_change(self, event: str, candidate: Candidate, reason: str, seconds: float | None = None) -> None:
        lasts = {} if seconds is None else {"seconds": round(seconds, 1)}
        self._log(
            event, level="warning", provider=candidate.provider.name, model=candidate.model, reason=reason, **lasts
        )

    def begin(self, provider_id: str) -> None:
        """Count a call that starts, as in flight and among those that allow retries. Call `end` when it is over."""
        provider = self._provider(provider_id)
        provider.in_flight += 1
        provider.calls.count(self._clock())

    def end(self, provider_id: str) -> None:
        """Count a call as over, however it ended."""
        provider = self._providers.get(provider_id)
        if provider is not None and provider.in_flight:
            provider.in_flight -= 1

    def in_flight(self, provider_id: str) -> int:
        """Return the number of calls to the provider that are under way."""
        provider = self._providers.get(provider_id)
        return 0 if provider is None else provider.in_flight

    def has_retry(self, provider_id: str) -> bool:
        """Return whether `may_retry` would allow a retry now. It counts nothing."""
        calls = self._provider(provider_id).calls
        calls.advance(self._clock())
        retries = calls.sum_marked
        return retries < FREE_RETRIES or (retries + 1) * RETRY_SHARE <= calls.sum_all - retries

    def may_retry(self, provider_id: str) -> bool:
        """Return whether a call may be retried on the same provider, and count the retry. Call `begin` for it as well.

        In any 10 seconds, 3 retries are allowed; beyond them, one per 2 calls that were not retries.
        """
        if not self.has_retry(provider_id):
            return False
        self._provider(provider_id).calls.mark(self._clock())
        return True

    def lift(self, provider_id: str, reason: str) -> None:
        """End the pause of the provider's account, and forget the refusals counted so far. `reason` is logged."""
        provider = self._providers.get(provider_id)
        if provider is None:
            return
        was_paused = provider.account.is_paused
        provider.account = AccountPause(self._clock)  # calls in flight go on reporting to the old one
        if was_paused and provider.candidate is not None:
            self._log_change(ACCOUNT_PAUSE_ENDED, provider.candidate, reason)

    def reset(self, provider_id: str) -> None:
        """Close breakers, open gates and end models' pauses of a provider that is called otherwise than before.

        Its account stays paused.
        """
        self.context_limits.forget(provider_id)
        provider = self._providers.get(provider_id)
        if provider is None:
            return
        for model in self._drop_models(provider):
            if model.candidate is None:
                continue
            if model.breaker.state != "closed":
                self._log_change(BREAKER_CLOSED, model.candidate, CONFIGURATION_CHANGED)
            if model.gate.state == "closed":
                self._log_change(GATE_OPENED, model.candidate, CONFIGURATION_CHANGED)
            if model.pause.is_paused:
                self._log_change(MODEL_PAUSE_ENDED, model.candidate, CONFIGURATION_CHANGED)

    def forget(self, provider_id: str) -> None:
        """Drop the state of a deleted provider."""
        self.context_limits.forget(provider_id)
        provider = self._providers.pop(provider_id, None)
        if provider is not None:
            self._drop_models(provider)
            provider.account = AccountPause(self._clock)

    @staticmethod
    def _drop_models(provider: _Provider) -> list[_Model]:
        """Detach and return the provider's models; what calls in flight still report to them is not logged."""
        models, provider.models = provider.models, {}
        dropped = list(models.values())
        for model in dropped:
            model.is_current = False
        return dropped

    def states(self) -> dict[tuple[str, str], State]:
        """Return every breaker's state by (provider_id, model), for the metrics. Safe to call from another thread."""
        return {
            (provider_id, name): model.breaker.state
            for provider_id, provider in list(self._providers.items())  # the event loop's thread may add to them
            for name, model in list(provider.models.items())
        }
