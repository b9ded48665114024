"""Start of an attempt: hold what it can cost in its budgets, then journal its intent."""

from __future__ import annotations

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.usage import AttemptRecord
from llm_gateway.errors import GatewayError
from llm_gateway.worker.pipeline.budgets import Budgets
from llm_gateway.worker.pipeline.lease_requests import Lack
from llm_gateway.worker.pipeline.routing_state import RoutingState
from llm_gateway.worker.pipeline.usage_recorder import UsageRecorder


async def begin_attempt(
    recorder: UsageRecorder, budgets: Budgets | None, state: RoutingState, candidate: Candidate, reserved: int
) -> AttemptRecord | None:
    """Hold what an attempt can cost in its budgets, and journal that it is about to be sent.

    Returns None if a budget has no room for it, which `state` notes. `reserved` are the tokens of its reservation.

    Raises:
        JournalUnavailable: the intent cannot be written; nothing is held then.
    """
    attempt = recorder.new_attempt(state.request, candidate, reserved, state.why(candidate))
    if budgets is None or budgets.table is None:
        await recorder.write_intent(state.record, attempt)
        return attempt
    came = budgets.hold(state.request, candidate, attempt, state.record)
    if came is False or isinstance(came, Lack):
        came = await budgets.hold_later(state.request, candidate, attempt, state.record, came)
    if isinstance(came, GatewayError):
        state.note_budget(came, candidate)
        return None
    try:
        await recorder.write_intent(state.record, attempt)
    except BaseException:  # edge: cancelled or not journalled, so that nobody settles this attempt
        budgets.give_back(state.record, attempt)
        raise
    return attempt
