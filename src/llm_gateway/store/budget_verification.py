"""Compare what was spent of budgets with the stored records that name their accounts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.domain.budget import AccountRef, Balance
from llm_gateway.domain.stored_budget import StoredBudget
from llm_gateway.store.attempts_json import AttemptTexts
from llm_gateway.store.budget_charges import NOTHING, Charges, add, charges_of_record
from llm_gateway.store.budget_tables import budget_backfill, budget_spend, budgets
from llm_gateway.store.budgets import stored_budget
from llm_gateway.store.database import Database
from llm_gateway.store.record_filter import CLOCK_SLACK_MS
from llm_gateway.store.record_rows import SUMMED_COLUMNS, summed_records
from llm_gateway.store.rollups import DAY_MS
from llm_gateway.store.tables import usage_records
from llm_gateway.store.usage import first_id

ROWS_AT_ONCE = 500
"""Records in memory at a time."""
READ_LIMIT_S = 3600.0


class Verified(NamedTuple):
    """An account of a period: what was spent, and how much more that is than its records say.

    `drift` is None if records of the period are deleted already, so that nothing can be compared.
    """

    budget: StoredBudget
    account: AccountRef
    spent: Balance
    drift: Balance | None

    @property
    def is_wrong(self) -> bool:
        """True if the account differs from its records."""
        return self.drift is not None and self.drift != NOTHING


def verify(database: Database, now_ms: int, retention_days: int) -> list[Verified]:
    """Compare each account with its records, over one state of the database. Accounts are sorted.

    What was added from records older than the budget (`budget_backfill`) is left out, since those do not name it.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    kept_ms = now_ms - retention_days * DAY_MS
    with database.read(READ_LIMIT_S) as connection:
        found = {each.budget.id: each for each in map(stored_budget, connection.execute(sa.select(budgets)).all())}
        if not found:
            return []
        spent = dict(_accounts(connection, budget_spend))
        added = dict(_accounts(connection, budget_backfill))
        since_ms = min(each.defined_at_ms for each in found.values())
        named = {
            account: charge
            for account, charge in _named(connection, AttemptTexts(database), since_ms).items()
            if account.budget_id in found
        }
    result = []
    for account in sorted(account for account in spent.keys() | named.keys() if account.budget_id in found):
        stored = found[account.budget_id]
        is_whole = max(account.period_start_ms, stored.defined_at_ms) >= kept_ms
        own = spent.get(account, NOTHING)
        drift = Balance(*map(_less, own, added.get(account, NOTHING), named.get(account, NOTHING)))
        if account in spent or is_whole:
            result.append(Verified(stored, account, own, drift if is_whole else None))
    return result


def _less(spent: int, added: int, named: int) -> int:
    return spent - added - named


def _accounts(connection: Connection, table: sa.Table) -> Iterator[tuple[AccountRef, Balance]]:
    columns = (*AccountRef._fields, *Balance._fields)
    for row in connection.execute(sa.select(*(table.c[name] for name in columns))):
        yield AccountRef(*row[:3]), Balance(*row[3:])


def _named(connection: Connection, texts: AttemptTexts, since_ms: int) -> Charges:
    """Return the charges of all records since a time."""
    records, charges = usage_records.c, Charges()
    query = sa.select(*SUMMED_COLUMNS).where(records.attempts.is_not(None)).order_by(records.id).limit(ROWS_AT_ONCE)
    last_id = first_id(since_ms - CLOCK_SLACK_MS)
    while True:
        rows = connection.execute(query.where(records.id > last_id)).all()
        for record in summed_records(connection, texts, rows):
            add(charges, charges_of_record(record))
        if len(rows) < ROWS_AT_ONCE:
            return charges
        last_id = rows[-1].id
