"""Add requests from before a budget to its accounts: made on the 20th, a budget of a month counts the whole month.

Requests that were admitted with the budget in force name it (`AttemptRecord.accounts`), and the shipper charges them.
This adds the stored requests that do not: those of the current period, and of the one before it if something is carried
over. `budget_backfill` keeps what was added, so that the rest of the accounts can be compared with the records' names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import sqlalchemy as sa

from llm_gateway import wall_clock
from llm_gateway.domain.stored_budget import StoredBudget
from llm_gateway.store.attempts_json import AttemptTexts
from llm_gateway.store.budget_charges import Charges, add
from llm_gateway.store.budget_matching import BudgetMatcher
from llm_gateway.store.budget_spend import AMOUNTS, KEY, SpendTable
from llm_gateway.store.budget_tables import budget_backfill, budgets
from llm_gateway.store.budgets import stored_budget
from llm_gateway.store.bulk import Pause, no_pause
from llm_gateway.store.database import Database
from llm_gateway.store.record_filter import CLOCK_SLACK_MS
from llm_gateway.store.record_rows import MATCHED_COLUMNS, matched_records
from llm_gateway.store.set_insert import row_insert
from llm_gateway.store.tables import usage_records
from llm_gateway.store.usage import first_id, time_of

ROWS_AT_ONCE = 500
"""Records read, and in memory, at a time."""
MOST_ACCOUNTS = 200_000
"""Accounts of a budget that are summed in memory. If there are more, no older requests are added."""


Together: TypeAlias = Callable[[Callable[[], bool], Charges], bool]
"""Returns what its first argument returned: whether the charges were stored."""


class Backfilled(NamedTuple):
    """The result for one budget: what was added, and since when its requests count (milliseconds UTC).

    `is_complete` is False if there were too many accounts, so that nothing was added.
    """

    budget: StoredBudget
    charges: Charges
    counted_from_ms: int
    is_complete: bool = True


class BudgetBackfill:
    """Adds older requests to new budgets.

    Args:
        database: where budgets and records are.
        clock_ms: milliseconds UTC.
        pause: called after every few records.
        most_accounts: accounts of a budget from which on nothing is added to it.
        together: calls its first argument, which stores the second one, and adds that where else it is counted.
    """

    def __init__(
        self,
        database: Database,
        clock_ms: Callable[[], int] = wall_clock.now_ms,
        *,
        pause: Pause = no_pause,
        most_accounts: int = MOST_ACCOUNTS,
        together: Together = lambda store, _charges: store(),
    ) -> None:
        self._database = database
        self._clock_ms = clock_ms
        self._pause = pause
        self._most_accounts = most_accounts
        self._together = together
        self._texts = AttemptTexts(database)
        self._spend = SpendTable(database)
        self._added = row_insert(database, budget_backfill, (*KEY, *AMOUNTS), "")

    def step(self) -> Backfilled | None:
        """Add older requests to the next budget that lacks them; None if none does, or if it was changed meanwhile.

        Raises:
            StoreUnavailable: the database does not answer; nothing was added.
        """
        query = sa.select(budgets).where(budgets.c.counted_from_ms.is_(None)).order_by(budgets.c.id).limit(1)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        found = self._summed(stored_budget(row))
        return found if self._together(partial(self._store, found), found.charges) else None

    def _summed(self, stored: StoredBudget) -> Backfilled:
        now_ms = self._clock_ms()
        period = stored.period(now_ms)
        before = stored.period_before(period)
        start_ms = period.start_ms if before is None else before.start_ms
        matcher, charges = BudgetMatcher(stored.budget), Charges()
        records = usage_records.c
        last_id, end_id = first_id(start_ms - CLOCK_SLACK_MS), first_id(now_ms + CLOCK_SLACK_MS)
        query = sa.select(*MATCHED_COLUMNS).where(records.id < end_id).order_by(records.id).limit(ROWS_AT_ONCE)
        oldest_ms: int | None = None
        while True:
            self._pause()
            with self._database.read() as connection:
                rows = connection.execute(query.where(records.id > last_id)).all()
                found = matched_records(connection, self._texts, rows)
            if found and oldest_ms is None:
                oldest_ms = time_of(found[0].id)
            add(charges, matcher.charges(each for each in found if each.at_ms >= start_ms))
            if len(charges) > self._most_accounts:
                return Backfilled(stored, {}, stored.defined_at_ms, is_complete=False)
            if len(rows) < ROWS_AT_ONCE:
                break
            last_id = rows[-1].id
        counted_from_ms = max(start_ms, min(stored.defined_at_ms, oldest_ms or stored.defined_at_ms))
        return Backfilled(stored, charges, counted_from_ms)

    def _store(self, found: Backfilled) -> bool:
        """Store the sums in one transaction. Returns False if the budget was changed or deleted meanwhile."""
        stored = found.budget
        mark = (
            sa.update(budgets)
            .where(budgets.c.id == stored.id, budgets.c.accounts_id == stored.budget.id)
            .where(budgets.c.counted_from_ms.is_(None))
            .values(counted_from_ms=found.counted_from_ms)
        )
        with self._database.write() as connection:
            if not connection.execute(mark).rowcount:
                return False
            self._spend.add(connection, found.charges, self._pause)
            rows = [(*account, *balance) for account, balance in found.charges.items()]
            self._added.run(connection, rows, self._pause)
        return True
