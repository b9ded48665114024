"""Find the records that a budget counts, and their accounts, by the rules that workers follow. No SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from zoneinfo import ZoneInfo

from llm_gateway.domain.budget import AccountRef, Balance, Budget
from llm_gateway.domain.budget_period import BudgetPeriod, period_at
from llm_gateway.domain.model_aliases import matches
from llm_gateway.domain.usage import AttemptRecord, UsageRecord
from llm_gateway.store.budget_charges import NOTHING, Charges

TAG = "tag:"

OF_RECORD: Mapping[str, Callable[[UsageRecord, AttemptRecord], str]] = {
    "team": lambda record, _: record.team_id or "",
    "key": lambda record, _: record.key,
    "user_id": lambda record, _: record.user_id,
    "service": lambda record, _: record.service,
    "task_type": lambda record, _: record.task_type,
    "model": lambda _, attempt: attempt.model,
    "provider": lambda _, attempt: attempt.provider,
    "session": lambda record, _: record.session or "",
    "agent": lambda record, _: record.agent or "",
}
"""The value of each dimension of budgets but tags, "" without one."""


def value_of(dimension: str, record: UsageRecord, attempt: AttemptRecord) -> str:
    """Return an attempt's value of a dimension, "" without one."""
    if dimension.startswith(TAG):
        return record.tags.get(dimension.removeprefix(TAG), "")
    return OF_RECORD[dimension](record, attempt)


class BudgetMatcher:
    """Finds what records would have been charged to a budget, had it been there."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._zone = ZoneInfo(budget.timezone)
        self._period = BudgetPeriod(0, 0)

    def charges(self, records: Iterable[UsageRecord]) -> Charges:
        """Return the charges of attempts that match and do not name the budget already."""
        found: Charges = {}
        for record in records:
            counted: set[AccountRef] = set()
            for attempt in record.attempts:
                account = self._account(record, attempt)
                if account is not None:
                    nanos, tokens, requests = found.get(account, NOTHING)
                    bought = attempt.usage.input_tokens + attempt.usage.output_tokens
                    is_first = account not in counted
                    found[account] = Balance(nanos + attempt.cost_nanos, tokens + bought, requests + is_first)
                    counted.add(account)
        return found

    def _account(self, record: UsageRecord, attempt: AttemptRecord) -> AccountRef | None:
        budget = self._budget
        if any(account.budget_id == budget.id for account in attempt.accounts):
            return None
        if not all(matches(glob, value_of(name, record, attempt)) for name, glob in budget.match.items()):
            return None
        at_ms = record.at_ms
        if not self._period.start_ms <= at_ms < self._period.end_ms:
            self._period = period_at(budget.period, self._zone, budget.anchor, at_ms)
        value = "" if budget.per is None else value_of(budget.per, record, attempt)
        return AccountRef(budget.id, value, self._period.start_ms)
