"""Budgets as they are stored and managed, and what their accounts may spend. Workers get the `Budget` in them."""

from __future__ import annotations

from fractions import Fraction
from zoneinfo import ZoneInfo

import msgspec

from llm_gateway.domain.budget import Budget
from llm_gateway.domain.budget_period import BudgetPeriod, period_at

COUNTED = ("match", "per", "period", "timezone", "anchor")
"""Fields of a budget that say what its accounts count. A change of them is a change of accounts."""


class StoredBudget(msgspec.Struct, frozen=True, kw_only=True):
    """A budget with its history. `*_ms` are milliseconds UTC.

    `id` stays. `budget.id` is that of the accounts, a new one whenever what they count has changed: so requests that
    were admitted before the change are not counted in accounts that mean something else. That was at `defined_at_ms`.
    `counted_from_ms` is the time since which older records count as well, None while they are not added yet.
    """

    id: str
    budget: Budget
    defined_at_ms: int
    counted_from_ms: int | None
    created_at_ms: int
    updated_at_ms: int

    @property
    def counts_from_ms(self) -> int:
        """The time since which all matching requests are counted."""
        return self.defined_at_ms if self.counted_from_ms is None else self.counted_from_ms

    def period(self, at_ms: int) -> BudgetPeriod:
        """Return the period that contains a moment."""
        budget = self.budget
        return period_at(budget.period, ZoneInfo(budget.timezone), budget.anchor, at_ms)

    def period_before(self, period: BudgetPeriod) -> BudgetPeriod | None:
        """Return the period before another one, None if nothing is carried over from it.

        Nothing is carried over from before the budget counted what it does now, as workers see it from `budget.id`.
        """
        if not self.budget.carry or self.budget.period == "total" or self.defined_at_ms >= period.start_ms:
            return None
        return self.period(period.start_ms - 1)


def carried(budget: Budget, spent_before: int) -> int:
    """Return what is added to the limit of an account that spent `spent_before` in the period before."""
    return int(Fraction(str(budget.carry)) * max(0, budget.limit - spent_before))


def limit_at(budget: Budget, at_ms: int) -> int:
    """Return the limit at a moment, without what is carried over."""
    if budget.override_limit is not None and at_ms < budget.override_until_ms:
        return budget.override_limit
    return budget.limit
