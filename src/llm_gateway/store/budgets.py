"""Store budgets. What was spent of them is in `budget_spend.py`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import IntegrityError

from llm_gateway import wall_clock
from llm_gateway.domain.budget import AccountRef, Budget
from llm_gateway.domain.stored_budget import COUNTED, StoredBudget
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import Conflict
from llm_gateway.store.audit import AuditTrail, Changes, Unaudited
from llm_gateway.store.budget_tables import budget_backfill, budget_spend, budgets
from llm_gateway.store.identifiers import missing, stored_id
from llm_gateway.store.one_transaction import Transactions, lock_for_count
from llm_gateway.store.unchanged import check_unchanged

MOST_BUDGETS = 1000
"""Maximum number of budgets: every request is compared with them."""
_IN_FORCE = sa.select(budgets).order_by(budgets.c.id).limit(MOST_BUDGETS)

Budgets: TypeAlias = list[StoredBudget]
Change: TypeAlias = Callable[[Budget], Budget]
"""Return the changed budget; what it raises leaves the stored one as it is."""


class BudgetStore:
    """The table of budgets; `audit` keeps its changes. `clock_ms` returns milliseconds UTC."""

    def __init__(
        self,
        database: Transactions,
        audit: AuditTrail | None = None,
        clock_ms: Callable[[], int] = wall_clock.now_ms,
    ) -> None:
        self._database = database
        self._changes: Changes = audit or Unaudited(database)
        self._clock_ms = clock_ms

    def within(self, transaction: Transactions) -> Self:
        """Return the same store whose reads and writes are part of a transaction."""
        part = copy.copy(self)
        part._database = transaction
        part._changes = self._changes.within(transaction)
        return part

    def list(self, *, name: str | None = None, after: str = "", limit: int = MOST_BUDGETS) -> Budgets:
        """Return up to `limit` budgets in the order of their creation, those whose id is greater than `after`."""
        query = sa.select(budgets).where(budgets.c.id > after).order_by(budgets.c.id).limit(limit)
        if name is not None:
            query = query.where(budgets.c.name == name)
        with self._database.read() as connection:
            return [stored_budget(row) for row in connection.execute(query)]

    def in_force(self) -> tuple[Budget, ...]:
        """Return all budgets as workers get them."""
        with self._database.read() as connection:
            return tuple(stored_budget(row).budget for row in connection.execute(_IN_FORCE))

    def get(self, budget_id: str) -> StoredBudget:
        """Return one budget.

        Raises:
            NotFound: no budget has this id.
        """
        found = stored_id(budget_id, "budget")
        with self._database.read() as connection:
            return _get(connection, found)

    def create(self, budget: Budget) -> StoredBudget:
        """Store a new budget; its id is given here.

        Raises:
            Conflict: the name is taken, or there are too many budgets.
        """
        now_ms, budget_id = self._clock_ms(), new_id()
        made = StoredBudget(
            id=budget_id,
            budget=msgspec.structs.replace(budget, id=budget_id),
            defined_at_ms=now_ms,
            counted_from_ms=None,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )
        try:
            with self._changes.change("budget.create") as change:
                connection = change.connection
                lock_for_count(connection, budgets)
                count = connection.execute(sa.select(sa.func.count()).select_from(budgets)).scalar_one()
                if count >= MOST_BUDGETS:
                    raise Conflict(
                        f"There are {count} budgets, which is the most: delete some, or make one budget for many "
                        "accounts with per."
                    )
                connection.execute(sa.insert(budgets).values(_row(made)))
                change.about(budget_id, budget.name, after=made.budget)
        except IntegrityError:
            raise _name_exists(budget.name) from None
        return made

    def update(self, budget_id: str, changed: Change, *, unchanged_since_ms: int | None = None) -> StoredBudget:
        """Change a budget. If it counts something else then, its accounts end, and new ones begin.

        With `unchanged_since_ms`, only if that is when the budget was changed last.

        Raises:
            NotFound: no budget has this id.
            Conflict: the new name is taken.
            ChangedSince: somebody has changed the budget since.
        """
        found, name = stored_id(budget_id, "budget"), ""
        try:
            with self._changes.change("budget.update") as change:
                connection = change.connection
                before = _get(connection, found, lock=True)
                check_unchanged("budget", before.updated_at_ms, unchanged_since_ms)
                budget = changed(before.budget)
                name, now_ms = budget.name, max(self._clock_ms(), before.updated_at_ms + 1)
                after = msgspec.structs.replace(before, budget=budget, updated_at_ms=now_ms)
                if any(getattr(budget, field) != getattr(before.budget, field) for field in COUNTED):
                    _delete_accounts(connection, before.budget.id)
                    budget = msgspec.structs.replace(budget, id=new_id())
                    after = msgspec.structs.replace(after, budget=budget, defined_at_ms=now_ms, counted_from_ms=None)
                connection.execute(sa.update(budgets).where(budgets.c.id == found).values(_row(after)))
                change.about(found, budget.name, before=before.budget, after=after.budget)
                return after
        except IntegrityError:
            raise _name_exists(name) from None

    def delete(self, budget_id: str, *, unchanged_since_ms: int | None = None) -> None:
        """Delete a budget and its accounts. Usage keeps the ids of its accounts.

        With `unchanged_since_ms`, only if that is when the budget was changed last.

        Raises:
            NotFound: no budget has this id.
            ChangedSince: somebody has changed the budget since.
        """
        found = stored_id(budget_id, "budget")
        with self._changes.change("budget.delete") as change:
            connection = change.connection
            before = _get(connection, found, lock=True)
            check_unchanged("budget", before.updated_at_ms, unchanged_since_ms)
            _delete_accounts(connection, before.budget.id)
            connection.execute(sa.delete(budgets).where(budgets.c.id == found))
            change.about(found, before.budget.name, before=before.budget)


def stored_budget(row: Row[Any]) -> StoredBudget:
    """Return the budget in a row of the table."""
    return StoredBudget(
        id=row.id,
        budget=msgspec.json.decode(row.settings, type=Budget),
        defined_at_ms=row.defined_at_ms,
        counted_from_ms=row.counted_from_ms,
        created_at_ms=row.created_at_ms,
        updated_at_ms=row.updated_at_ms,
    )


def _get(connection: Connection, budget_id: str, *, lock: bool = False) -> StoredBudget:
    query = sa.select(budgets).where(budgets.c.id == budget_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise missing("budget")
    return stored_budget(row)


def _row(stored: StoredBudget) -> dict[str, Any]:
    budget = stored.budget
    return {
        "id": stored.id,
        "name": budget.name,
        "accounts_id": budget.id,
        "per": budget.per,
        "settings": msgspec.json.encode(budget).decode(),
        "defined_at_ms": stored.defined_at_ms,
        "counted_from_ms": stored.counted_from_ms,
        "created_at_ms": stored.created_at_ms,
        "updated_at_ms": stored.updated_at_ms,
    }


def _delete_accounts(connection: Connection, accounts_id: str) -> None:
    """Delete accounts. They are locked in the order of shippers, so that neither waits for the other for ever.

    Those that a shipper adds meanwhile are deleted later (`BudgetSpend.prune`).
    """
    for table in (budget_spend, budget_backfill):
        key = [table.c[name] for name in AccountRef._fields]
        own = sa.select(*key).where(table.c.budget_id == accounts_id)
        locked = own.order_by(*key).with_for_update().cte("locked")
        connection.execute(sa.delete(table).where(sa.tuple_(*key).in_(sa.select(*locked.c))))


def _name_exists(name: str) -> Conflict:
    return Conflict(f"A budget named {name!r} exists: choose another name, or change that one.")
