"""Retry a lone candidate after a pause, within the budget of retries."""

from __future__ import annotations

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.upstream_call import Success
from llm_gateway.worker.pipeline.availability import ProviderAvailability
from llm_gateway.worker.pipeline.candidate_calls import CandidateCalls
from llm_gateway.worker.pipeline.open_stream import OpenStream
from llm_gateway.worker.pipeline.routing_state import Failure, RoutingState
from llm_gateway.worker.pipeline.timing import DEADLINE_SLACK_S, Timing
from llm_gateway.worker.pipeline.waiting_line import WaitingLines

MAX_RETRIES = 2
RETRY_PAUSE_S = (0.2, 2.0)
"""Bounds of the random pause before a retry, in seconds."""
LIMITED_PAUSE_S = (0.5, 2.0)
"""The same after a 429. A provider whose Retry-After exceeds the upper bound, and the longest wait in a line, is not
retried."""


class Retries:
    """The retries of requests that have one candidate only; with alternatives, the next candidate is tried instead.

    Without `lines`, requests never wait for a rate limit.
    """

    def __init__(
        self,
        *,
        availability: ProviderAvailability,
        calls: CandidateCalls,
        lines: WaitingLines | None,
        timing: Timing,
    ) -> None:
        self._availability = availability
        self._calls = calls
        self._lines = lines
        self._timing = timing

    async def retry(self, state: RoutingState, candidate: Candidate) -> Success | OpenStream | None:
        """Retry the only candidate, at most twice, after failures that another attempt may not meet.

        Returns None if it was not retried, was skipped, or failed each time.
        """
        while state.retries < MAX_RETRIES:
            failure = state.failure
            if failure is None:
                return None
            if failure.limited and self._lines is not None and self._availability.is_gated(candidate):
                return None  # it waits in line, at the rate of the gate
            if not await self._worth_a_retry(state, candidate, failure):
                return None
            state.retries += 1
            state.forget_wait(candidate)
            served = await self._calls.call(state, candidate)
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
            if self._timing.remaining_s(state) - pause <= DEADLINE_SLACK_S:
                return False
            may_retry = self._may_retry(state, candidate)
            if not may_retry and waited + pause > most_s:
                return False
            with state.request.presence:
                await self._timing.sleep(pause)
            waited += pause
            if may_retry:
                return True

    def _may_retry(self, state: RoutingState, candidate: Candidate) -> bool:
        """Return whether the budget of retries allows another call to a provider that failed; each call pays once."""
        provider_id = candidate.provider.id
        if state.paid_for != provider_id and self._availability.may_retry(provider_id):
            state.paid_for = provider_id
        return state.paid_for == provider_id
