"""Budgets of several hosts over a real Postgres: never above the limit, and all of it can be used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from llm_gateway.control.lease_memory import LeasedAccounts
from llm_gateway.domain.budget import AccountRef, Balance, Budget
from llm_gateway.domain.budget_lease import Lease, Wish
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.journal.record_assembler import CRASHED
from llm_gateway.store.budget_spend import BudgetSpend, SpendTable
from llm_gateway.store.budget_tables import budget_leases, budgets
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.erasure import Erasure
from llm_gateway.store.lease_ledger import NotJoined, Used, account_key, leased, release
from tests.databases import PostgresDatabases
from tests.shared_budgets.databases import without_postgres
from tests.shared_budgets.hosts import Host, hosts, now_ms, record

LONG_AGO = {"account": "x", "host": "a", "granted": 1, "used": 0, "asked": 0, "answered": 0, "expires_at_ms": 1}


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


def send_from_all(all_hosts: list[Host], budget: Budget, count: int, admitted: list[int]) -> None:
    threads = [threading.Thread(target=send, args=(host, budget, count, admitted)) for host in all_hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def settled(all_hosts: list[Host]) -> None:
    """Settle and store all requests."""
    for host in all_hosts:
        host.stop()
        while host.open:
            host.settle()
        host.ship()


def ref_of(budget: Budget) -> AccountRef:
    rule = BudgetTable([budget]).rules[0]
    return AccountRef(budget.id, "", rule.period_at(now_ms()).start_ms)


def outstanding(host: Host, budget: Budget) -> dict[str, int]:
    """Return what each host may still use."""
    account = account_key(budget, ref_of(budget))
    with host.database.read() as connection:
        return leased(connection, [account]).get(account, {})


def test_hosts_admit_together_exactly_what_a_budget_has_room_for(url: str, request: pytest.FixtureRequest) -> None:
    """The second host comes while the first one is busy."""
    count, requests = (4, 5000) if request.config.getoption("--long") else (2, 1500)
    budget, admitted = made(url, 1000), list[int]()
    with hosts(url, *"abcd"[:count]) as all_hosts:
        first, *others = all_hosts
        first.start()
        first.run()
        busy = threading.Thread(target=send, args=(first, budget, requests // count, admitted))
        busy.start()
        for host in others:
            host.start(patience_s=3.0)
            host.run()
        send_from_all(others, budget, requests // count, admitted)
        busy.join()
        assert sum(admitted) == 1000
        assert sum(host.trips for host in all_hosts) < 0.1 * requests
        settled(all_hosts)
        assert spent(first) == 1000


def test_postgres_and_a_host_are_killed_and_nearly_all_of_the_budget_is_usable_after(
    url: str, request: pytest.FixtureRequest
) -> None:
    requests, limit = (2500, 1000) if request.config.getoption("--long") else (300, 300)
    budget, admitted = made(url, limit), list[int]()
    with hosts(url, "a", "b") as (one, two):
        for host in (one, two):
            host.start(patience_s=3.0)
            host.run()
        with without_postgres(url):
            send_from_all([one, two], budget, 5, admitted)
            assert sum(admitted) == 0, "nothing was leased before"
        send_from_all([one, two], budget, limit // 10, admitted)
        with without_postgres(url):
            send_from_all([one, two], budget, limit // 5, admitted)
        assert limit // 5 < sum(admitted) < limit, "what is leased is spent"
        for _ in range(3):
            admitted.append(one.hold(budget))
        assert one.leases.fetch(ref_of(budget), 1, 20).state == "granted"
        one.kill()
        one.living = two.living = {"b"}
        send_from_all([two], budget, requests, admitted)
        assert sum(admitted) <= limit - 20, "what the dead host may have spent is out of reach"
        assert two.lines == ["requests need what a silent host may use of a budget"]
        one.new_memory()
        one.living = two.living = set()
        one.start()
        one.run()
        send_from_all([one, two], budget, requests, admitted)
        settled([one, two])
        assert spent(one) == sum(admitted) == limit


def test_a_host_that_was_alone_keeps_what_it_holds_and_has_not_stored(url: str) -> None:
    budget, admitted = made(url, 20), list[int]()
    with hosts(url, "a", "b") as (one, two):
        one.start()
        assert [one.hold(budget) for _ in range(12)] == [True] * 12
        for _ in range(8):
            one.settle()
        one.ship()
        assert [one.hold(budget) for _ in range(3)] == [True] * 3
        one.settle()
        assert one.trips == 0
        two.balances.learn((budget,))
        two.leases.join(patience_s=0)
        assert two.leases.fetch(ref_of(budget), 1, 1).state == "unavailable", "the other one may use all of it"
        one.new_control()  # it is killed in the middle of sharing: workers use nothing more meanwhile
        one.balances.learn((budget,))
        LeasedAccounts(one.memory, one.balances.locked).begin(2)
        one.leases.join(patience_s=0)
        one.leases.step()
        one.run()
        send_from_all([two], budget, 10, admitted)
        assert admitted == [5]
        settled([one, two])
        assert spent(one) == 20
        assert not one.hold(budget)


def test_what_is_noted_and_stored_when_a_host_begins_to_share_counts_once(url: str) -> None:
    """The accounts of a busy combination count its requests up to 0.2 seconds after they are in the journal."""
    budget, admitted = made(url, 20), list[int]()
    with hosts(url, "a", "b") as (one, two):
        one.start()
        assert one.hold(budget)
        one.settle()
        [group] = one.groups.values()
        assert one.worker.hold_more(group, [6])
        for _ in range(4):
            one.worker.note_spent(group, [1])
            one.journal.append(record(ref_of(budget), one.worker_name))
        one.ship()
        two.balances.learn((budget,))
        two.leases.join(patience_s=0)
        one.leases.step()
        assert outstanding(one, budget) == {"a": 2}, "what is held for requests that may come"
        assert one.worker.hold_more(group, [-2])
        one.run()
        send_from_all([two], budget, 20, admitted)
        assert admitted == [15]
        settled([one, two])
        assert spent(one) == 20


def test_leases_outlive_control_and_workers_and_return_when_idle(url: str) -> None:
    budget = made(url, 100)
    with hosts(url, "a", "b") as (one, two):
        for host in (one, two):
            host.start()
            host.leases.step()
        one.leases.share()
        assert one.hold(budget)
        [granted] = outstanding(one, budget).values()
        assert granted == 12, "a quarter of its half"
        one.settle()
        one.new_control()
        one.balances.learn((budget,))
        one.leases.join(patience_s=0)
        assert all(one.hold(budget) for _ in range(11)), "without another trip"
        assert one.trips == 1
        one.sink([record(ref_of(budget), one.worker_name, CRASHED) for _ in one.open])  # its worker is killed
        one.open = []
        one.ship()
        one.balances.clear(one.worker_name)
        assert outstanding(one, budget) == {}
        one.new_worker()
        assert one.hold(budget)
        one.settle()
        one.leases.step()
        one.later_s = 1000.0
        one.leases.step()
        one.later_s = 2000.0
        one.leases.step()
        assert outstanding(one, budget) == {"a": 1}, "what is not stored yet"
        one.ship()
        assert spent(one) == 13


def test_a_lowered_limit_calls_leases_back_and_a_released_host_has_none(url: str) -> None:
    budget = made(url, 800)
    with hosts(url, "a", "b") as (one, two):
        for host in (one, two):
            host.start()
            host.leases.step()
        one.leases.share()
        for host in (one, two):
            assert host.hold(budget)
            host.leases.step()
        assert outstanding(one, budget) == {"a": 100, "b": 87}
        BudgetStore(one.database).update(budget.id, lambda each: replace(each, limit=3))
        for host in (one, two):
            host.reload()
            host.later_s = 2.0
            host.leases.step()
        assert outstanding(one, budget) == {"a": 1, "b": 1}
        with one.database.write() as connection:
            assert release(connection, "a") == 1
            assert release(connection, "x") is None
        assert outstanding(two, budget) == {"b": 1}
        before = outstanding(two, budget)
        two.sink([record(ref_of(budget), "of a host whose journal was moved here")])
        assert outstanding(two, budget) == before
        one.later_s = 4.0
        one.leases.step()
        assert "leases of this host were released" in one.lines
        two.run()
        assert [one.hold(budget) for _ in range(2)] == [False] * 2, "it asks anew for what it holds"
        settled([one, two])
        assert spent(one) == 3


def test_accounts_of_customers_are_leased_on_first_use_and_other_modes_never(url: str) -> None:
    own = made(url, 4, "own", per="user_id")
    soft = made(url, 1, "soft", mode="soft")
    with hosts(url, "a", "b") as (one, two):
        for host in (one, two):
            host.start(patience_s=3.0)
            host.run()
        for number in range(3):
            assert [host.hold(own, f"{number}") for host in (one, two, one, two, one, two)] == [True] * 4 + [False] * 2
            for host in (one, two):
                host.dry_until = 0.0
                while host.open:
                    host.settle()
        trips = one.trips
        assert [one.hold(soft) for _ in range(3)] == [True] * 3
        assert one.trips == trips
        settled([one, two])
        one.later_s = 2.0
        one.leases.step()
        assert one.worker.taken(one.groups[ref_of(soft)].places[0]) == 3
        assert spent(one) == 12 + 3


def test_what_is_carried_over_counts_what_hosts_may_still_spend(url: str) -> None:
    budget = made(url, 40, carry=0.5, period="hour")
    with hosts(url, "a", "b") as (one, two):
        now = ref_of(budget)
        past = now._replace(period_start_ms=now.period_start_ms - 3_600_000)
        with one.database.write() as connection:
            connection.execute(sa.update(budgets).values(defined_at_ms=0))
        for host in (one, two):
            host.start()
        one.leases.share()
        assert one.ledger.take(budget, past, Wish(30, 30), 2, 2**60).lease == Lease(30, 0)
        one.sink([record(past, one.worker_name)])
        assert two.ledger.take(budget, now, Wish(45, 45), 2, 2**60).lease == Lease(45, 0), "40, and half of 10"
        assert not one.ledger.take(budget, now, Wish(1, 1), 2, 2**60).is_enough
        one.ledger.leave()
        assert one.ledger.hosts() == {"b": False}
        with pytest.raises(NotJoined):
            one.ledger.take(budget, now, Wish(1, 1), 2, 2**60)


def test_older_usage_that_is_added_calls_leases_back_and_old_leases_are_deleted(url: str) -> None:
    budget = made(url, 80)
    with hosts(url, "a", "b") as (one, two):
        for host in (one, two):
            host.start()
        one.leases.share()
        for host in (one, two):
            assert host.hold(budget)
        with one.database.write() as connection:
            SpendTable(one.database).add(connection, {ref_of(budget): Balance(requests=70)})
            connection.execute(sa.insert(budget_leases).values(LONG_AGO))
        one.settle()
        one.ship()
        one.later_s = 2.0
        one.leases.step()
        assert outstanding(one, budget) == {"b": 8}
        assert LONG_AGO["account"] not in {account for account, *_ in one.ledger.own()}


def test_an_erased_customer_leaves_no_digest_in_the_ledger(url: str) -> None:
    """A reader who knows the label could make the digest of its account, and so find out that there was one."""
    budget = made(url, 10, per="user_id")
    ref = ref_of(budget)._replace(value="ann")
    past = ref._replace(period_start_ms=0)
    with hosts(url, "a", "b") as (one, two):
        for host in (one, two):
            host.start()
        one.leases.share()
        for host in (one, two):
            assert host.leases.fetch(ref, 1, 2).state == "granted"
        of_before = replace(budget, unit="usd")
        with one.database.write() as connection:
            connection.execute(sa.insert(budget_leases).values(LONG_AGO | {"account": account_key(of_before, ref)}))
        one.sink([record(each, one.worker_name) for each in (ref, past)])
        assert Erasure(one.database, sleep=lambda _: None).run("nobody", 2**60) is None
        erased = Erasure(one.database, sleep=lambda _: None).run("ann", 2**60)
        assert erased is not None
        with one.database.read() as connection:
            left = set(connection.execute(sa.select(budget_leases.c.account)).scalars())
        label = ref._replace(value=erased.label)
        accounts = [(budget, label), (budget, label._replace(period_start_ms=0)), (of_before, label)]
        assert left == {account_key(*each) for each in accounts}
        assert one.leases.fetch(ref, 1, 1).state == "granted"


def test_leases_of_a_deleted_budget_without_an_end_are_deleted_without_waiting_for_a_shipper(url: str) -> None:
    gone, kept = (made(url, 10, name, period="total") for name in ("gone", "kept"))
    with hosts(url, "a", "b") as (one, two):
        for host in (one, two):
            host.start()
        one.leases.share()
        for host in (one, two):
            for budget in (gone, kept):
                assert host.leases.fetch(ref_of(budget), 1, 2).state == "granted"
            host.sink([record(ref_of(budget), host.worker_name) for budget in (gone, kept)])
        assert one.ledger.prune() == 0
        BudgetStore(one.database).delete(gone.id)
        with two.database.write() as connection:
            two.ledger.use(connection, [Used(account_key(gone, ref_of(gone)), 1, 2**60, gone.id)])
            assert one.ledger.prune() == 1
        assert (one.ledger.prune(), one.ledger.prune()) == (1, 0)
        assert [account for account, *_ in two.ledger.own()] == [account_key(kept, ref_of(kept))]
