"""Transactions that lock the same rows of one Postgres at the same time: none ends in a deadlock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from llm_gateway.domain.budget import AccountRef, Balance, Budget
from llm_gateway.store.budget_spend import SpendTable
from llm_gateway.store.budget_tables import budget_spend
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.erasure import Erasure
from llm_gateway.store.repricing import Repricing
from llm_gateway.store.usage import UsageStore
from tests.store.histories import DAY_MS, HOUR_MS, NOW_MS
from tests.store.test_concurrent_hosts import others_wait, together
from tests.store.test_repricing import EVERYTHING, NOW, bought, made, provider, quoted
from tests.waiting import wait_until

FIRST_MS = NOW_MS // DAY_MS * DAY_MS + HOUR_MS
SECOND_MS = FIRST_MS + HOUR_MS


@pytest.fixture
def databases(postgres_url: str) -> Iterator[list[Database]]:
    with ExitStack() as opened:
        yield [opened.enter_context(closing(Database.open(postgres_url, fsync=False))) for _ in range(3)]


class Halting(Erasure):
    """Erasure to the label `new` that halts in its first transaction, with rows locked, until another one waits."""

    def __init__(self, database: Database, is_waiting: Callable[[], bool]) -> None:
        super().__init__(database, sleep=lambda _: None)
        self.has_locked = threading.Event()
        self._is_waiting = is_waiting

    def _move(self, connection: sa.Connection, run: Any, sums: Any) -> None:
        if not self.has_locked.is_set():
            self.has_locked.set()
            wait_until(self._is_waiting, 10)
        super()._move(connection, run, sums)


def reprice(database: Database, after: threading.Event) -> None:
    after.wait(10)
    run = Repricing(database, [provider("p")], lambda *_: quoted(NOW), sleep=lambda _: None)
    assert run.run(EVERYTHING, dry_run=False, progress=lambda _: None).changed


def test_an_erasure_that_moves_old_totals_lets_repricing_wait(
    databases: list[Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It locks the old label's hours, then the new label's; repricing locks both labels' rows hour by hour."""
    store = UsageStore(databases[0])
    store.write([made(bought(at_ms=at), at_ms=at, user_id="u") for at in (FIRST_MS, SECOND_MS)])
    assert store.prune(NOW_MS + DAY_MS, 10) == 2  # the totals stay
    monkeypatch.setattr("llm_gateway.store.erasure.PREFIX", "new")
    monkeypatch.setattr("llm_gateway.store.erasure.LENGTH", 0)
    late = [(FIRST_MS, "new"), (SECOND_MS, "u")]
    store.write([made(bought(at_ms=at), at_ms=at, user_id=user) for at, user in late])
    erasure = Halting(databases[1], partial(others_wait, databases[0]))

    together(lambda: erasure.run("u", NOW_MS + DAY_MS), lambda: reprice(databases[2], erasure.has_locked))

    [customer] = store.by_customer(2, NOW_MS, 10)
    assert (customer.name, customer.requests) == ("new", 4)
    assert customer.cost_nanos == store.summary(2, NOW_MS).cost_nanos == 2 * (15 + 40)


def test_a_budget_is_deleted_while_a_shipper_adds_to_its_accounts(
    databases: list[Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shipper locks accounts in the order of their names, in which these were not made."""
    budget = BudgetStore(databases[0]).create(Budget(id="", name="b", limit=1, per="user_id")).budget
    first, last = AccountRef(budget.id, "a", HOUR_MS), AccountRef(budget.id, "z", 0)
    spend, locks_next, has_locked = SpendTable(databases[1]), [False, True], threading.Event()
    for account in (last, first):
        with databases[0].write() as connection:
            SpendTable(databases[0]).add(connection, {account: Balance(1, 1, 1)})
    monkeypatch.setattr("llm_gateway.store.set_insert.MOST_ROWS", 1)

    def halt_between() -> None:
        if locks_next.pop(0):
            has_locked.set()
            wait_until(partial(others_wait, databases[0]), 10)

    def ship() -> None:
        with databases[1].write() as connection:
            spend.add(connection, dict.fromkeys((first, last), Balance(1, 1, 1)), halt_between)

    def delete() -> None:
        assert has_locked.wait(10)
        BudgetStore(databases[2]).delete(budget.id)

    together(ship, delete)

    with databases[0].read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(budget_spend)).scalar_one() == 0
