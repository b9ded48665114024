"""Wait for a candidate at a rate limit: choose the line in which a request is served first, and wait for its turn.

`waiting_line.py` holds the lines. A request that no line is expected to serve in time is refused at once.
"""

from __future__ import annotations

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.upstream_call import Success
from llm_gateway.limiter.base import Reservation
from llm_gateway.worker.pipeline.admission import most_tokens
from llm_gateway.worker.pipeline.availability import Permit, ProviderAvailability, Wait
from llm_gateway.worker.pipeline.availability.rate_limit_gate import TOLD_PAUSE_S
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

        The expected times become the waits that `state` tells the client. If the call is a retry, the budget of the
        candidate's provider pays for it.
        """
        best, least = None, self._longest_wait(state)
        for candidate, expected_s, wait_s in self._expected(state):
            if wait_s <= least and self._may_call(state, candidate, expected_s):
                best, least = candidate, wait_s
        if best is not None and self._is_retry(state, best) and state.paid_for != best.provider.id:
            self._availability.may_retry(best.provider.id)
            state.paid_for = best.provider.id
        return best

    def _expected(self, state: RoutingState) -> list[tuple[Candidate, float, float]]:
        """Note when each candidate at a rate limit is expected to serve the request; forget those that never will.

        Returns the candidates, each with the seconds until another request would be served and those for this one,
        which keeps to the Retry-After that it got.
        """
        expected = []
        tokens, now = most_tokens(state.request), self._timing.clock()
        for planned, _ in list(state.limited.values()):
            candidate = self._lines.current(planned)
            if tokens > candidate.provider.rate_limit_tpm:
                state.forget_wait(candidate)
                continue
            expected_s = self._lines.expected_s(candidate, state.request.user_id, tokens)
            wait_s = max(expected_s, state.own_wait_s(candidate, now))
            told_s = wait_s
            if wait_s <= 0 and state.has_answered_429(candidate):
                told_s = TOLD_PAUSE_S  # only this request's own retries are used up; its client is not to come at once
            state.note_limited(candidate, now + told_s)
            expected.append((candidate, expected_s, wait_s))
        return expected

    def _is_retry(self, state: RoutingState, candidate: Candidate) -> bool:
        """Return whether another call needs the budget of retries: after a 429, unless a gate spaces the calls."""
        return state.has_answered_429(candidate) and not self._availability.is_gated(candidate)

    def _may_call(self, state: RoutingState, candidate: Candidate, expected_s: float) -> bool:
        """Return whether to wait for the candidate: if the call is a retry, something and the budget have to allow it.

        If nothing holds the candidate back for others, only this request's own retries are used up.
        """
        if not self._is_retry(state, candidate):
            return True
        provider_id = candidate.provider.id
        return expected_s > 0 and (state.paid_for == provider_id or self._availability.has_retry(provider_id))

    async def wait_for(self, state: RoutingState, candidate: Candidate) -> Success | OpenStream | None:
        """Wait in the candidate's line, and try it in turn. Returns None if the attempt failed.

        Raises:
            GatewayError: the line is full, or the turn did not come in time.
        """
        if state.request.client_request.apart is not None:
            await state.request.client_request.apart.prepare(state.request, candidate)
        call = self._calls.translate(state, candidate)
        if call is None:
            state.forget_wait(candidate)
            return None
        await self._sit_out(state, candidate)
        started = self._timing.clock()
        wait_s, user = self._longest_wait(state), state.request.user_id
        waiter = self._lines.join(candidate, user, most_tokens(state.request), wait_s)
        if waiter is None:
            raise state.error(self._timing.clock())
        admitted: tuple[Permit, Reservation] | None = None
        try:
            admitted = await self._take_turn(state, waiter)
        finally:
            waiter.leave(is_served=admitted is not None)
            state.note_queued(self._timing.clock() - started)
        if admitted is None:
            return None
        state.forget_wait(candidate)
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

    async def _take_turn(self, state: RoutingState, waiter: Waiter) -> tuple[Permit, Reservation] | None:
        """Wait until the waiter has a place. Returns None if its candidate cannot be called any more.

        Raises:
            GatewayError: the turn did not come in time, or the last provider to wait for was deleted.
        """
        candidate, presence = waiter.candidate, state.request.presence
        while True:
            with presence:
                has_turn = await waiter.turn()
            if not has_turn:
                break
            admitted = await self._calls.admit(state, waiter.candidate)
            if admitted is None:
                state.forget_wait(candidate)
                return None
            if not isinstance(admitted, Wait):
                return admitted
            if not admitted.limited:
                state.note_unavailable(candidate, self._timing.clock() + admitted.seconds)
                return None
            waiter.again(admitted.seconds, by_model=admitted.by_model)
        if waiter.is_deleted and len(state.limited) > 1:
            state.forget_wait(candidate)
            return None
        self._timing.check_deadline(state)
        waiter.leave(is_served=False)  # it would count as ahead of itself
        if not waiter.is_deleted:
            self._expected(state)
        raise state.error(self._timing.clock())
