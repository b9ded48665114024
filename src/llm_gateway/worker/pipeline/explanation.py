"""Explain how a request would be routed now: the pipeline's own checks, without a call, a reservation or a record."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from llm_gateway.domain.budget import Budget
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.domain.catalog import Candidate, Snapshot
from llm_gateway.domain.explanation import ExplainedCandidate, Explanation, Reason, Verdict
from llm_gateway.domain.plan import Plan
from llm_gateway.domain.request import Request
from llm_gateway.protocols.contract import Unreadable, Unsupported
from llm_gateway.routing.restricted_plan import restrict_plan
from llm_gateway.routing.route import route
from llm_gateway.worker.pipeline.admission import Admission
from llm_gateway.worker.pipeline.availability import ProviderAvailability
from llm_gateway.worker.pipeline.budget_bounds import not_bounded
from llm_gateway.worker.pipeline.caching import Caching
from llm_gateway.worker.pipeline.failover import Failover
from llm_gateway.worker.pipeline.translation import Translation

NEVER_SERVES = frozenset({"context_window", "unsupported", "exceeds_limit", "unpriced", "unbounded"})
"""Reasons that no wait removes."""


class Explainer(NamedTuple):
    """The parts of the pipeline that decide which candidate is called.

    Whether budgets have room is not looked at, only whether one rejects a model for want of a price, or of a bound of
    what the request can cost. What other requests do meanwhile can change the answer, and so can a line of requests
    that wait for a rate limit.
    """

    snapshot: Callable[[], Snapshot]
    caching: Caching
    failover: Failover
    availability: ProviderAvailability
    admission: Admission
    translation: Translation

    async def explain(self, request: Request) -> Explanation:
        """Return the candidates in the order in which they would be tried, each with why it would be passed over.

        Raises:
            GatewayError: the request has no route: its model is unknown, no provider can be used, or its key does not
                allow it. The key's `rpm`, `tpm` and `max_parallel` do not count.
        """
        snapshot = self.snapshot()
        plan = route(request, snapshot)
        if request.key is not None and request.key.rights is not None:
            plan = restrict_plan(plan, request, request.key.rights)
        explained: list[ExplainedCandidate] = []
        serves = False
        for rank, candidate in enumerate(self.failover.in_order(request, plan), 1):
            reasons = (*self._reasons(request, candidate), *_rejected(snapshot.budgets, request, candidate))
            verdict: Verdict = "passed_over" if reasons else "available" if serves else "serves"
            serves = serves or not reasons
            explained.append(ExplainedCandidate(rank, candidate.provider.name, candidate.model, verdict, reasons))
        if not serves:
            _name_last_resort(explained)
        return Explanation(
            route=plan.reason,
            session=request.session,
            cache=await self.caching.peek(request, plan),
            candidates=tuple(explained),
            budgets=_budgets(snapshot.budgets, request, plan),
        )

    def _reasons(self, request: Request, candidate: Candidate) -> tuple[Reason, ...]:
        found = []
        if self.failover.refused_this_size(request, candidate):
            found.append(Reason("context_window", detail="It refused a request that was no larger lately."))
        try:
            self.translation.call(request, candidate)
        except Unsupported as error:
            found.append(Reason("unsupported", detail=f"{error.field}: {error.why}."))
        except Unreadable as error:
            found.append(Reason("unsupported", detail=error.message))
        obstacle = self.availability.obstacle(candidate)
        if obstacle is not None:
            found.append(Reason(obstacle[0], retry_after_s=round(obstacle[1], 3)))
        if self.admission.is_too_large(request, candidate):
            found.append(Reason("exceeds_limit", detail="It exceeds the provider's rate_limit_tpm."))
        elif (seconds := self.admission.next_free(request, candidate)) > 0:
            found.append(Reason("rate_limited", retry_after_s=round(seconds, 3)))
        return tuple(found)


def _budgets(table: BudgetTable | None, request: Request, plan: Plan) -> tuple[str, ...]:
    """Return the names of the budgets that the request would count in at any of its candidates."""
    if table is None:
        return ()
    found = {budget.name: None for candidate in plan.candidates for budget in _matching(table, request, candidate)}
    return tuple(found)


def _matching(table: BudgetTable, request: Request, candidate: Candidate) -> list[Budget]:
    values = table.values(request, candidate.provider.name, candidate.model)
    return [rule.budget for rule in table.matching(values)]


def _rejected(table: BudgetTable | None, request: Request, candidate: Candidate) -> tuple[Reason, ...]:
    """Return why a budget rejects the candidate: the price of its model is not known, or nothing bounds the cost."""
    if table is None:
        return ()
    matching = _matching(table, request, candidate)
    rejects = [budget.name for budget in matching if budget.rejects_unpriced and candidate.price is None]
    detail = "Its price is not known, and budget {!r} is in dollars: give the provider prices."
    if rejects:
        return (Reason("unpriced", detail=detail.format(rejects[0])),)
    error = not_bounded((budget for budget in matching if budget.is_never_passed), request, candidate)
    return () if error is None else (Reason("unbounded", detail=error.detail),)


def _name_last_resort(explained: list[ExplainedCandidate]) -> None:
    """Let the first candidate that only refused this size serve if no other can later: failover then tries it."""
    firsts = [each.reasons[0].code for each in explained]
    for at, each in enumerate(explained):
        if NEVER_SERVES.issuperset(firsts) and firsts[at] == "context_window" and len(each.reasons) == 1:
            explained[at] = msgspec.structs.replace(each, verdict="serves")
            return
