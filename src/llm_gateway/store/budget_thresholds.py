"""Find accounts of budgets that have spent a part of their limit for which the webhook is to get a message.

`budget_spend.notified` keeps the highest part that had its message, in units of 1/10,000. It is stored in the
transaction of the message: so each part of each account and period has one message, whatever is restarted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.domain.budget import AccountRef, Balance
from llm_gateway.domain.budget_period import FAR_MS, BudgetPeriod
from llm_gateway.domain.stored_budget import StoredBudget
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.store.budget_spend import PARTS, BudgetSpend, Spending
from llm_gateway.store.budget_tables import budget_spend
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.webhook_messages import WebhookMessages, id_part

KIND = "budget.threshold"
ACCOUNTS_AT_ONCE = 500


def forget_customer(connection: Connection, customer: str) -> None:
    """Delete the messages about a customer's accounts, in the caller's transaction."""
    part = msgspec.json.encode({"per": "user_id", "value": customer}).decode()[1:-1]  # in the order of `_data`
    WebhookMessages.forget(connection, f"{KIND}:", f"{part},")


class BudgetThresholds:
    """Writes a message for each part of a limit that an account has come to."""

    def __init__(self, database: Database, messages: WebhookMessages) -> None:
        self._database = database
        self._messages = messages
        self._budgets = BudgetStore(database)
        self._spend = BudgetSpend(database)

    def check(self, accounts: Iterable[AccountRef], now_ms: int) -> int:
        """Write the messages that are due for these accounts. Returns how many were dropped, since too many wait.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        values: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
        for budget_id, value, start_ms in accounts:
            values[budget_id, start_ms].append(value)
        dropped = 0
        for stored in self._budgets.list() if values else ():
            period = stored.period(now_ms)
            if stored.budget.notify_at:
                for value in values.get((stored.budget.id, period.start_ms), ()):
                    [spending] = self._spend.page(stored, now_ms, 1, value=value)
                    dropped += self._check(stored, period, spending, now_ms)
        return dropped

    def check_all(self, now_ms: int) -> int:
        """Write the messages that are due for any account, as `check` does: those of budgets with `notify_at`."""
        dropped = 0
        for stored in self._budgets.list():
            if not stored.budget.notify_at:
                continue
            period, after = stored.period(now_ms), None
            lowest = Fraction(str(min(stored.budget.notify_at)))
            while page := self._spend.page(stored, now_ms, ACCOUNTS_AT_ONCE, after):
                reached = [each for each in page if each.balance.of(stored.budget.unit) >= lowest * each.limit]
                dropped += sum(self._check(stored, period, each, now_ms) for each in reached)
                if len(reached) < len(page) or len(page) < ACCOUNTS_AT_ONCE:
                    break
                after = page[-1].balance.of(stored.budget.unit), page[-1].value
        return dropped

    def _check(self, stored: StoredBudget, period: BudgetPeriod, spending: Spending, now_ms: int) -> int:
        spent, limit = spending.balance.of(stored.budget.unit), spending.limit
        reached = [part for part in stored.budget.notify_at if spent >= Fraction(str(part)) * limit]
        if not reached:
            return 0
        row = (budget_spend.c.budget_id == stored.budget.id, budget_spend.c.value == spending.value)
        own = sa.and_(*row, budget_spend.c.period_start_ms == period.start_ms)
        dropped = 0
        with self._database.read() as connection:
            before = connection.execute(sa.select(budget_spend.c.notified).where(own)).scalar()
        if before is None or before >= round(max(reached) * PARTS):
            return 0
        with self._database.write() as connection:
            mark = sa.update(budget_spend).where(own, budget_spend.c.notified == before)
            if not connection.execute(mark.values(notified=round(max(reached) * PARTS))).rowcount:
                return 0
            for part in reached:
                if round(part * PARTS) > before:
                    about = f"{period.start_ms}:{round(part * PARTS)}:{id_part(spending.value)}"
                    name = f"{KIND}:{stored.budget.id}:{about}"
                    data = _data(stored, period, spending, part)
                    dropped += not self._messages.add_in(connection, name, now_ms, KIND, data)
        return dropped


def _data(stored: StoredBudget, period: BudgetPeriod, spending: Spending, part: float) -> dict[str, Any]:
    budget = stored.budget
    balance: Balance = spending.balance
    is_usd = budget.unit == "usd"
    return {
        "budget_id": stored.id,
        "budget": budget.name,
        "mode": budget.mode,
        "per": budget.per,
        "value": spending.value,
        "threshold": part,
        "unit": budget.unit,
        "spent": balance.nanos / NANOS_PER_USD if is_usd else balance.of(budget.unit),
        "limit": spending.limit / NANOS_PER_USD if is_usd else spending.limit,
        "period": budget.period,
        "period_start": _moment(period.start_ms),
        "resets_at": None if period.end_ms >= FAR_MS else _moment(period.end_ms),
    }


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
