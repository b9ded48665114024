"""Repricing and erasure: what they change in stored accounts counts in the memory that workers share, at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.control.budget_balances import BudgetBalances
from llm_gateway.control.budget_upkeep import count_corrections_forever
from llm_gateway.domain.budget import AccountRef, Balance, Budget
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.domain.stored_budget import StoredBudget
from llm_gateway.domain.usage import cost
from llm_gateway.errors import StoreUnavailable
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.host_memory.account_group import NO_LIMIT, AccountPlace
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.store.budget_spend import BudgetSpend
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.erasure import Erasure
from llm_gateway.store.usage import UsageStore
from tests.control.management.reports_api import copied
from tests.shared_budgets.holding import hold
from tests.store.histories import DAY_MS, NOW_MS
from tests.store.test_repricing import BEFORE, NOW, TOKENS, Run, bought, made
from tests.waiting import until

FAR_MS = 2 * NOW_MS
BEFORE_NANOS, NOW_NANOS = cost(BEFORE, TOKENS), cost(NOW, TOKENS)


class Host:
    """A gateway's memory of accounts over a database, as of NOW_MS."""

    def __init__(self, database: Database, memory: HostMemory) -> None:
        self.database, self.memory = database, memory
        self.spend = BudgetSpend(database)
        self.balances = BudgetBalances(memory, log=lambda *_, **__: None, clock_ms=lambda: NOW_MS)

    def budget(self, name: str, **fields: Any) -> StoredBudget:
        return BudgetStore(self.database, clock_ms=lambda: 0).create(Budget(id="", name=name, limit=1000, **fields))

    def load(self) -> None:
        budgets = BudgetStore(self.database).in_force()
        self.balances.load(budgets, partial(self.spend.balances, NOW_MS), partial(self.spend.carried_over, NOW_MS))

    def correct(self) -> int:
        return self.balances.correct(lambda: self.spend.take_corrections(NOW_MS))

    def amounts(self, stored: StoredBudget, *refs: AccountRef) -> list[tuple[int, int]]:
        """Return what is spent in accounts, and what was carried over."""
        [rule] = BudgetTable([stored.budget]).rules
        accounts, found = BudgetAccounts(self.memory, "looks", lambda: NOW_MS), []
        for ref in refs:
            place = AccountPlace(rule.account_name(ref), FAR_MS)
            assert hold(accounts, [(place, 0, 0, NO_LIMIT, NO_LIMIT)]) is True
            spent, _, carried = accounts.amounts(place)
            found.append((spent, carried))
        return found


@pytest.fixture
def host(migrated: Path, tmp_path: Path) -> Iterator[Host]:
    descriptor = create()
    with copied(migrated, tmp_path) as database:
        yield Host(database, HostMemory(descriptor))
    os.close(descriptor)


async def test_a_failure_is_logged_once_and_the_job_goes_on() -> None:
    lines: list[str] = []
    calls = 0

    def correct() -> int:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ValueError
        return 0

    def log(event: str, **_: object) -> None:
        lines.append(event)

    task = asyncio.create_task(count_corrections_forever(correct, log, every_s=0.001))
    await until(lambda: calls > 3)
    task.cancel()
    assert lines == ["new prices cannot be brought into budgets"]


def accounts_of(stored: StoredBudget, value: str = "") -> tuple[AccountRef, AccountRef]:
    """Return the accounts of the period and of the one before it."""
    now = stored.period(NOW_MS)
    before = stored.period(now.start_ms - 1)
    return AccountRef(stored.budget.id, value, now.start_ms), AccountRef(stored.budget.id, value, before.start_ms)


def test_new_prices_count_at_once_and_once(host: Host) -> None:
    core, later = host.budget("core", carry=1.0), host.budget("later")
    (now, before), (late, _) = accounts_of(core), accounts_of(later)
    store = UsageStore(host.database)
    store.write([made(bought(accounts=[now, late])), made(bought(accounts=[now, before]))])
    assert host.correct() == 0, "balances are not copied yet"
    BudgetStore(host.database).delete(later.id)
    host.load()
    assert host.amounts(core, now) == [(2 * BEFORE_NANOS, 1000 - BEFORE_NANOS)]
    host.balances.add([(now, Balance(nanos=7))])  # it is in a journal only

    Run(host.database, {"p": NOW})()
    again = host.budget("again")
    (other, _) = accounts_of(again)
    store.write([made(bought(accounts=[other]))])
    Run(host.database, {"p": NOW})()
    host.load()
    assert host.amounts(again, other) == [(BEFORE_NANOS, 0)]
    assert (host.correct(), host.correct()) == (3, 0)
    assert host.amounts(core, now) == [(2 * NOW_NANOS + 7, 1000 - NOW_NANOS)]
    assert host.amounts(again, other) == [(NOW_NANOS, 0)]

    next_start = Host(host.database, host.memory)
    next_start.load()
    Run(host.database, {"p": BEFORE})()
    assert next_start.correct() == 3
    assert host.amounts(core, now) == [(2 * BEFORE_NANOS + 7, 1000 - BEFORE_NANOS)]


def test_what_the_period_before_leaves_includes_what_is_not_stored_yet(host: Host) -> None:
    core = host.budget("core", carry=1.0)
    now, before = accounts_of(core)
    UsageStore(host.database).write([made(bought(accounts=[now, before]))])
    host.load()
    host.balances.add(
        [(before, Balance(nanos=BEFORE_NANOS + 100))]
    )  # counted since it began, of which 100 in a journal
    Run(host.database, {"p": NOW})()
    assert host.correct() == 2
    assert host.amounts(core, now, before) == [(NOW_NANOS, 1000 - NOW_NANOS - 100), (NOW_NANOS + 100, 0)]


def test_corrections_are_not_lost_with_the_database(host: Host) -> None:
    class Broken(BudgetStore):
        def list(self, **_: Any) -> Any:
            raise StoreUnavailable("gone")

    core = host.budget("core")
    now, _ = accounts_of(core)
    UsageStore(host.database).write([made(bought(accounts=[now]))])
    host.load()
    Run(host.database, {"p": NOW})()
    broken = BudgetSpend(host.database, Broken(host.database))
    with pytest.raises(StoreUnavailable):
        host.balances.correct(lambda: broken.take_corrections(NOW_MS))
    assert (host.correct(), host.amounts(core, now)) == (1, [(NOW_NANOS, 0)])


def test_corrections_that_a_stopped_process_keeps_from_the_memory_are_logged(host: Host) -> None:
    lines: list[dict[str, Any]] = []

    class Locked(BudgetBalances):
        @contextmanager
        def locked(self, deadline: float | None = None) -> Iterator[bool]:
            assert deadline is not None, "one wait for all parts"
            yield False

    core = host.budget("core")
    now, _ = accounts_of(core)
    UsageStore(host.database).write([made(bought(accounts=[now]))])
    host.load()
    locked = Locked(host.memory, log=lambda event, **fields: lines.append({"event": event, **fields}))
    locked.learn((core.budget,))
    Run(host.database, {"p": NOW})()
    assert locked.correct(lambda: host.spend.take_corrections(NOW_MS)) == 1
    event = "balances of budgets are not counted: their memory is full or locked"
    assert lines == [{"event": event, "level": "error", "count": 1}]


def test_a_customer_that_is_erased_has_spent_nothing_any_more(host: Host) -> None:
    by_customer = host.budget("each", per="user_id", carry=0.5)
    (ann, past), (bob, _) = accounts_of(by_customer, "ann"), accounts_of(by_customer, "bob")
    for name, accounts in (("ann", [ann, past]), ("bob", [bob])):
        UsageStore(host.database).write([made(bought(accounts=accounts), user_id=name)])
    host.load()
    half = 500 - (BEFORE_NANOS + 1) // 2
    assert host.amounts(by_customer, ann, bob) == [(BEFORE_NANOS, half), (BEFORE_NANOS, 0)]
    Run(host.database, {"p": NOW})()
    erasure = Erasure(
        host.database, sleep=lambda _: None, together=host.balances.correct_stored, clock_ms=lambda: NOW_MS
    )
    assert erasure.run("ann", NOW_MS + DAY_MS) is not None
    assert host.amounts(by_customer, ann, bob) == [(0, 500), (BEFORE_NANOS, 0)]
    host.correct()
    assert host.amounts(by_customer, ann, bob) == [(0, 500), (NOW_NANOS, 0)]
