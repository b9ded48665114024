"""Accounts of budgets as a worker knows them: each of one budget, one value and one period."""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction
from functools import partial
from typing import TypeAlias

import msgspec

from llm_gateway.domain.budget import AccountRef, Budget
from llm_gateway.domain.budget_period import FAR_MS
from llm_gateway.domain.budget_table import BudgetRule, needed_until_ms
from llm_gateway.host_memory.budget_accounts import NO_LIMIT, AccountPlace

Amount: TypeAlias = int
"""What is held in an account: the index of one of five amounts."""
EXPECTED_NANOS, BOUND_NANOS, EXPECTED_TOKENS, BOUND_TOKENS, REQUESTS = range(5)
_AMOUNTS: dict[tuple[str, str], Amount] = {
    ("usd", "expected"): EXPECTED_NANOS,
    ("usd", "bound"): BOUND_NANOS,
    ("tokens", "expected"): EXPECTED_TOKENS,
    ("tokens", "bound"): BOUND_TOKENS,
    ("requests", "expected"): REQUESTS,
    ("requests", "bound"): REQUESTS,
}


class Account:
    """An account of one period: its budget, its name in records, and its place in the memory."""

    __slots__ = ("__weakref__", "end_ms", "place", "ref", "resets_at", "rule")

    def __init__(self, rule: BudgetRule, ref: AccountRef, end_ms: int) -> None:
        self.rule = rule
        self.ref = ref
        self.end_ms = end_ms
        self.resets_at = reset_text(rule, end_ms)
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
    """The accounts of a combination of values until `until_ms`, with all that a request needs to know of them.

    Attributes:
        refs: the list by which attempts name the accounts.
        rows: the place of each account in the memory, what is held there (`Amount`), its limit and its overdraft; those
            of budgets that refuse nothing are `NO_LIMIT`.
        kinds: the `Amount` of each account.
        is_hard: whether any of the budgets refuses requests; `has_bound` and `has_expected`, whether any holds that.
        rejects_unpriced: a budget that takes no model without a known price, None if all do.
    """

    accounts: tuple[Account, ...]
    refs: list[AccountRef]
    until_ms: int
    rows: tuple[tuple[AccountPlace, Amount, int, int], ...]
    kinds: tuple[Amount, ...]
    is_hard: bool
    has_bound: bool
    has_expected: bool
    rejects_unpriced: Budget | None


def match_of(accounts: tuple[Account, ...], now_ms: int) -> Matched:
    """Prepare what a request needs to know of its accounts, until a period or an override ends."""
    budgets = [account.rule.budget for account in accounts]
    ends = [account.end_ms for account in accounts]
    ends += [budget.override_until_ms for budget in budgets if budget.override_until_ms > now_ms]
    hard = [budget for budget in budgets if budget.mode == "hard"]
    rejects = [budget for budget in hard if budget.unit == "usd" and budget.unpriced == "reject"]
    return Matched(
        accounts=accounts,
        refs=[account.ref for account in accounts],
        until_ms=min(ends, default=NO_LIMIT),
        rows=tuple(
            (account.place, _AMOUNTS[budget.unit, budget.hold], account.limit(now_ms), budget.overdraft)
            if budget.mode == "hard"
            else (account.place, _AMOUNTS[budget.unit, budget.hold], NO_LIMIT, NO_LIMIT)
            for account, budget in zip(accounts, budgets, strict=True)
        ),
        kinds=tuple(_AMOUNTS[budget.unit, budget.hold] for budget in budgets),
        is_hard=bool(hard),
        has_bound=any(budget.hold == "bound" for budget in budgets),
        has_expected=any(budget.hold == "expected" for budget in budgets),
        rejects_unpriced=rejects[0] if rejects else None,
    )


def reset_text(rule: BudgetRule, end_ms: int) -> str | None:
    """Return the end of a period on the budget's clock; None for a budget that never resets."""
    if end_ms >= FAR_MS:
        return None
    return datetime.fromtimestamp(end_ms / 1000, rule.zone).isoformat(timespec="seconds")


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
