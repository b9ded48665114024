"""Permission for one call to a candidate, which reports how the call ended to breaker, gate and pauses."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import msgspec

from llm_gateway.domain.catalog import Candidate
from llm_gateway.worker.pipeline.availability.account_pause import REFUSALS_IN_A_ROW, AccountPause
from llm_gateway.worker.pipeline.availability.host_states import HostStates
from llm_gateway.worker.pipeline.availability.model_pause import MODEL_PAUSE_S
from llm_gateway.worker.pipeline.availability.provider_state import ModelState, ProviderState

BREAKER_OPENED, BREAKER_CLOSED = "circuit breaker opened", "circuit breaker closed"
ACCOUNT_PAUSE_BEGAN, ACCOUNT_PAUSE_ENDED = "provider account paused", "provider account pause ended"
MODEL_PAUSE_BEGAN, MODEL_PAUSE_ENDED = "provider model paused", "provider model pause ended"
GATE_CLOSED, GATE_OPENED = "rate limit gate closed", "rate limit gate opened"
CONFIGURATION_CHANGED = "its configuration changed"

_ALONE: AbstractContextManager[None] = nullcontext()


class Permit(msgspec.Struct, eq=False):
    """The permission for one call.

    End it with exactly one of `succeed`, `fail`, `limited`, `refused`, `model_refused` or `release`.

    Before that, call `accepted` once the provider serves the call: with the first content of a stream, say. A permit
    is bound to the state that gave it: after a change of state, its report is ignored.
    """

    _candidate: Candidate
    _provider: ProviderState
    _account: AccountPause
    _model: ModelState
    _account_permit: int
    _breaker_permit: int
    _states: HostStates | None = None

    def _turn(self) -> AbstractContextManager[None]:
        """Return a context for changes of the states, which shares them with other workers."""
        if self._states is None:
            return _ALONE
        return self._states.turn(self._model, self._provider)

    def holds(self) -> bool:
        """Return whether the call may still start: no breaker opened and no pause began since."""
        states, slot, account = self._states, self._model.slot, self._provider.slot
        if states is not None and slot is not None and account is not None:
            words = states.words
            if words[slot.watched] != slot.seen or words[account.watched] != account.seen:
                states.refresh(self._model, self._provider)
        return self._model.breaker.holds(self._breaker_permit) and self._account.holds(self._account_permit)

    def accepted(self) -> None:
        """Report that the provider serves the call: it accepts the key, and the call is within its rate limit."""
        gate, account = self._model.gate, self._account
        # Nearly every call finds nothing to reset, so this saves the method calls on the hot path.
        if account.is_clear and not gate.counts_served:
            return
        with self._turn():
            if gate.counts_served:
                gate.accepted()
            if not account.is_clear and account.accepted(self._account_permit):
                self._log_account(ACCOUNT_PAUSE_ENDED, "its trial call was accepted")

    def succeed(self) -> None:
        """Report that the call got a complete answer."""
        breaker = self._model.breaker
        if self._states is None or (breaker.is_closed and not breaker.in_a_row):
            why = breaker.succeed(self._breaker_permit)
            if why is None:  # as nearly always: only counts of this worker changed
                return
            with self._turn():
                if breaker.is_closed and self._states is not None:  # another worker changed the state meanwhile
                    return
        else:
            with self._turn():
                why = breaker.succeed(self._breaker_permit)
        if why is not None:
            self._log_breaker(why)

    def fail(self, message: str) -> None:
        """Report that the call failed by the provider's fault; `message` is logged and must not hold secrets."""
        with self._turn():
            self._account.release(self._account_permit)
            why = self._model.breaker.fail(self._breaker_permit)
        if why is not None:
            self._log_breaker(f"{why}: {message}")

    def limited(self, retry_after_s: float | None, message: str) -> float:
        """Report a 429; `retry_after_s` is its Retry-After. Returns the Retry-After for the client, in seconds."""
        gate, breaker = self._model.gate, self._model.breaker
        with self._turn():
            self._release()
            # Workers have about as many connections each, so all answer about as much as this one.
            per_s = breaker.answered_per_s() * (1 if self._states is None else self._states.place.living())
            why = gate.limited(retry_after_s, breaker.answered(), per_s)
        if why is not None:
            self._log_model(GATE_CLOSED, f"{why}: {message}", gate.closed_for_s())
        return gate.wait_s(retry_after_s)

    def refused(self, request_id: str, content: int, message: str) -> None:
        """Report that the provider refused the account; `content` hashes the call (see `AccountPause.refused`)."""
        account = self._account
        with self._turn():
            self._model.breaker.release(self._breaker_permit)
            why = "its trial call was refused" if account.is_paused else f"{REFUSALS_IN_A_ROW} refusals in a row"
            seconds = account.refused(self._account_permit, request_id, content)
        if seconds is not None:
            self._log_account(ACCOUNT_PAUSE_BEGAN, f"{why}: {message}", seconds)

    def model_refused(self, message: str) -> None:
        """Report that the provider does not have the model, or not for this account."""
        with self._turn():
            self._release()
            began = self._model.pause.refused()
        if began:
            self._log_model(MODEL_PAUSE_BEGAN, message, MODEL_PAUSE_S)

    def release(self) -> None:
        """End the permit of a call that was not sent, or whose end is not the provider's doing (cancelled, 4xx)."""
        if self._account.prober or self._model.breaker.prober:  # else no call is a trial
            with self._turn():
                self._release()

    def _release(self) -> None:
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
