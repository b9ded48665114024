"""Try the plan's candidates in order until one answers: skip unavailable ones, retry a lone one, wait, raise an error.

A candidate is skipped if its protocol cannot express the request, if it is unavailable (`availability/`), or if its
rate limit is full; otherwise an attempt is made (`attempt.py`). A request gets at most three sent attempts, all within
its deadline; those that were not sent, 429s and refusals of the account do not count, but there are at most eight in
all. A candidate without alternatives is retried at most twice. One that cannot verify the signatures of reasoning in
the history, or read a tool call's arguments there, is tried once more without the signatures or with valid arguments.

After an attempt that exceeded a model's context window, candidates whose window is known to be no larger are skipped.
Those that refused a request of this size lately are left for the end, and tried if no other candidate is there.

When no candidate can serve the request now, it waits for one that is at a rate limit (`waiting_line.py`), if its turn
is expected in time; otherwise it is refused at once, with the expected time as its Retry-After.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.plan import Plan
from llm_gateway.domain.request import Request
from llm_gateway.domain.upstream_call import Success, UpstreamCall
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import DeadlineExceeded, GatewayError
from llm_gateway.limiter.base import Reservation
from llm_gateway.protocols.contract import Unreadable, Unsupported
from llm_gateway.routing.session_affinity import SessionAffinity
from llm_gateway.worker.pipeline.admission import Admission, most_tokens
from llm_gateway.worker.pipeline.attempt import Attempts
from llm_gateway.worker.pipeline.availability import Permit, ProviderAvailability, Wait
from llm_gateway.worker.pipeline.open_stream import OpenStream
from llm_gateway.worker.pipeline.routing_state import SIGNATURE, Failure, RoutingState
from llm_gateway.worker.pipeline.translation import Translation
from llm_gateway.worker.pipeline.waiting_line import Waiter, WaitingLines

MAX_RETRIES = 2
RETRY_PAUSE_S = (0.2, 2.0)
"""Bounds of the random pause before a retry, in seconds."""
LIMITED_PAUSE_S = (0.5, 2.0)
"""The same after a 429. A provider whose Retry-After exceeds the upper bound, and the longest wait in a line, is not
retried."""
TOO_LATE = (
    "No provider answered within the request's deadline, which is its x-request-timeout-ms, else "
    "LLM_GATEWAY_REQUEST_TIMEOUT_SECONDS: raise it, or ask for less."
)
DEADLINE_SLACK_S = 0.005
"""Seconds before the deadline from which no attempt is started: it could not be answered any more."""


class Timing(NamedTuple):
    """Clock, sleep and random numbers of failover, injected so that tests control them."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    uniform: Callable[[float, float], float] = random.uniform


class Failover:
    """The execution of plans: candidates in order, tier by tier, until one answers.

    Within a tier, a session keeps to one provider (`routing/session_affinity.py`); for other requests the provider with
    the fewest calls in flight comes first. Without `lines`, requests never wait for a rate limit.
    """

    def __init__(
        self,
        *,
        availability: ProviderAvailability,
        admission: Admission,
        attempts: Attempts,
        translation: Translation,
        affinity: SessionAffinity,
        lines: WaitingLines | None = None,
        timing: Timing = Timing(),  # noqa: B008 - immutable
    ) -> None:
        self._availability = availability
        self._context_limits = availability.context_limits
        self._admission = admission
        self._attempts = attempts
        self._translation = translation
        self._affinity = affinity
        self._lines = lines
        self._timing = timing

    async def run(self, request: Request, plan: Plan, record: UsageRecord) -> Success:
        """Return the first complete answer.

        Raises:
            GatewayError: 400, 429, 502, 503 or 504, once no candidate is left or the deadline passed.
        """
        served = await self.open(request, plan, record)
        if isinstance(served, OpenStream):
            raise TypeError("A stream was opened for a request that wants a whole answer.")
        return served

    async def open(self, request: Request, plan: Plan, record: UsageRecord) -> OpenStream | Success:
        """Return the first stream whose content has begun, or an answer that a provider sent whole.

        The caller concludes the stream with its `served` or `cut`.

        Raises:
            GatewayError: as for `run`.
        """
        state = RoutingState(request, record)
        passed_over: list[Candidate] = []
        try:
            for tier in plan.tiers:
                waiting = list(tier)
                while waiting:
                    candidate = waiting[0] if len(waiting) == 1 else self._choose(state, tier, waiting)
                    waiting.remove(candidate)
                    if self._context_limits.sizes and self._refused_this_size(request, candidate):
                        passed_over.append(candidate)
                        state.note_window()
                        continue
                    served = await self._try(state, candidate)
                    if served is not None:
                        return served
                    state.last = candidate
                    self._check_end(state)
            return await self._try_passed_over(state, passed_over) or await self._try_again(state, plan.candidates)
        except GatewayError as error:
            error.queued_ms = state.queued_ms
            if error.limited_by is None and state.limited_by is not None:
                error.limited_by = state.limited_by.provider.name
            raise

    async def _try_passed_over(self, state: RoutingState, candidates: list[Candidate]) -> Success | OpenStream | None:
        """Try those that refused a request of this size lately, unless another may serve it; None if none served."""
        if state.failure is None and not state.limited and state.out_for is None:
            for candidate in candidates:
                served = await self._try(state, candidate)
                if served is not None:
                    return served
                state.last = candidate
                self._check_end(state)
        return None

    async def _try_again(self, state: RoutingState, candidates: tuple[Candidate, ...]) -> Success | OpenStream:
        """Retry a lone candidate, and wait for those at a rate limit, once each candidate was tried."""
        while True:
            # With alternatives, trying the next candidate takes the place of a retry.
            served = await self._retry(state, candidates[0]) if len(candidates) == 1 else None
            if served is None:
                candidate = self._worth_waiting_for(state)
                if candidate is None:
                    self._check_deadline(state)
                    raise state.error()
                served = await self._wait_for(state, candidate)
            if served is not None:
                return served
            self._check_end(state)

    def _check_end(self, state: RoutingState) -> None:
        """Raise the request's error if every candidate would reject it, or if it has had all its attempts."""
        if state.failure is not None and state.failure.final:
            raise state.error()
        if state.is_spent:
            self._check_deadline(state)  # a passed deadline explains more than the last attempt's error
            raise state.error()

    def _refused_this_size(self, request: Request, candidate: Candidate) -> bool:
        """Return whether a request that is no larger exceeded the candidate's context window lately."""
        tokens = request.estimated_input_tokens()
        return self._context_limits.exceeds(candidate.provider.id, candidate.model, tokens, tokens + request.max_tokens)

    def _choose(self, state: RoutingState, tier: tuple[Candidate, ...], waiting: list[Candidate]) -> Candidate:
        return self._affinity.choose(state.request, tier, waiting, self._busyness)

    def _busyness(self, candidate: Candidate) -> int:
        return self._availability.in_flight(candidate.provider.id)

    async def _retry(self, state: RoutingState, candidate: Candidate) -> Success | OpenStream | None:
        """Retry the only candidate, at most twice, after failures that another attempt may not meet."""
        while state.retries < MAX_RETRIES:
            failure = state.failure
            if failure is None:
                return None
            if failure.limited and self._lines is not None and self._availability.is_gated(candidate):
                return None  # it waits in line, at the rate of the gate
            if not await self._worth_a_retry(state, candidate, failure):
                return None
            state.retries += 1
            state.forget_waits()
            served = await self._try(state, candidate)
            if served is not None or state.failure is failure:  # no new failure: the candidate was skipped
                return served
        return None

    async def _worth_a_retry(self, state: RoutingState, candidate: Candidate, failure: Failure) -> bool:
        """Return whether to retry the candidate. Waits for the pause, and after a 429 for the budget of retries."""
        low, high = LIMITED_PAUSE_S if failure.limited else RETRY_PAUSE_S
        most_s = self._lines.max_wait_s if failure.limited and self._lines is not None else 0.0
        if not failure.retry_on_same or failure.retry_after_s > max(high, most_s):
            return False
        waited = 0.0
        while True:
            pause = max(self._timing.uniform(low, high), failure.retry_after_s)
            if self._remaining(state) - pause <= DEADLINE_SLACK_S:
                return False
            may_retry = self._may_retry(state, candidate)
            if not may_retry and waited + pause > most_s:
                return False
            await self._timing.sleep(pause)
            waited += pause
            if may_retry:
                return True

    def _may_retry(self, state: RoutingState, candidate: Candidate) -> bool:
        """Return whether the budget of retries allows another call to a provider that failed; each call pays once."""
        if not state.has_paid:
            state.has_paid = self._availability.may_retry(candidate.provider.id)
        return state.has_paid

    def _remaining(self, state: RoutingState) -> float:
        return state.request.deadline - self._timing.clock()

    def _check_deadline(self, state: RoutingState) -> float:
        remaining = self._remaining(state)
        if remaining <= DEADLINE_SLACK_S:
            last = f" The last attempt: {state.failure.message}" if state.failure is not None else ""
            raise DeadlineExceeded(f"{TOO_LATE}{last}")
        return remaining

    async def _try(self, state: RoutingState, candidate: Candidate) -> Success | OpenStream | None:
        """Try one candidate. Returns None if it was skipped or failed, which `state` notes."""
        self._check_deadline(state)
        if state.too_long is not None and state.exceeds(candidate.context_window):
            state.note_window()
            return None
        if self._lines is not None and self._lines.held(candidate, state.request.user_id):
            state.passed = "limit"
            state.note_limited(candidate)
            return None
        call = self._call(state, candidate)
        if call is None:
            return None
        admitted = await self._admit(state, candidate)
        if isinstance(admitted, Wait):
            if admitted.limited:
                state.passed = "limit"
                state.note_limited(candidate, admitted.seconds)
            else:
                state.note_unavailable(admitted.seconds)
            return None
        if admitted is None:
            return None
        permit, reservation = admitted
        served = await self._attempts.make(state, candidate, call, permit, reservation)
        return served if served is not None else await self._try_mended(state, candidate, call)

    async def _try_mended(
        self, state: RoutingState, candidate: Candidate, call: UpstreamCall
    ) -> Success | OpenStream | None:
        """Try a candidate once more without signatures that it cannot verify, or with valid arguments of tool calls.

        With what the candidate refused in the history, the conversation would fail at each further turn.
        """
        if state.failure is None or not state.failure.may_be_mended or state.is_spent:
            return None
        unsigned = state.failure.cause == SIGNATURE
        mended = self._translation.mended(state.request.client_request, call, unsigned=unsigned)
        if mended is None:
            return None
        admitted = await self._admit(state, candidate)
        if admitted is None or isinstance(admitted, Wait):
            return None
        state.last = candidate
        return await self._attempts.make(state, candidate, mended, *admitted)

    async def _admit(self, state: RoutingState, candidate: Candidate) -> tuple[Permit, Reservation] | Wait | None:
        """Return the permit and the reservation for one call, or how long to wait; None if it exceeds the limit."""
        permit = self._availability.admit(candidate)
        if isinstance(permit, Wait):
            return permit
        try:
            decision = await self._admission.admit(state.request, candidate)
        except BaseException:  # edge: cancelled, or the limiter failed; an unreleased permit would block its breaker
            permit.release()
            raise
        if decision.reservation is None:
            permit.release()
            if not decision.exceeds:
                return Wait(decision.retry_after_s, limited=True, by_model=decision.by_model)
            state.note_too_small()
            return None
        if decision.is_crowded and self._lines is not None:
            self._lines.crowded(candidate.provider.id)
        return permit, decision.reservation

    def _call(self, state: RoutingState, candidate: Candidate) -> UpstreamCall | None:
        """Write the call for this candidate; None if its protocol cannot express the request, which `state` notes.

        A document that cannot be read is passed through all the same to a candidate of the client's own protocol.
        """
        try:
            return self._translation.call(state.request, candidate)
        except Unreadable as error:
            state.note_unreadable(error)
            return None
        except Unsupported as error:
            state.note_unsupported(candidate.provider.name, error)
            return None

    # Waiting in line

    def _longest_wait(self, state: RoutingState) -> float:
        """Return the seconds for which the request may still wait, in this line and in later ones."""
        most = 0.0 if self._lines is None else self._lines.max_wait_s - state.queued_s
        return min(most, self._remaining(state) - DEADLINE_SLACK_S)

    def _worth_waiting_for(self, state: RoutingState) -> Candidate | None:
        """Return the candidate at a rate limit that is expected to be free first; None if none is in time.

        The expected times become the waits that `state` tells the client.
        """
        if self._lines is None or not state.limited:
            return None
        tokens = most_tokens(state.request)
        limited, best, least = state.limited, None, self._longest_wait(state)
        state.forget_limits()
        for candidate in limited:
            if tokens > candidate.provider.rate_limit_tpm:
                continue
            expected_s = self._lines.expected_s(candidate, state.request.user_id, tokens)
            wait_s = max(expected_s, state.own_wait_s(candidate, self._timing.clock()))
            state.note_limited(candidate, wait_s)
            if state.has_answered_429(candidate) and not (
                self._availability.is_gated(candidate) or (expected_s > 0 and self._may_retry(state, candidate))
            ):
                continue  # nothing holds it back for others: only its own retries are used up
            if wait_s <= least:
                best, least = candidate, wait_s
        return best

    async def _wait_for(self, state: RoutingState, candidate: Candidate) -> Success | OpenStream | None:
        """Wait in the candidate's line, and try it in turn. Returns None if the attempt failed.

        Raises:
            GatewayError: the line is full, or the turn did not come in time.
        """
        lines = self._lines
        call = self._call(state, candidate)
        state.limited.remove(candidate)
        if call is None or lines is None:
            return None
        await self._sit_out(state, candidate)
        started = self._timing.clock()
        wait_s, user = self._longest_wait(state), state.request.user_id
        waiter = lines.join(candidate, user, most_tokens(state.request), wait_s)
        if waiter is None:
            raise state.error()
        admitted: tuple[Permit, Reservation] | None = None
        try:
            admitted = await self._take_turn(state, waiter)
        finally:
            waiter.leave(is_served=admitted is not None)
            state.note_queued(self._timing.clock() - started)
        if admitted is None:
            return None
        served = await self._attempts.make(state, candidate, call, *admitted)
        state.last = candidate
        return served if served is not None else await self._try_mended(state, candidate, call)

    async def _sit_out(self, state: RoutingState, candidate: Candidate) -> None:
        """Wait for the end of a Retry-After that this request got: the line may move on before."""
        own_wait_s = state.own_wait_s(candidate, self._timing.clock())
        if own_wait_s:
            started = self._timing.clock()
            try:
                await self._timing.sleep(own_wait_s)
            finally:
                state.note_queued(self._timing.clock() - started)

    async def _take_turn(self, state: RoutingState, waiter: Waiter) -> tuple[Permit, Reservation] | None:
        """Wait until the waiter has a place. Returns None if its candidate cannot be called any more.

        Raises:
            GatewayError: the turn did not come in time.
        """
        candidate = waiter.candidate
        while await waiter.turn():
            admitted = await self._admit(state, candidate)
            if not isinstance(admitted, Wait):
                return admitted
            if not admitted.limited:
                state.note_unavailable(admitted.seconds)
                return None
            waiter.again(admitted.seconds, by_model=admitted.by_model)
        if waiter.is_deleted:
            return None
        self._check_deadline(state)
        state.forget_limits()
        state.note_limited(candidate, waiter.expected_s())
        raise state.error()
