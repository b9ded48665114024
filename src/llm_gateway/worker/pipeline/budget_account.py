"""Accounts of budgets by their meaning: budget, value, period, limit; and the accounts that a request counts in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from fractions import Fraction
from functools import partial
from typing import TypeAlias

import msgspec

from llm_gateway.domain.budget import AccountRef, Budget
from llm_gateway.domain.budget_period import FAR_MS
from llm_gateway.domain.budget_table import BudgetRule, needed_until_ms
from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import AttemptRecord
from llm_gateway.host_memory.account_group import NO_LIMIT, AccountGroup, AccountPlace
from llm_gateway.worker.pipeline.budget_amounts import Cost, LargestCost, intended_cost

Amount: TypeAlias = int
"""What is held in an account: the index of one of five amounts."""
EXPECTED_NANOS, BOUND_NANOS, EXPECTED_TOKENS, BOUND_TOKENS, REQUESTS = range(5)
_EXPECTED, _BOUNDS = {EXPECTED_NANOS, EXPECTED_TOKENS}, {BOUND_NANOS, BOUND_TOKENS}
_AMOUNTS: dict[tuple[str, str], Amount] = {
    ("usd", "expected"): EXPECTED_NANOS,
    ("usd", "bound"): BOUND_NANOS,
    ("tokens", "expected"): EXPECTED_TOKENS,
    ("tokens", "bound"): BOUND_TOKENS,
    ("requests", "expected"): REQUESTS,
    ("requests", "bound"): REQUESTS,
}

BUSY_MS = 20
"""Milliseconds between two requests of a combination after which an advance is worth its while."""


class Account:
    """An account of one period: its budget, its name in records and in headers, and its place in the memory."""

    __slots__ = ("__weakref__", "end_ms", "kind", "place", "ref", "resets_at", "rule", "shown_name")

    def __init__(self, rule: BudgetRule, ref: AccountRef, end_ms: int) -> None:
        self.rule = rule
        self.ref = ref
        self.end_ms = end_ms
        self.kind = _AMOUNTS[rule.budget.unit, rule.budget.hold]
        self.shown_name = ""
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


class Advance:
    """Amounts held for requests to come, the same in each account of a combination that counts in this unit."""

    __slots__ = ("asked_ms", "is_open", "is_used", "nanos", "requests", "tokens")

    def __init__(self) -> None:
        self.nanos = self.tokens = self.requests = 0
        self.is_open = self.is_used = False
        self.asked_ms = 0
        """When a request held amounts without the advance, in milliseconds."""

    def take(self, nanos: int, tokens: int) -> bool:
        """Take what a request can cost. Returns False if there is not as much, or if it costs nothing.

        Accounts in which nothing is held lose their places, so a request needs something of each unit.
        """
        if self.requests and 0 < nanos <= self.nanos and 0 < tokens <= self.tokens:
            self.nanos -= nanos
            self.tokens -= tokens
            self.requests -= 1
            self.is_used = True
            return True
        return False

    def give_back(self, nanos: int, tokens: int) -> bool:
        """Give back what a request has not spent of what it took, which may be before this was closed and opened again.

        Returns False if that is less than nothing, or this is closed.
        """
        if nanos < 0 or tokens < 0 or not self.is_open:
            return False
        self.nanos += nanos
        self.tokens += tokens
        return True

    def of(self, kind: Amount) -> int:
        """Return what is held in each account in which this amount counts."""
        if kind == REQUESTS:
            return self.requests
        return self.nanos if kind <= BOUND_NANOS else self.tokens

    def is_busy(self, now_ms: int) -> bool:
        """Return whether the request before this one, which holds amounts without the advance, was just now."""
        passed_ms = now_ms - self.asked_ms
        self.asked_ms = now_ms
        return 0 <= passed_ms < BUSY_MS


class Matched(msgspec.Struct, frozen=True, eq=False):
    """The accounts of a combination of values, with all that a request needs to know of them.

    They are those of the moments from `since_ms` until `until_ms`.

    Attributes:
        refs: the list by which attempts name the accounts.
        group: the accounts in the memory, with their limits; those of budgets that refuse nothing are `NO_LIMIT`. Its
            kinds are what is held in each account (`Amount`).
        advance: what is held for requests to come (`budget_advances.py`).
        rooms: of each account what is held in it, its place, its limit, also of budgets that refuse nothing, and its
            overdraft.
        shown: the accounts that headers of answers name, with their limits.
        bound: returns the most that an attempt can cost in any of the accounts, by its model's context window.
        is_hard: whether any of the budgets refuses requests; `has_bound` and `has_expected`, whether any holds that.
        never_passed: the `hard` budgets of dollars or tokens that hold the bound.
        rejects_unpriced: a budget that takes no model without a known price, None if all do.
    """

    accounts: tuple[Account, ...]
    refs: list[AccountRef]
    since_ms: int
    until_ms: int
    group: AccountGroup
    advance: Advance
    rooms: tuple[tuple[Amount, AccountPlace, int, int], ...]
    shown: tuple[tuple[Account, int], ...]
    bound: Callable[[Request, AttemptRecord, int | None], Cost]
    is_hard: bool
    has_bound: bool
    has_expected: bool
    rejects_unpriced: Budget | None
    never_passed: tuple[Budget, ...]

    def one_by_one(self) -> AccountGroup:
        """Return the accounts as a group in which each has an amount of its own, since they are not charged alike."""
        return AccountGroup(self.group.places, self.group.limits, self.group.overdrafts)


def match_of(accounts: tuple[Account, ...], now_ms: int) -> Matched:
    """Prepare what a request needs to know of its accounts, until a period or an override ends.

    It holds from the last of these ends on: the clock can be set back (`wall_clock.py`).
    """
    budgets = [account.rule.budget for account in accounts]
    overrides = [budget.override_until_ms for budget in budgets]
    starts = [account.ref.period_start_ms for account in accounts] + [
        end_ms for end_ms in overrides if end_ms <= now_ms
    ]
    ends = [account.end_ms for account in accounts] + [end_ms for end_ms in overrides if end_ms > now_ms]
    hard = [budget for budget in budgets if budget.mode == "hard"]
    rejects = [budget for budget in hard if budget.rejects_unpriced]
    limits = [account.limit(now_ms) for account in accounts]
    kinds = tuple(account.kind for account in accounts)
    overdrafts = [each.overdraft if each.mode == "hard" else NO_LIMIT for each in budgets]
    has_bound = not _BOUNDS.isdisjoint(kinds)
    return Matched(
        accounts=accounts,
        refs=[account.ref for account in accounts],
        since_ms=max(starts, default=0),
        until_ms=min(ends, default=NO_LIMIT),
        group=AccountGroup(
            [account.place for account in accounts],
            [limit if each.mode == "hard" else NO_LIMIT for limit, each in zip(limits, budgets, strict=True)],
            overdrafts,
            kinds,
            _EXPECTED,
        ),
        advance=Advance(),
        rooms=tuple(
            (each.kind, each.place, limit, overdraft if each.kind in _EXPECTED else NO_LIMIT)
            for each, limit, overdraft in zip(accounts, limits, overdrafts, strict=True)
        ),
        shown=tuple(each for each in zip(accounts, limits, strict=True) if each[0].rule.budget.mode != "observe"),
        bound=LargestCost().of if has_bound else intended_cost,
        is_hard=bool(hard),
        has_bound=has_bound,
        has_expected=not _EXPECTED.isdisjoint(kinds),
        rejects_unpriced=rejects[0] if rejects else None,
        never_passed=tuple(budget for budget in hard if budget.is_never_passed),
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
