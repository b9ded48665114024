"""Endpoint of the past of a budget: what was spent in its last periods."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query
from pydantic import BaseModel, Field

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.budget_fields import shown_amount
from llm_gateway.control.management.budget_schemas import PeriodName
from llm_gateway.control.management.fields import Label, Timestamp, iso
from llm_gateway.control.management.freshness import UpToDate
from llm_gateway.control.management.router import Router
from llm_gateway.domain.budget_period import FAR_MS
from llm_gateway.domain.stored_budget import StoredBudget
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.store.budget_spend import BudgetSpend, PeriodSpending
from llm_gateway.store.budgets import BudgetStore


class PeriodOut(BaseModel):
    """Spending in a period. `spent` and `most` are in the unit of the budget."""

    start: Timestamp
    end: Annotated[Timestamp | None, Field(description="null for a budget without an end")]
    is_current: bool
    accounts: Annotated[int, Field(description="accounts with spending")]
    spent: Annotated[float, Field(description="of all accounts together")]
    most: Annotated[float, Field(description="of the account that spent most")]
    spent_usd: float
    spent_tokens: int
    spent_requests: int


class PeriodList(BaseModel):
    """The last periods with spending, newest first, as long as spending is kept and the budget counts the same."""

    unit: Literal["usd", "tokens", "requests"]
    period: PeriodName
    timezone: str
    periods: list[PeriodOut]


def budget_periods_router(store: BudgetStore, spend: BudgetSpend, up_to_date: UpToDate) -> Router:
    """Build the endpoint of a budget's periods."""
    router = Router("/api/v1/budgets/{budget_id}/periods", "budgets")

    @router.get("", responses=problems(404, 422))
    def list_periods(
        budget_id: str,
        limit: Annotated[int, Query(ge=1, le=100, description="maximum number of periods")] = 12,
        value: Annotated[Label | None, Query(description="only the account with this value")] = None,
    ) -> PeriodList:
        """Return what was spent in the current and in past periods."""
        stored, now_ms = store.get(budget_id), up_to_date()
        return PeriodList(
            unit=stored.budget.unit,
            period=stored.budget.period,
            timezone=stored.budget.timezone,
            periods=[_shown(stored, each, now_ms) for each in spend.periods(stored, now_ms, limit, value)],
        )

    return router


def _shown(stored: StoredBudget, spent: PeriodSpending, now_ms: int) -> PeriodOut:
    unit, end_ms = stored.budget.unit, stored.period(spent.start_ms).end_ms
    return PeriodOut(
        start=iso(spent.start_ms),
        end=None if end_ms >= FAR_MS else iso(end_ms),
        is_current=spent.start_ms <= now_ms < end_ms,
        accounts=spent.accounts,
        spent=shown_amount(spent.balance.of(unit), unit),
        most=shown_amount(spent.most, unit),
        spent_usd=spent.balance.nanos / NANOS_PER_USD,
        spent_tokens=spent.balance.tokens,
        spent_requests=spent.balance.requests,
    )
