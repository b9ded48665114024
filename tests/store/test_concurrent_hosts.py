"""Several hosts that write to one Postgres at the same time: no deadlock, exact sums, each event told once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.store.database import Database
from llm_gateway.store.usage import ROWS_AT_ONCE_ON_POSTGRES, UsageStore
from llm_gateway.store.webhook_messages import WebhookMessages
from tests.store.histories import DAY_MS, HOUR_MS, NOW_MS, attempt, clear, cube_rows, record, rollup_rows, stored_ids
from tests.waiting import wait_until

HOSTS = 4
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def databases(postgres_url: str) -> Iterator[list[Database]]:
    with ExitStack() as opened:
        yield [opened.enter_context(closing(Database.open(postgres_url, fsync=False))) for _ in range(HOSTS)]


def together(*works: Callable[[], object]) -> None:
    """Run functions at the same time, each in a thread, and raise what any of them raised."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        try:
            barrier.wait(10)
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if failures:
        raise failures[0]


def others_wait(database: Database) -> bool:
    """Return whether a transaction waits for another one."""
    with database.read() as connection:
        return bool(connection.execute(sa.text(WAITING)).scalar())


def of_host(host: int, count: int, until_ms: int = NOW_MS) -> list[UsageRecord]:
    """Return records with the names that those of all hosts have, in another order each."""
    accounts = tuple(AccountRef("b", f"c{number}", 0) for number in range(2))

    def one(number: int) -> UsageRecord:
        at = (number + host * 7) * (1 if host % 2 else -1) % 13
        fields = {"user_id": f"u{at}", "service": f"s{at % 5}", "instance": f"s{(at + host) % 5}"}
        tried = attempt(NOW_MS, f"p{at}", model=f"m{at}", cost_nanos=number, accounts=accounts[:: 1 if at % 2 else -1])
        return record(until_ms - at * HOUR_MS, **fields, cost_nanos=number, attempts=[tried])

    return [one(number) for number in range(count)]


def write_all(database: Database, records: list[UsageRecord], size: int) -> None:
    store = UsageStore(database)
    for start in range(0, len(records), size):
        store.write(records[start : start + size])


def test_shippers_that_add_to_the_same_sums_do_not_deadlock_and_lose_nothing(
    databases: list[Database], request: pytest.FixtureRequest
) -> None:
    """All names are new, and the second part of a batch has names that another host's first part has."""
    size, batches = (ROWS_AT_ONCE_ON_POSTGRES + 200, 10) if request.config.getoption("--long") else (60, 4)
    histories = [of_host(host, size * batches) for host in range(HOSTS)]
    works = [
        lambda database=database, history=history: write_all(database, history, size)
        for database, history in zip(databases, histories, strict=True)
    ]
    together(*works)
    every = [each for history in histories for each in history]
    assert stored_ids(databases[0]) == sorted(each.id for each in every)
    sums = (rollup_rows(databases[0]), cube_rows(databases[0]))
    clear(databases[0])
    write_all(databases[0], every, 1000)
    assert (rollup_rows(databases[0]), cube_rows(databases[0])) == sums


def test_new_origins_of_large_batches_are_stored_in_one_order(databases: list[Database]) -> None:
    """Each host's first part has the names that the second part of the other one's has."""
    size = ROWS_AT_ONCE_ON_POSTGRES

    def history(host: int, batch: int) -> list[UsageRecord]:
        names = (f"a{batch}", f"z{batch}")[:: 1 if host else -1]
        parts = [attempt(NOW_MS, name) for name in names for _ in range(size)]
        return [record(NOW_MS - 100_000 + number, attempts=[tried]) for number, tried in enumerate(parts)]

    for batch in range(2):
        works = zip(databases[:2], (history(0, batch), history(1, batch)), strict=True)
        together(*(partial(UsageStore(database).write, records) for database, records in works))
    assert len(stored_ids(databases[0])) == 2 * 2 * 2 * size


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(lambda a, z: {"key_name": z, "service": a}, id="a key's is a service's"),
        pytest.param(lambda a, z: {"key_name": a, "service": z}, id="a service's is a key's"),
        pytest.param(lambda a, z: {"instance": z, "service": a}, id="an instance's is a service's"),
    ],
)
def test_new_names_of_several_columns_are_stored_in_one_order(
    databases: list[Database], names: Callable[[str, str], dict[str, Any]]
) -> None:
    """The second host has the names of the first in one column, and runs between any two statements of the first."""
    first, second = (UsageStore(database) for database in databases[:2])
    first.write([record()])
    at, is_over = 0, False
    while not is_over:
        a, z, left = f"a{at}", f"z{at}", at
        others = [record(key_name=name) for name in (a, z)]
        running = threading.Thread(target=partial(second.write, others))

        def halt(running: threading.Thread = running) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                running.start()
                wait_until(lambda: not running.is_alive() or others_wait(databases[2]), 10)

        first.write([record(**names(a, z))], halt)
        is_over = left >= 0
        if not is_over:
            running.join(20)
            assert not {each.id for each in others} - {*stored_ids(databases[2])}
        at += 1
    assert at > 10


def test_two_hosts_that_both_clean_up_delete_and_sum_once(databases: list[Database]) -> None:
    stores = [UsageStore(database) for database in databases]
    old = [record(NOW_MS - (100 + number % 5) * DAY_MS) for number in range(40)]
    stores[0].write(old)
    deleted: list[int] = []

    def clean_up(store: UsageStore) -> None:
        while store.build_block(NOW_MS) or store.build_margins(NOW_MS):
            pass
        while count := store.prune(NOW_MS - 90 * DAY_MS, 7):
            deleted.append(count)

    late = [record(NOW_MS - 101 * DAY_MS, user_id="late") for _ in range(5)]
    together(*(lambda store=store: clean_up(store) for store in stores[:3]), lambda: stores[3].write(late))
    clean_up(stores[0])
    assert (sum(deleted), stored_ids(databases[0])) == (45, [])
    sums = [row for row in rollup_rows(databases[0]) if row[:2] == ("customer", "day")]
    assert sum(row[4] for row in sums) == 45


def test_an_event_that_two_hosts_find_is_told_once(databases: list[Database]) -> None:
    found: list[bool] = []
    messages = [WebhookMessages(database) for database in databases]
    for number in range(5):
        adds = [partial(each.add, f"event {number}", 1, "test", {}) for each in messages]
        together(*(lambda add=add: found.append(add()) for add in adds))
    assert found == [True] * 5 * HOSTS
    assert [message.id for message in messages[0].due(NOW_MS, 100)] == [f"event {number}" for number in range(5)]
