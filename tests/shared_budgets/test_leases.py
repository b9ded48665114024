"""Budgets of several hosts over a real Postgres: never above the limit, and all of it can be used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llm_gateway.domain.budget import Budget
from llm_gateway.store.budget_spend import BudgetSpend
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from tests.databases import PostgresDatabases
from tests.shared_budgets.hosts import Host, hosts, now_ms


@pytest.fixture
def url(postgres: PostgresDatabases) -> Iterator[str]:
    with postgres.migrated() as url:
        yield url


def made(url: str, limit: int, name: str = "b", **more: Any) -> Budget:
    database = Database.open(url, fsync=False)
    try:
        return BudgetStore(database).create(Budget(id="", name=name, unit="requests", limit=limit, **more)).budget
    finally:
        database.close()


def spent(host: Host) -> int:
    return sum(balance.requests for _, balance in BudgetSpend(host.database).balances(now_ms()))


def send(host: Host, budget: Budget, count: int, admitted: list[int], at_once: int = 4) -> None:
    """Send requests, of which some are in flight at a time."""
    done = 0
    for _ in range(count):
        if host.hold(budget):
            done += 1
        if len(host.open) >= at_once:
            host.settle()
    while host.open:
        host.settle()
    admitted.append(done)


def send_from_all(all_hosts: list[Host], budget: Budget, count: int) -> int:
    admitted: list[int] = []
    threads = [threading.Thread(target=send, args=(host, budget, count, admitted)) for host in all_hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(admitted)


@pytest.mark.parametrize("count", [2, 4])
def test_hosts_admit_together_exactly_what_a_budget_has_room_for(url: str, count: int) -> None:
    budget = made(url, 1000)
    with hosts(url, *"abcd"[:count]) as all_hosts:
        for host in all_hosts:
            host.start()
            host.run()
        assert send_from_all(all_hosts, budget, 5000 // count) == 1000
        for host in all_hosts:
            host.stop()
            host.ship()
        assert spent(all_hosts[0]) == 1000
