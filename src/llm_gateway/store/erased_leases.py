"""Erase a customer in the ledger of leases (`lease_ledger.py`), which has digests of the names of accounts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import get_args

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.domain.budget import AccountRef, Unit
from llm_gateway.domain.budget_period import FAR_MS
from llm_gateway.domain.stored_budget import StoredBudget
from llm_gateway.store.budget_tables import budget_leases, budgets
from llm_gateway.store.budgets import stored_budget
from llm_gateway.store.lease_ledger import SLACK_MS, VALUES_AT_ONCE, account_key

_of = budget_leases.c


def rename_customer_leases(
    connection: Connection, customer: str, label: str, known: Iterable[AccountRef], now_ms: int
) -> None:
    """Give the leases of a customer's accounts the digests of another label: a reader could make that of a known label.

    It is for budgets that count by customer, and the periods of the accounts `known` and those whose leases are kept.
    Nothing is leased on SQLite.
    """
    if connection.dialect.name != "postgresql":
        return
    renamed, starts = dict[str, str](), dict[str, set[int]]()
    for ref in known:
        starts.setdefault(ref.budget_id, set()).add(ref.period_start_ms)
    for row in connection.execute(sa.select(budgets).where(budgets.c.per == "user_id")):
        stored = stored_budget(row)
        for start_ms in starts.get(stored.budget.id, set()).union(_kept_periods(stored, now_ms)):
            ref = AccountRef(stored.budget.id, customer, start_ms)
            for unit in get_args(Unit):  # that of before a change, too
                budget = msgspec.structs.replace(stored.budget, unit=unit)
                renamed[account_key(budget, ref)] = account_key(budget, ref._replace(value=label))
    wanted = sorted(renamed)
    for start in range(0, len(wanted), VALUES_AT_ONCE):
        part = _of.account.in_(wanted[start : start + VALUES_AT_ONCE])
        for account in connection.execute(sa.select(_of.account).where(part).distinct()).scalars().all():
            connection.execute(sa.update(budget_leases).where(_of.account == account).values(account=renamed[account]))


def _kept_periods(stored: StoredBudget, now_ms: int) -> Iterator[int]:
    """Yield the starts of the periods whose leases are kept: with `carry`, a period is needed in the next one, too."""
    period = now = stored.period(now_ms)
    if now.end_ms < FAR_MS:
        yield now.end_ms  # a host whose clock is ahead
    kept_ms = SLACK_MS + 2 * (now.end_ms - now.start_ms if stored.budget.carry else 0)
    while period.end_ms + kept_ms >= now_ms:
        yield period.start_ms
        if not period.start_ms:
            return
        period = stored.period(period.start_ms - 1)
