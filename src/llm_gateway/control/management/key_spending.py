"""Spending of one key: its usage of the current month, and the budgets that its requests can count in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from llm_gateway.control.effective_keys import NO_RIGHTS
from llm_gateway.control.management.budget_fields import shown_amount
from llm_gateway.control.management.fields import iso
from llm_gateway.control.management.freshness import UpToDate
from llm_gateway.control.management.key_schemas import KeyBudget, KeySpend
from llm_gateway.domain.budget_period import FAR_MS
from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.model_aliases import is_glob, matches
from llm_gateway.domain.service_key import AllowLists, ServiceKey
from llm_gateway.domain.stored_budget import StoredBudget
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.errors import StoreUnavailable
from llm_gateway.store.budget_spend import BudgetSpend
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.rollups import Totals
from llm_gateway.store.usage_reports import Grouping, UsageReports


class KeySpending:
    """Looks up what keys have spent. `snapshot` returns the configuration in force."""

    def __init__(
        self,
        reports: UsageReports,
        budgets: BudgetStore,
        spend: BudgetSpend,
        snapshot: Callable[[], Snapshot],
        up_to_date: UpToDate,
    ) -> None:
        self._reports = reports
        self._budgets = budgets
        self._spend = spend
        self._snapshot = snapshot
        self._up_to_date = up_to_date

    def of_month(self, key: str) -> KeySpend | None:
        """Return what a key spent in this month (UTC), None while older usage is still being summed.

        `key` is its id, or the name of a key of the environment.
        """
        now_ms = self._up_to_date()
        now = datetime.fromtimestamp(now_ms / 1000, UTC)
        start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        start_ms = round(start.timestamp() * 1000)
        try:
            found = self._reports.totals(Grouping(filters={"key": key}), (start_ms, now_ms + 1))
        except StoreUnavailable:
            return None
        totals = found.get((), Totals())
        return KeySpend(
            since=iso(start_ms),
            cost_usd=totals.cost_nanos / NANOS_PER_USD,
            tokens=totals.total_tokens,
            requests=totals.requests,
        )

    def budgets(self, key: str, key_id: str | None, token: ServiceKey | None = None) -> list[KeyBudget]:
        """Return the budgets that requests of a key can count in, by its key, team, customers, services and tags.

        `token` is that of an identity provider if the request has one in the place of a key.
        """
        keys = self._snapshot().service_keys.values()
        found = token if key_id is None else next((each for each in keys if each.id == key_id), None)
        rights = (None if found is None else found.rights) or NO_RIGHTS
        fixed = {"user_id": rights.fixed_customer, "service": rights.fixed_service}
        own = {
            "key": key,
            "team": (None if found is None else found.team_id) or "",
            **{name: value for name, value in fixed.items() if value is not None},
            **{f"tag:{name}": value for name, value in rights.tags.items()},
        }
        lists = {"user_id": rights.customers, "service": rights.services}
        now_ms = self._up_to_date()
        return [
            self._shown(stored, own, now_ms)
            for stored in self._budgets.list()
            if all(_can_be(glob, own.get(name), lists.get(name, ())) for name, glob in stored.budget.match.items())
        ]

    def _shown(self, stored: StoredBudget, own: dict[str, str], now_ms: int) -> KeyBudget:
        budget = stored.budget
        period = stored.period(now_ms)
        value = own.get(budget.per) if budget.per is not None else ""
        account = None
        if value is not None:
            [account] = self._spend.page(stored, now_ms, 1, value=value)
        spent = None if account is None else account.balance.of(budget.unit)
        limit = budget.limit if account is None else account.limit
        return KeyBudget(
            name=budget.name,
            match=budget.match,
            per=budget.per,
            mode=budget.mode,
            unit=budget.unit,
            limit=shown_amount(limit, budget.unit),
            spent=None if spent is None else shown_amount(spent, budget.unit),
            remaining=None if spent is None else shown_amount(max(0, limit - spent), budget.unit),
            period=budget.period,
            resets_at=None if period.end_ms >= FAR_MS else iso(period.end_ms),
        )


def _can_be(glob: str, value: str | None, lists: AllowLists) -> bool:
    """Return whether a request can have what a budget matches.

    `value` is what all requests of its key have, None if they differ; `lists` are what the key allows then. Whether two
    globs have a value in common is not looked at.
    """
    if value is not None:
        return matches(glob, value)
    return is_glob(glob) or all(any(matches(allowed, glob) for allowed in globs) for globs in lists)
