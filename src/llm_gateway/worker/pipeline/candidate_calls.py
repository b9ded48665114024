"""Call one candidate: translate the request, get a permit and a reservation, and make the attempt.

A candidate is skipped if its protocol cannot express the request, if the request exceeds its context window, if it is
unavailable (`availability/`), or if its rate limit is full. One that cannot verify the signatures of reasoning in the
history, or read a tool call's arguments there, is called once more without the signatures or with valid arguments.
"""

from __future__ import annotations

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.upstream_call import Success, UpstreamCall
from llm_gateway.limiter.base import Reservation
from llm_gateway.protocols.contract import Unreadable, Unsupported
from llm_gateway.worker.pipeline.admission import Admission
from llm_gateway.worker.pipeline.attempt import Attempts
from llm_gateway.worker.pipeline.availability import Permit, ProviderAvailability, Wait
from llm_gateway.worker.pipeline.open_stream import OpenStream
from llm_gateway.worker.pipeline.routing_state import SIGNATURE, RoutingState
from llm_gateway.worker.pipeline.timing import Timing
from llm_gateway.worker.pipeline.translation import Translation
from llm_gateway.worker.pipeline.waiting_line import WaitingLines


class CandidateCalls:
    """The calls of candidates, each with its checks. Without `lines`, places at a rate limit are not shared fairly."""

    def __init__(
        self,
        *,
        availability: ProviderAvailability,
        admission: Admission,
        attempts: Attempts,
        translation: Translation,
        lines: WaitingLines | None,
        timing: Timing,
    ) -> None:
        self._availability = availability
        self._admission = admission
        self._attempts = attempts
        self._translation = translation
        self._lines = lines
        self._timing = timing

    async def call(self, state: RoutingState, candidate: Candidate) -> Success | OpenStream | None:
        """Call one candidate. Returns None if it was skipped or failed, which `state` notes.

        Raises:
            DeadlineExceeded: no time is left for it.
        """
        self._timing.check_deadline(state)
        if state.too_long is not None and state.exceeds(candidate.context_window):
            state.note_window()
            return None
        if self._lines is not None and self._lines.held(candidate, state.request.user_id):
            state.passed = "limit"
            state.note_limited(candidate)
            return None
        if state.request.client_request.apart is not None:
            await state.request.client_request.apart.prepare(state.request, candidate)
        call = self.translate(state, candidate)
        if call is None:
            return None
        admitted = await self.admit(state, candidate)
        if isinstance(admitted, Wait):
            until = self._timing.clock() + admitted.seconds
            if admitted.limited:
                state.passed = "limit"
                state.note_limited(candidate, until)
            else:
                state.note_unavailable(candidate, until)
            return None
        if admitted is None:
            return None
        served = await self._attempts.make(state, candidate, call, *admitted)
        return served if served is not None else await self._attempt_mended(state, candidate, call)

    async def attempt(
        self, state: RoutingState, candidate: Candidate, call: UpstreamCall, permit: Permit, reservation: Reservation
    ) -> Success | OpenStream | None:
        """Make an attempt that was admitted, and one with a mended history if that was refused.

        Returns None if it failed.
        """
        served = await self._attempts.make(state, candidate, call, permit, reservation)
        return served if served is not None else await self._attempt_mended(state, candidate, call)

    async def _attempt_mended(
        self, state: RoutingState, candidate: Candidate, call: UpstreamCall
    ) -> Success | OpenStream | None:
        """Call a candidate once more without signatures that it cannot verify, or with valid arguments of tool calls.

        With what the candidate refused in the history, the conversation would fail at each further turn.
        """
        if state.failure is None or not state.failure.may_be_mended or state.is_spent:
            return None
        unsigned = state.failure.cause == SIGNATURE
        mended = self._translation.mended(state.request.client_request, call, unsigned=unsigned)
        if mended is None:
            return None
        state.mended[candidate.cache_part] = mended
        admitted = await self.admit(state, candidate)
        if admitted is None or isinstance(admitted, Wait):
            return None
        state.last = candidate
        return await self._attempts.make(state, candidate, mended, *admitted)

    async def admit(self, state: RoutingState, candidate: Candidate) -> tuple[Permit, Reservation] | Wait | None:
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

    def translate(self, state: RoutingState, candidate: Candidate) -> UpstreamCall | None:
        """Write the call for this candidate; None if its protocol cannot express the request, which `state` notes.

        A document that cannot be read is passed through all the same to a candidate of the client's own protocol. A
        candidate that refused the history gets the mended one from then on.
        """
        if state.mended and (mended := state.mended.get(candidate.cache_part)) is not None:
            return mended
        apart = state.request.client_request.apart
        try:
            return self._translation.call(state.request, candidate) if apart is None else apart.call(candidate)
        except Unreadable as error:
            state.note_unreadable(error)
            return None
        except Unsupported as error:
            state.note_unsupported(candidate.provider.name, error)
            return None
