"""Try the plan's candidates in order until one answers: skip unavailable ones, retry a lone one, wait, raise an error.

    each candidate in order            call it, unless it cannot serve the request now    candidate_calls.py
    a lone candidate that failed       pause, and call it again                           retries.py
    candidates at a rate limit         wait in a line, and call the one whose turn comes  rate_limit_waits.py

A request gets at most three sent attempts, all within its deadline; those that were not sent, 429s and refusals of the
account do not count, but there are at most eight in all. A candidate without alternatives is retried at most twice.

After an attempt that exceeded a model's context window, candidates whose window is known to be no larger are skipped.
Those that refused a request of this size lately are left for the end, and tried if no other candidate is there.

When no candidate can serve the request now, it waits for one that is at a rate limit, if its turn is expected in time;
otherwise it is refused at once, with the expected time as its Retry-After.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from typing import Any, cast

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.plan import Plan
from llm_gateway.domain.request import Request
from llm_gateway.domain.upstream_call import Success
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import GatewayError
from llm_gateway.routing.session_affinity import SessionAffinity
from llm_gateway.worker.pipeline.admission import Admission
from llm_gateway.worker.pipeline.attempt import Attempts
from llm_gateway.worker.pipeline.availability import ProviderAvailability
from llm_gateway.worker.pipeline.candidate_calls import CandidateCalls
from llm_gateway.worker.pipeline.open_stream import OpenStream
from llm_gateway.worker.pipeline.rate_limit_waits import RateLimitWaits
from llm_gateway.worker.pipeline.retries import Retries
from llm_gateway.worker.pipeline.routing_state import RoutingState
from llm_gateway.worker.pipeline.timing import Timing
from llm_gateway.worker.pipeline.translation import Translation
from llm_gateway.worker.pipeline.waiting_line import WaitingLines


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
        self._affinity = affinity
        self._timing = timing
        self._calls = CandidateCalls(
            availability=availability,
            admission=admission,
            attempts=attempts,
            translation=translation,
            lines=lines,
            timing=timing,
        )
        self._retries = Retries(availability=availability, calls=self._calls, lines=lines, timing=timing)
        self._waits = (
            None
            if lines is None
            else RateLimitWaits(availability=availability, calls=self._calls, lines=lines, timing=timing)
        )

    def run(self, request: Request, plan: Plan, record: UsageRecord) -> Coroutine[Any, Any, Success]:
        """Return the first complete answer, for a request without `stream`: no attempt opens a stream for it.

        Raises:
            GatewayError: 400, 429, 502, 503 or 504, once no candidate is left or the deadline passed.
        """
        return cast("Coroutine[Any, Any, Success]", self.open(request, plan, record))

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
                    if self._context_limits.sizes and self.refused_this_size(request, candidate):
                        passed_over.append(candidate)
                        state.note_window()
                        continue
                    served = await self._calls.call(state, candidate)
                    if served is not None:
                        return served
                    state.last = candidate
                    self._check_end(state)
            return await self._try_passed_over(state, passed_over) or await self._try_again(state, plan.candidates)
        except GatewayError as error:
            error.queued_ms = state.queued_ms
            limited_by = state.limited_by
            if error.limited_by is None and limited_by is not None:
                error.limited_by = limited_by.provider.name
            raise

    async def _try_passed_over(self, state: RoutingState, candidates: list[Candidate]) -> Success | OpenStream | None:
        """Try those that refused a request of this size lately, unless another may serve it; None if none served."""
        if state.failure is None and not state.limited and not state.unavailable:
            for candidate in candidates:
                served = await self._calls.call(state, candidate)
                if served is not None:
                    return served
                state.last = candidate
                self._check_end(state)
        return None

    async def _try_again(self, state: RoutingState, candidates: tuple[Candidate, ...]) -> Success | OpenStream:
        """Retry a lone candidate, and wait for those at a rate limit, once each candidate was tried."""
        while True:
            # With alternatives, trying the next candidate takes the place of a retry.
            served = await self._retries.retry(state, candidates[0]) if len(candidates) == 1 else None
            if served is None:
                candidate = None if self._waits is None else self._waits.choose(state)
                if self._waits is None or candidate is None:
                    self._timing.check_deadline(state)
                    raise state.error(self._timing.clock())
                served = await self._waits.wait_for(state, candidate)
            if served is not None:
                return served
            self._check_end(state)

    def _check_end(self, state: RoutingState) -> None:
        """Raise the request's error if every candidate would reject it, or if it has had all its attempts.

        Raises:
            ClientDisconnected: no client waits for the answer of another attempt.
        """
        state.request.presence.check()
        if state.failure is not None and state.failure.final:
            raise state.error(self._timing.clock())
        if state.is_spent:
            self._timing.check_deadline(state)  # a passed deadline explains more than the last attempt's error
            raise state.error(self._timing.clock())

    def in_order(self, request: Request, plan: Plan) -> Iterator[Candidate]:
        """Yield the plan's candidates in the order in which they would be tried now."""
        for tier in plan.tiers:
            waiting = list(tier)
            while waiting:
                candidate = self._affinity.choose(request, tier, waiting, self._busyness)
                waiting.remove(candidate)
                yield candidate

    def refused_this_size(self, request: Request, candidate: Candidate) -> bool:
        """Return whether a request that is no larger exceeded the candidate's context window lately."""
        tokens = request.estimated_input_tokens()
        return self._context_limits.exceeds(candidate.provider.id, candidate.model, tokens, tokens + request.max_tokens)

    def _choose(self, state: RoutingState, tier: tuple[Candidate, ...], waiting: list[Candidate]) -> Candidate:
        return self._affinity.choose(state.request, tier, waiting, self._busyness)

    def _busyness(self, candidate: Candidate) -> int:
        return self._availability.in_flight(candidate.provider.id)
