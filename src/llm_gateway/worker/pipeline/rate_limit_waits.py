"""Wait for a candidate at a rate limit: choose the line in which a request is served first, and wait for its turn.

`waiting_line.py` holds the lines. A request that no line is expected to serve in time is refused at once.
"""

from __future__ import annotations

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.upstream_call import Success
from llm_gateway.limiter.base import Reservation
from llm_gateway.worker.pipeline.admission import most_tokens
from llm_gateway.worker.pipeline.availability import Permit, ProviderAvailability, Wait
from llm_gateway.worker.pipeline.candidate_calls import CandidateCalls
from llm_gateway.worker.pipeline.open_stream import OpenStream
from llm_gateway.worker.pipeline.routing_state import RoutingState
from llm_gateway.worker.pipeline.timing import DEADLINE_SLACK_S, Timing
from llm_gateway.worker.pipeline.waiting_line import Waiter, WaitingLines


class RateLimitWaits:
    """The waits of requests for which every candidate is at a rate limit, or failed."""

    def __init__(
        self, *, availability: ProviderAvailability, calls: CandidateCalls, lines: WaitingLines, timing: Timing
    ) -> None:
        self._availability = availability
        self._calls = calls
        self._lines = lines
        self._timing = timing

    def _longest_wait(self, state: RoutingState) -> float:
        """Return the seconds for which the request may still wait, in this line and in later ones."""
        return min(self._lines.max_wait_s - state.queued_s, self._timing.remaining_s(state) - DEADLINE_SLACK_S)

    def choose(self, state: RoutingState) -> Candidate | None:
        """Return the candidate at a rate limit that is expected to be free first; None if none is in time.

        The expected times become the waits that `state` tells the client.
        """
        if not state.limited:
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

    async def wait_for(self, state: RoutingState, candidate: Candidate) -> Success | OpenStream | None:
        """Wait in the candidate's line, and try it in turn. Returns None if the attempt failed.

        Raises:
            GatewayError: the line is full, or the turn did not come in time.
        """
        call = self._calls.translate(state, candidate)
        state.limited.remove(candidate)
        if call is None:
            return None
        await self._sit_out(state, candidate)
        started = self._timing.clock()
        wait_s, user = self._longest_wait(state), state.request.user_id
        waiter = self._lines.join(candidate, user, most_tokens(state.request), wait_s)
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
        served = await self._calls.attempt(state, candidate, call, *admitted)
        state.last = candidate
        return served

    async def _sit_out(self, state: RoutingState, candidate: Candidate) -> None:
        """Wait for the end of a Retry-After that this request got: the line may move on before."""
        own_wait_s = state.own_wait_s(candidate, self._timing.clock())
        if own_wait_s:
            started = self._timing.clock()
            try:
                with state.request.presence:
                    await self._timing.sleep(own_wait_s)
            finally:
                state.note_queued(self._timing.clock() - started)

    def _may_retry(self, state: RoutingState, candidate: Candidate) -> bool:
        """Return whether the budget of retries allows another call to a provider that failed; each call pays once."""
        if not state.has_paid:
            state.has_paid = self._availability.may_retry(candidate.provider.id)
        return state.has_paid

    async def _take_turn(self, state: RoutingState, waiter: Waiter) -> tuple[Permit, Reservation] | None:
        """Wait until the waiter has a place. Returns None if its candidate cannot be called any more.

        Raises:
            GatewayError: the turn did not come in time.
        """
        candidate, presence = waiter.candidate, state.request.presence
        while True:
            with presence:
                has_turn = await waiter.turn()
            if not has_turn:
                break
            admitted = await self._calls.admit(state, candidate)
            if not isinstance(admitted, Wait):
                return admitted
            if not admitted.limited:
                state.note_unavailable(admitted.seconds)
                return None
            waiter.again(admitted.seconds, by_model=admitted.by_model)
        if waiter.is_deleted:
            return None
        self._timing.check_deadline(state)
        state.forget_limits()
        state.note_limited(candidate, waiter.expected_s())
        raise state.error()
