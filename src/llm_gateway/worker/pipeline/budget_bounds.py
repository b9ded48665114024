"""Keep the bound of a request's cost for budgets that are never passed: limit output, refuse what nothing bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llm_gateway.domain.budget import Budget
from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.plan import Plan
from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import FREE
from llm_gateway.errors import RequestNotAllowed
from llm_gateway.protocols.input_size import input_size
from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.worker.pipeline.budget_account import Matched
from llm_gateway.worker.pipeline.budget_texts import billed_apart, without_bound
from llm_gateway.worker.pipeline.output_limit import limit_to_bound


def set_output_limit(
    request: Request, plan: Plan, matching: Callable[[Request, Candidate, int], Matched | None]
) -> None:
    """Set the limit of output tokens in a request's document, if it can count in a budget that is never passed.

    Without it, or beside it in another field, an answer could be longer than the bound says. `matching` returns the
    accounts of the request at a candidate.

    Raises:
        Invalid, RequestNotAllowed: the limit cannot be set (`output_limit.py`).
    """
    client_request = request.client_request
    if client_request.is_canonical:
        return  # POST /generate always has a limit
    for candidate in plan.candidates:
        matched = matching(request, candidate, request.at_ms)
        if matched is not None and matched.never_passed:
            limit_to_bound(client_request, PROTOCOLS[client_request.protocol], matched.never_passed[0].name)
            return


def not_bounded(budgets: Iterable[Budget], request: Request, candidate: Candidate) -> RequestNotAllowed | None:
    """Return why nothing bounds what a call can take of one of these budgets, None if something does."""
    found = (_not_bounded(budget, request, candidate) for budget in budgets)
    return next(filter(None, found), None)


def _not_bounded(budget: Budget, request: Request, candidate: Candidate) -> RequestNotAllowed | None:
    client_request = request.client_request
    if budget.unit == "usd" and candidate.price in (None, FREE):
        return None
    if candidate.context_window is None and input_size(client_request).has_files:
        return without_bound(budget, candidate)
    if budget.rejects_unpriced and client_request.protocol in candidate.provider.codecs:
        tool = input_size(client_request).hosted_tool  # other protocols leave such tools out
        if tool is not None:
            return billed_apart(budget, tool)
    return None
