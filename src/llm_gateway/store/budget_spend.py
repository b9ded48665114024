"""Spending from the accounts of budgets: one row for each account and period. Nothing is ever set to zero."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.domain.budget import AccountRef, Balance
from llm_gateway.domain.stored_budget import StoredBudget, carried, limit_at
from llm_gateway.store.budget_charges import NOTHING, Charges
from llm_gateway.store.budget_tables import budget_backfill, budget_spend, budgets
from llm_gateway.store.budgets import BudgetStore, stored_budget
from llm_gateway.store.bulk import Pause, adding, no_pause
from llm_gateway.store.database import Database
from llm_gateway.store.set_insert import row_insert

AMOUNTS = Balance._fields
KEY = AccountRef._fields
PARTS = 10_000
"""Units of the column `notified` in a whole limit."""
CORRECTIONS_AT_ONCE = 1000
"""Accounts whose corrections are taken in one transaction."""
VALUES_AT_ONCE = 500
"""Values of a query at most: databases bound the parameters of a statement."""
_ANY_UNCOUNTED = sa.select(budget_spend.c.uncounted_nanos).where(budget_spend.c.uncounted_nanos != 0).limit(1)
OF_UNIT: Mapping[str, sa.ColumnElement[Any]] = {
    "usd": budget_spend.c.nanos,
    "tokens": budget_spend.c.tokens,
    "requests": budget_spend.c.requests,
}


class SpendTable:
    """The table budget_spend, as those write it who store records. Its methods run in the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._insert = row_insert(database, budget_spend, (*KEY, *AMOUNTS), adding(budget_spend, AMOUNTS))

    def add(self, connection: Connection, charges: Charges, pause: Pause = no_pause) -> None:
        """Add charges to their accounts. `pause` is called before each statement."""
        if charges:
            self._insert.run(connection, [(*account, *balance) for account, balance in charges.items()], pause)

    def change(self, connection: Connection, changes: Charges) -> None:
        """Add to accounts that exist, in their order, so that transactions that do so do not wait for each other.

        The column `uncounted_nanos` keeps the sum of these `nanos` until the host's memory has it (`take_corrections`).
        """
        if changes:
            more = {name: budget_spend.c[name] + sa.bindparam(f"more_{name}") for name in AMOUNTS}
            more["uncounted_nanos"] = budget_spend.c.uncounted_nanos + sa.bindparam("more_nanos")
            query = _where_key(sa.update(budget_spend)).values(more)
            connection.execute(query, [_named(account, changes[account]) for account in sorted(changes)])


class Spending(NamedTuple):
    """An account of a period: its value, what was spent, and its limit with what was carried over, in its unit.

    `notified` is the highest part of the limit that a message was sent for, 0 without one.
    """

    value: str
    balance: Balance
    limit: int
    notified: float = 0.0


class PeriodSpending(NamedTuple):
    """Spending of all accounts of a budget in a period that began at `start_ms` (milliseconds UTC).

    `most` is what the fullest account spent, in the budget's unit.
    """

    start_ms: int
    accounts: int
    balance: Balance
    most: int


class Corrections(NamedTuple):
    """Changes of stored accounts that the memory of a host does not count yet.

    `charges` is what to add to accounts, `carried` what is added to the limits of accounts now, where it has changed.
    """

    charges: Charges
    carried: Mapping[AccountRef, int]


class BudgetSpend:
    """Reports of what was spent, and deletion of what is not needed any more."""

    def __init__(self, database: Database, budgets: BudgetStore | None = None) -> None:
        self._database = database
        self._budgets = budgets or BudgetStore(database)

    def balances(self, now_ms: int) -> Iterator[tuple[AccountRef, Balance]]:
        """Yield all accounts of all budgets with spending in the period that contains `now_ms` (milliseconds UTC).

        Corrections that `take_corrections` will return are not part of it.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        for stored in self._budgets.list():
            start_ms = stored.period(now_ms).start_ms
            query = _of_period(stored, start_ms).add_columns(budget_spend.c.uncounted_nanos)
            with self._database.read() as connection:
                rows = connection.execute(query).all()
            for value, nanos, tokens, requests, uncounted in rows:
                yield AccountRef(stored.budget.id, value, start_ms), Balance(nanos - uncounted, tokens, requests)

    def take_corrections(self, now_ms: int) -> Corrections:
        """Return what repricing has changed in accounts since the last call, at most CORRECTIONS_AT_ONCE of them.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with self._database.read() as connection:
            if connection.execute(_ANY_UNCOUNTED).first() is None:
                return Corrections({}, {})
        spend = budget_spend.c
        columns = (*(spend[name] for name in KEY), *(spend[name] for name in AMOUNTS), spend.uncounted_nanos)
        some = sa.select(*columns).where(spend.uncounted_nanos != 0).limit(CORRECTIONS_AT_ONCE)
        counted = _where_key(sa.update(budget_spend)).values(uncounted_nanos=0)
        stored = {each.budget.id: each for each in self._budgets.list()}  # what is taken must not be lost afterwards
        with self._database.write() as connection:
            rows = connection.execute(some.order_by(*(spend[name] for name in KEY)).with_for_update()).all()
            found = {AccountRef(*row[:3]): (Balance(*row[3:6]), Balance(nanos=row[6])) for row in rows}
            if found:
                connection.execute(counted, [_key_of(account) for account in found])
        known = {ref: balance for ref, (balance, _) in found.items() if ref.budget_id in stored}
        return Corrections(
            {ref: more for ref, (_, more) in found.items()},
            dict(filter(None, (_left(stored[ref.budget_id], ref, each, now_ms) for ref, each in known.items()))),
        )

    def carried_over(self, now_ms: int) -> Iterator[tuple[AccountRef, int]]:
        """Yield what is added to the limits of accounts in the period that contains `now_ms`, for spending before it.

        Only accounts with spending in the period before are named. Others of the same budget have all of its carry,
        `carried(budget, 0)`, if `StoredBudget.period_before` returns a period.
        """
        for stored in self._budgets.list():
            period = stored.period(now_ms)
            before = stored.period_before(period)
            if before is not None:
                with self._database.read() as connection:
                    rows = connection.execute(_of_period(stored, before.start_ms)).all()
                for value, *amounts in rows:
                    account = AccountRef(stored.budget.id, value, period.start_ms)
                    yield account, carried(stored.budget, Balance(*amounts).of(stored.budget.unit))

    def page(
        self,
        stored: StoredBudget,
        now_ms: int,
        limit: int,
        after: tuple[int, str] | None = None,
        value: str | None = None,
    ) -> list[Spending]:
        """Return up to `limit` accounts of the current period, those that spent most first.

        `after` is the amount and value of the last account of the page before; `value` selects one account.
        """
        budget, period = stored.budget, stored.period(now_ms)
        amount = OF_UNIT[budget.unit]
        query = _of_period(stored, period.start_ms).add_columns(budget_spend.c.notified)
        query = query.order_by(amount.desc(), budget_spend.c.value).limit(limit)
        if after is not None:
            most, last = after
            query = query.where(sa.or_(amount < most, sa.and_(amount == most, budget_spend.c.value > last)))
        if value is not None:
            query = query.where(budget_spend.c.value == value)
        before = stored.period_before(period)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            found, notified = {row[0]: Balance(*row[1:-1]) for row in rows}, {row[0]: row.notified for row in rows}
            if after is None and not found and (value is not None or budget.per is None):
                found[value or ""] = NOTHING
            past = {} if before is None else _balances(connection, stored, before.start_ms, found)
        own = limit_at(budget, now_ms)
        return [
            Spending(
                each,
                balance,
                own if before is None else own + carried(budget, past.get(each, NOTHING).of(budget.unit)),
                notified.get(each, 0) / PARTS,
            )
            for each, balance in found.items()
        ]

    def periods(self, stored: StoredBudget, now_ms: int, limit: int, value: str | None = None) -> list[PeriodSpending]:
        """Return the newest `limit` periods with spending that began by `now_ms`, newest first.

        `value` selects one account.
        """
        spend = budget_spend.c
        sums = [sa.cast(sa.func.sum(spend[name]), sa.BigInteger) for name in AMOUNTS]
        query = (
            sa.select(spend.period_start_ms, sa.func.count(), *sums, sa.func.max(OF_UNIT[stored.budget.unit]))
            .where(spend.budget_id == stored.budget.id, spend.period_start_ms <= now_ms)
            .group_by(spend.period_start_ms)
            .order_by(spend.period_start_ms.desc())
            .limit(limit)
        )
        if value is not None:
            query = query.where(spend.value == value)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [PeriodSpending(start, accounts, Balance(*sums), most) for start, accounts, *sums, most in rows]

    def prune(self, before_ms: int, now_ms: int) -> int:
        """Delete rows of deleted budgets, and those of periods that began before `before_ms`. Returns how many.

        The period that contains `now_ms` and the one before it stay, whatever their age. So do rows that another
        transaction holds, until the next time: a shipper locks its rows in an order that this cannot keep.
        """
        spend = budget_spend.c
        every = self._budgets.list()
        deleted = 0
        with self._database.write() as connection:
            for table in _TABLES:
                of_none = table.c.budget_id.not_in(sa.select(budgets.c.accounts_id))
                deleted += self._delete_free(connection, table, of_none)
        for stored in every:
            now = stored.period(now_ms)
            until_ms = min(before_ms, stored.period(now.start_ms - 1).start_ms if now.start_ms else 0)
            with self._database.read() as connection:
                oldest = connection.execute(
                    sa.select(sa.func.min(spend.period_start_ms)).where(spend.budget_id == stored.budget.id)
                ).scalar()
            if oldest is not None and oldest < until_ms:
                with self._database.write() as connection:
                    for table in _TABLES:
                        is_old = table.c.period_start_ms < until_ms
                        of_budget = sa.and_(table.c.budget_id == stored.budget.id, is_old)
                        deleted += self._delete_free(connection, table, of_budget)
        return deleted

    def _delete_free(self, connection: Connection, table: sa.Table, condition: sa.ColumnElement[bool]) -> int:
        """Delete rows that no other transaction holds. Returns how many."""
        if not self._database.is_sqlite:  # which has one writer at a time
            key = [table.c[name] for name in KEY]
            free = sa.select(*key).where(condition).with_for_update(skip_locked=True).cte("free")
            condition = sa.tuple_(*key).in_(sa.select(*free.c))
        return connection.execute(sa.delete(table).where(condition)).rowcount


def rename_customer(connection: Connection, customer: str, label: str, now_ms: int) -> Corrections:
    """Give the accounts of a customer another label, in the budgets that count by customer.

    Returns what to take from the accounts of the old label in the memory of a host.
    """
    spend = budget_spend.c
    stored = {each.budget.id: each for each in map(stored_budget, connection.execute(_by_customer()))}
    own = sa.and_(spend.value == customer, spend.budget_id.in_(list(stored)))
    columns = (*(spend[name] for name in KEY), *(spend[name] for name in AMOUNTS), spend.uncounted_nanos)
    in_order = sa.select(*columns).where(own).order_by(*(spend[name] for name in KEY))
    rows = connection.execute(in_order.with_for_update()).all()
    for table in _TABLES:
        named = sa.update(table).where(table.c.value == customer, table.c.budget_id.in_(list(stored)))
        connection.execute(named.values(value=label))
    charges = {AccountRef(*row[:3]): Balance(row[6] - row[3], -row[4], -row[5]) for row in rows}
    left = (_left(stored[ref.budget_id], ref, NOTHING, now_ms) for ref in charges)
    return Corrections(charges, dict(filter(None, left)))


def _by_customer() -> sa.Select[Any]:
    return sa.select(budgets).where(budgets.c.per == "user_id")


def _left(stored: StoredBudget, ref: AccountRef, balance: Balance, now_ms: int) -> tuple[AccountRef, int] | None:
    """Return what an account of the period before leaves for the one of now; None if it leaves nothing for it."""
    now = stored.period(now_ms)
    before = stored.period_before(now)
    if before is None or before.start_ms != ref.period_start_ms:
        return None
    return ref._replace(period_start_ms=now.start_ms), carried(stored.budget, balance.of(stored.budget.unit))


_TABLES = (budget_spend, budget_backfill)


def _of_period(stored: StoredBudget, start_ms: int) -> sa.Select[Any]:
    spend = budget_spend.c
    columns = (spend.value, *(spend[name] for name in AMOUNTS))
    return sa.select(*columns).where(spend.budget_id == stored.budget.id, spend.period_start_ms == start_ms)


def _balances(
    connection: Connection, stored: StoredBudget, start_ms: int, values: Collection[str]
) -> dict[str, Balance]:
    """Return what these accounts spent in a period."""
    wanted = list(values)
    found: dict[str, Balance] = {}
    for start in range(0, len(wanted), VALUES_AT_ONCE):
        part = budget_spend.c.value.in_(wanted[start : start + VALUES_AT_ONCE])
        found |= {row[0]: Balance(*row[1:]) for row in connection.execute(_of_period(stored, start_ms).where(part))}
    return found


def _where_key(statement: Any) -> Any:
    return statement.where(*(budget_spend.c[name] == sa.bindparam(f"of_{name}") for name in KEY))


def _named(account: AccountRef, more: Balance) -> dict[str, Any]:
    return _key_of(account) | {f"more_{name}": each for name, each in zip(AMOUNTS, more, strict=True)}


def _key_of(account: AccountRef) -> dict[str, Any]:
    return {f"of_{name}": each for name, each in zip(KEY, account, strict=True)}
