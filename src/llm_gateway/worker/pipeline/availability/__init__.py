"""Availability of providers: circuit breakers, rate-limit gates and pauses, and the limit of retries.

Four things hold calls back: a circuit breaker, a rate-limit gate and a pause per (provider, model), and a pause per
account.
Each is a state machine without I/O: the clock and the random numbers are injected, and the caller reports how each
call ended. Calls in flight are counted for the choice between providers of one tier; they are not limited here.

    admit ──▶ Wait, or a Permit ──▶ [accepted] ──▶ succeed | fail | limited | refused | model_refused | release

Each change of state is logged once, as a warning. There are no timers: the first call after a wait notices that it is
over. It reopens a gate and ends a model's pause; for a breaker or an account it is a trial call, whose outcome is the
change that is logged.

With `HostStates`, breakers, gates and pauses are those of all workers of the host; calls in flight, retries and the
sizes of requests that were too long are each worker's own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

from llm_gateway.domain.catalog import Candidate
from llm_gateway.worker.pipeline.availability.account_pause import PROBE_WAIT_S, AccountPause
from llm_gateway.worker.pipeline.availability.circuit_breaker import CircuitBreaker, State
from llm_gateway.worker.pipeline.availability.context_limits import ContextLimits
from llm_gateway.worker.pipeline.availability.host_states import LIFTED_MS, PERMIT, RESET_MS, HostStates, Slot
from llm_gateway.worker.pipeline.availability.permit import (
    ACCOUNT_PAUSE_ENDED,
    BREAKER_CLOSED,
    CONFIGURATION_CHANGED,
    GATE_OPENED,
    MODEL_PAUSE_ENDED,
    Permit,
)
from llm_gateway.worker.pipeline.availability.provider_state import ModelState, ProviderState

Obstacle: TypeAlias = Literal["rate_limited", "model_paused", "account_paused", "breaker_open"]
RETRY_SHARE = 2
"""Calls, other than retries, per retry that is allowed."""
FREE_RETRIES = 3
"""Retries in 10 seconds that are allowed however few calls there are."""
__all__ = ["CONFIGURATION_CHANGED", "Permit", "ProviderAvailability", "Wait"]


class Wait(NamedTuple):
    """A candidate must not be called for `seconds`. `limited`: it is at a rate limit, else it failed or refused.

    `by_model`: its provider's other models may be called, since only its rate-limit gate, or what the provider reported
    of its limits for this model, holds it back.
    """

    seconds: float
    limited: bool
    by_model: bool = False


class ProviderAvailability:
    """Availability of every provider: breakers, gates, account pauses, calls in flight, limit of retries.

    It holds an entry per provider id and model; call `forget` for a deleted provider. `log` is called with every
    change: the provider's name, the model, the reason, and the seconds it lasts. `clock` returns seconds.
    With `states`, all workers of the host share them; the worker that changes one logs it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
        *,
        log: Callable[..., None],
        states: HostStates | None = None,
    ) -> None:
        self._clock = clock
        self._states = states
        self._worker = 1 if states is None else states.place.id
        self._random = random
        self._log = log
        self.context_limits = ContextLimits(clock)
        self._providers: dict[str, ProviderState] = {}

    def _provider(self, provider_id: str) -> ProviderState:
        known = self._providers.get(provider_id)
        if known is None:
            known = self._providers[provider_id] = ProviderState(self._clock, self._log_change)
        return known

    def _model(self, provider: ProviderState, name: str) -> ModelState:
        model = provider.models.get(name)
        if model is None:
            model = provider.models[name] = ModelState(self._clock, self._random)
        return model

    def breaker(self, provider_id: str, model: str) -> CircuitBreaker:
        """Return the breaker of (provider, model). `reset` replaces it, so end a permit at the breaker that gave it."""
        return self._model(self._provider(provider_id), model).breaker

    def _shared(self, candidate: Candidate, provider: ProviderState, model: ModelState, states: HostStates) -> None:
        """Make the candidate's states current."""
        of = candidate.provider
        if provider.slot is None:
            initial = AccountPause(self._clock).dump()
            provider.slot = Slot(of.id, candidate.model, of.name, initial, is_account=True)
        if model.slot is None:
            model.slot = Slot(of.id, candidate.model, of.name, ModelState(self._clock, self._random).dump())
        states.refresh(model, provider)

    def _find(self, candidate: Candidate) -> tuple[ProviderState, ModelState]:
        """Return the candidate's states, as they are now."""
        provider = self._provider(candidate.provider.id)
        model = self._model(provider, candidate.model)
        states = self._states
        if states is not None:
            words, slot, account = states.words, model.slot, provider.slot
            if (
                slot is None
                or account is None
                or words[slot.watched] != slot.seen
                or words[account.watched] != account.seen
            ):
                self._shared(candidate, provider, model, states)
        return provider, model

    def admit(self, candidate: Candidate) -> Permit | Wait:
        """Return a permit for one call to the candidate, or how long to wait for one."""
        provider, model = self._find(candidate)
        if self._states is None:
            return self._admit(candidate, provider, model)
        breaker, account = model.breaker, provider.account
        if breaker.is_closed and model.gate.is_open and not model.pause.is_paused and not account.is_paused:
            # As nearly always: the call changes no state.
            return Permit(candidate, provider, account, model, account.permit, breaker.permit, self._states)
        wait = self._wait(provider, model, self._states)
        if wait is not None:
            return wait
        with self._states.turn(model, provider):
            for trial in (provider.account, model.breaker):
                if trial.prober and not self._states.place.is_alive(trial.prober):
                    trial.abandon()
            return self._admit(candidate, provider, model)

    @staticmethod
    def _wait(provider: ProviderState, model: ModelState, states: HostStates) -> Wait | None:
        """Return how long to wait, if that is clear without a change of any state; it needs no lock."""
        seconds = model.gate.closed_for_s()
        if seconds > 0:
            return Wait(seconds, limited=True, by_model=True)
        if not model.gate.is_open:
            return None
        if model.pause.is_paused:
            seconds = model.pause.remaining_s()
            return Wait(seconds, limited=False) if seconds > 0 else None
        for trial in (provider.account, model.breaker):
            if trial.prober:
                return Wait(PROBE_WAIT_S, limited=False) if states.place.is_alive(trial.prober) else None
            seconds = trial.retry_after_s()
            if seconds > 0:
                return Wait(seconds, limited=False)
        return None

    def _admit(self, candidate: Candidate, provider: ProviderState, model: ModelState) -> Permit | Wait:
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
        account_permit = account.admit(self._worker)
        if account_permit is None:
            return Wait(account.retry_after_s(), limited=False)
        breaker_permit = model.breaker.admit(self._worker)
        if breaker_permit is None:
            account.release(account_permit)  # it may be the account's only probe
            return Wait(model.breaker.retry_after_s(), limited=False)
        return Permit(candidate, provider, account, model, account_permit, breaker_permit, self._states)

    def obstacle(self, candidate: Candidate) -> tuple[Obstacle, float] | None:
        """Return why the candidate cannot be called now, and for how many seconds; None if it can. Changes nothing."""
        provider, model = self._find(candidate)
        waits: tuple[tuple[Obstacle, float], ...] = (
            ("rate_limited", model.gate.wait_of_s(1)),
            ("model_paused", model.pause.remaining_s() if model.pause.is_paused else 0.0),
            ("account_paused", provider.account.retry_after_s()),
            ("breaker_open", model.breaker.retry_after_s()),
        )
        return next((wait for wait in waits if wait[1] > 0), None)

    def is_gated(self, candidate: Candidate) -> bool:
        """Return whether the candidate's rate-limit gate is closed, or lets calls through at a limited rate."""
        return not self._find(candidate)[1].gate.is_open

    def gate_wait_s(self, candidate: Candidate, calls: int) -> float:
        """Return the seconds until the last one of `calls` calls from now passes the candidate's rate-limit gate."""
        return self._find(candidate)[1].gate.wait_of_s(calls)

    def _log_change(self, event: str, candidate: Candidate, reason: str, seconds: float | None = None) -> None:
        self._log_named(event, candidate.provider.name, candidate.model, reason, seconds)

    def _log_named(self, event: str, provider: str, model: str, reason: str, seconds: float | None = None) -> None:
        lasts = {} if seconds is None else {"seconds": round(seconds, 1)}
        self._log(event, level="warning", provider=provider, model=model, reason=reason, **lasts)

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

    def lift(self, provider_id: str, reason: str, changed_ms: int = 0) -> None:
        """End the pause of the provider's account, and forget the refusals counted so far. `reason` is logged.

        `changed_ms` is the time of the change of the provider that is the reason, if one is: of all workers, only the
        first one ends the pause then.
        """
        provider = self._providers.get(provider_id)
        if self._states is not None:
            self._states.change(partial(self._lift_shared, self._states, provider_id, reason, changed_ms))
            return
        if provider is None:
            return
        was_paused = provider.account.is_paused
        provider.account = provider.account.successor()  # calls in flight go on reporting to the old one
        if was_paused and provider.candidate is not None:
            self._log_change(ACCOUNT_PAUSE_ENDED, provider.candidate, reason)

    def _lift_shared(self, states: HostStates, provider_id: str, reason: str, changed_ms: int) -> None:
        def lift() -> None:
            account = AccountPause(self._clock)
            for stored in states.stored(provider_id):
                if stored.is_account:
                    account.load(stored.numbers)
                    states.replace(stored.at, account.successor().dump())
                    if account.is_paused:
                        self._log_named(ACCOUNT_PAUSE_ENDED, stored.provider, stored.model, reason)

        states.once(self._account_slot(provider_id), LIFTED_MS, changed_ms, lift)

    def reset(self, provider_id: str, changed_ms: int = 0) -> None:
        """Close breakers, open gates and end models' pauses of a provider that is called otherwise than before.

        Its account stays paused. `changed_ms` is the time of the change: of all workers, only the first one resets
        what they share.
        """
        self.context_limits.forget(provider_id)
        provider = self._providers.get(provider_id)
        dropped = [] if provider is None else provider.drop_models()
        if self._states is not None:
            self._states.change(partial(self._reset_shared, self._states, provider_id, changed_ms))
            return
        for model in dropped:
            if model.candidate is not None:
                self._log_reset(model, model.candidate.provider.name, model.candidate.model)

    def _reset_shared(self, states: HostStates, provider_id: str, changed_ms: int) -> None:
        def reset() -> None:
            for stored in states.stored(provider_id):
                if not stored.is_account:
                    model = ModelState(self._clock, self._random)
                    numbers = list(model.dump())
                    numbers[PERMIT] = stored.numbers[PERMIT] + 1
                    model.load(stored.numbers)
                    states.replace(stored.at, numbers)
                    self._log_reset(model, stored.provider, stored.model)

        states.once(self._account_slot(provider_id), RESET_MS, changed_ms, reset)

    def _account_slot(self, provider_id: str) -> Slot:
        provider = self._providers.get(provider_id)
        if provider is not None and provider.slot is not None:
            return provider.slot
        return Slot(provider_id, "", provider_id, AccountPause(self._clock).dump(), is_account=True)

    def _log_reset(self, model: ModelState, provider: str, name: str) -> None:
        """Log what a changed configuration ended."""
        if model.breaker.state != "closed":
            self._log_named(BREAKER_CLOSED, provider, name, CONFIGURATION_CHANGED)
        if model.gate.state == "closed":
            self._log_named(GATE_OPENED, provider, name, CONFIGURATION_CHANGED)
        if model.pause.is_paused:
            self._log_named(MODEL_PAUSE_ENDED, provider, name, CONFIGURATION_CHANGED)

    def forget(self, provider_id: str) -> None:
        """Drop the state of a deleted provider."""
        self.context_limits.forget(provider_id)
        provider = self._providers.pop(provider_id, None)
        if provider is not None:
            provider.drop_models()
            provider.account = provider.account.successor()
            provider.is_current = False
        if self._states is not None:
            self._states.change(partial(self._states.forget, provider_id))

    def states(self) -> dict[tuple[str, str], State]:
        """Return every breaker's state by (provider_id, model), for the metrics. Safe to call from another thread."""
        found = {
            (provider_id, name): model.breaker.state
            for provider_id, provider in list(self._providers.items())  # the event loop's thread may add to them
            for name, model in list(provider.models.items())
        }
        if self._states is not None:
            for stored in self._states.stored():
                if not stored.is_account:
                    model = ModelState(self._clock, self._random)
                    model.load(stored.numbers)
                    found[stored.provider_id, stored.model] = model.breaker.state
        return found

    def paused_accounts(self) -> set[str]:
        """Return the ids of the providers whose account is paused. Safe to call from another thread."""
        found = {provider_id for provider_id, each in list(self._providers.items()) if each.account.is_paused}
        if self._states is not None:
            for stored in self._states.stored():
                if stored.is_account:
                    account = AccountPause(self._clock)
                    account.load(stored.numbers)
                    (found.add if account.is_paused else found.discard)(stored.provider_id)
        return found
