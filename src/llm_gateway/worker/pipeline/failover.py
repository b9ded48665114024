"""Try the plan's candidates in order until one answers: skip unavailable ones, retry a lone one, raise the last error.

A candidate is skipped if its protocol cannot express the request, if it is unavailable (`availability/`), or if its
rate limit is full; otherwise an attempt is made (`attempt.py`). A request gets at most three sent attempts, all within
its deadline. A candidate without alternatives is retried once, or twice while it answers 429.
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
from llm_gateway.errors import DeadlineExceeded, Invalid
from llm_gateway.protocols.contract import Unreadable, Unsupported
from llm_gateway.routing.session_affinity import SessionAffinity
from llm_gateway.worker.pipeline.admission import Admission
from llm_gateway.worker.pipeline.attempt import Attempts
from llm_gateway.worker.pipeline.availability import ProviderAvailability, Wait
from llm_gateway.worker.pipeline.open_stream import OpenStream
from llm_gateway.worker.pipeline.routing_state import Failure, RoutingState
from llm_gateway.worker.pipeline.translation import Translation

MAX_SENT_ATTEMPTS = 3
RETRY_PAUSE_S = (0.2, 2.0)
"""Bounds of the random pause before a retry, in seconds."""
LIMITED_PAUSE_S = (0.5, 2.0)
"""The same after a 429. A provider whose Retry-After exceeds the upper bound is not retried."""
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
    the fewest calls in flight comes first.
    """

    def __init__(
        self,
        *,
        availability: ProviderAvailability,
        admission: Admission,
        attempts: Attempts,
        translation: Translation,
        affinity: SessionAffinity,
        timing: Timing = Timing(),  # noqa: B008 - immutable
    ) -> None:
        self._availability = availability
        self._admission = admission
        self._attempts = attempts
        self._translation = translation
        self._affinity = affinity
        self._timing = timing

    async def run(self, request: Request, plan: Plan, record: UsageRecord) -> Success:
        """Return the first complete answer.

        Raises:
            GatewayError: 400, 429, 502, 503 or 504, once no candidate is left or the deadline passed.
        """
        served = await self._walk(RoutingState(request, record), plan)
        if isinstance(served, OpenStream):
            raise TypeError("A stream was opened for a request that wants a whole answer.")
        return served

    async def open(self, request: Request, plan: Plan, record: UsageRecord) -> OpenStream | Success:
        """Return the first stream whose content has begun, or an answer that a provider sent whole.

        The caller concludes the stream with its `served` or `cut`.

        Raises:
            GatewayError: as for `run`.
        """
        return await self._walk(RoutingState(request, record), plan)

    async def _walk(self, state: RoutingState, plan: Plan) -> Success | OpenStream:
        for tier in plan.tiers:
            waiting = list(tier)
            while waiting:
                candidate = waiting[0] if len(waiting) == 1 else self._choose(state, tier, waiting)
                waiting.remove(candidate)
                served = await self._try(state, candidate)
                if served is not None:
                    return served
                if state.failure is not None and state.failure.final:
                    raise state.error()
                if state.sent >= MAX_SENT_ATTEMPTS:
                    self._check_deadline(state)  # a passed deadline explains more than the last attempt's error
                    raise state.error()
        candidates = plan.candidates
        # With alternatives, trying the next candidate takes the place of a retry.
        served = await self._retry(state, candidates[0]) if len(candidates) == 1 else None
        if served is not None:
            return served
        self._check_deadline(state)
        raise state.error()

    def _choose(self, state: RoutingState, tier: tuple[Candidate, ...], waiting: list[Candidate]) -> Candidate:
        return self._affinity.choose(state.request, tier, waiting, self._busyness)

    def _busyness(self, candidate: Candidate) -> int:
        return self._availability.in_flight(candidate.provider.id)

    async def _retry(self, state: RoutingState, candidate: Candidate) -> Success | OpenStream | None:
        """Retry the only candidate: once after a failure, at most twice while it answers 429."""
        for retries in range(MAX_SENT_ATTEMPTS - 1):
            failure = state.failure
            if failure is None or not (failure.limited or retries == 0):
                return None
            if not await self._worth_a_retry(state, candidate, failure):
                return None
            state.forget_waits()
            state.is_retry = True
            served = await self._try(state, candidate)
            if served is not None or state.failure is failure:  # no new failure: the candidate was skipped
                return served
        return None

    async def _worth_a_retry(self, state: RoutingState, candidate: Candidate, failure: Failure) -> bool:
        """Return whether to retry the candidate after this failure; waits for the pause before it returns True."""
        low, high = LIMITED_PAUSE_S if failure.limited else RETRY_PAUSE_S
        if not failure.retry_on_same or failure.retry_after_s > high:
            return False
        pause = max(self._timing.uniform(low, high), failure.retry_after_s)
        if self._remaining(state) - pause <= DEADLINE_SLACK_S or not self._availability.may_retry(
            candidate.provider.id
        ):
            return False
        await self._timing.sleep(pause)
        return True

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
        call = self._call(state, candidate)
        if call is None:
            return None
        permit = self._availability.admit(candidate)
        if isinstance(permit, Wait):
            state.note_skipped(permit.seconds, limited=permit.limited)
            return None
        try:
            decision = await self._admission.admit(state.request, candidate)
        except BaseException:  # edge: cancelled, or the limiter failed; an unreleased permit would block its breaker
            permit.release()
            raise
        if decision.reservation is None:
            permit.release()
            if decision.exceeds:
                state.note_too_small()
            else:
                state.note_skipped(decision.retry_after_s, limited=True)
            return None
        return await self._attempts.make(state, candidate, call, permit, decision.reservation)

    def _call(self, state: RoutingState, candidate: Candidate) -> UpstreamCall | None:
        """Write the call for this candidate; None if its protocol cannot express the request, which `state` notes."""
        try:
            return self._translation.call(state.request, candidate)
        except Unreadable as error:
            raise Invalid(error.message, loc=("body", error.field)) from None
        except Unsupported as error:
            state.note_unsupported(candidate.provider.name, error)
            return None
