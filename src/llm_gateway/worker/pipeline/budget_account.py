"""Accounts of budgets as a worker knows them: each of one budget, one value and one period."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import msgspec

from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.budget_table import BudgetRule, needed_until_ms
from llm_gateway.host_memory.budget_accounts import AccountPlace


class Account:
    """An account of one period: its budget, its name in records, and its place in the memory."""

    __slots__ = ("__weakref__", "end_ms", "place", "ref", "rule")

    def __init__(self, rule: BudgetRule, ref: AccountRef, end_ms: int) -> None:
        self.rule = rule
        self.ref = ref
        self.end_ms = end_ms
        before = None
        if rule.budget.carry and ref.period_start_ms > _made_ms(rule.budget.id):
            start_ms = rule.period_at(ref.period_start_ms - 1).start_ms
            before = rule.account_name(ref._replace(period_start_ms=start_ms))
        carried = partial(_carried, rule) if before is not None else None
        self.place = AccountPlace(rule.account_name(ref), needed_until_ms(rule, ref), before, carried)

    def limit(self, now_ms: int) -> int:
        """Return the limit at a moment, without what was carried over."""
        budget = self.rule.budget
        if budget.override_limit is not None and now_ms < budget.override_until_ms:
            return budget.override_limit
        return budget.limit


class Matched(msgspec.Struct, frozen=True, eq=False):
    """The accounts of a combination of values until `until_ms`. `refs` is the list that attempts name them by."""

    accounts: tuple[Account, ...]
    refs: list[AccountRef]
    until_ms: int


def _carried(rule: BudgetRule, spent_before: int) -> int:
    """Return what the period before left for an account that spent so much in it."""
    return int(Fraction(str(rule.budget.carry)) * max(0, rule.budget.limit - spent_before))


def _made_ms(budget_id: str) -> int:
    """Return when a budget was made, from its id (UUIDv7), before which it left nothing; 0 if that is unknown."""
    digits = budget_id.replace("-", "")
    try:
        return int(digits[:12], 16) if len(digits) == 32 and digits[12] == "7" else 0
    except ValueError:
        return 0
