"""The length of SQLite's write-ahead log while reads overlap at every moment."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.control.maintenance import SHORTEN_EVERY_S, shorten_log_forever
from llm_gateway.errors import StoreUnavailable
from llm_gateway.store.database import Database
from llm_gateway.store.usage import UsageStore
from tests.store.histories import DAY_MS, attempt, record
from tests.virtual_time import run_virtually

MB = 1024 * 1024
SLOW_READ = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) SELECT count(*) FROM n"
CUSTOMERS, POLLS, POLL_S = 60_000, 6, 15.0
STEP = 7919
"""Customers between two batches: a prime, so that all come in turn."""


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    return sqlite_database


def size(database_file: Path) -> int:
    return Path(f"{database_file}-wal").stat().st_size


def fill(database: Database, megabytes: int) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS filler (data BLOB)")
    for _ in range(megabytes):
        with database.write() as connection:
            connection.exec_driver_sql("INSERT INTO filler VALUES (zeroblob(1048576))")


class AtOnce(ThreadPoolExecutor):
    """An executor that runs each call at once, in the thread of its caller."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(call(*args, **kwargs))
        except IndexError as error:
            done.set_exception(error)
        return done


@contextmanager
def repeated(*reads: Callable[[], object]) -> Iterator[None]:
    """Call each function again and again, each in a thread of its own, until the block ends."""
    stop = threading.Event()

    def repeat(read: Callable[[], object]) -> None:
        while not stop.is_set():
            read()

    threads = [threading.Thread(target=repeat, args=(read,)) for read in reads]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_overlapping_reads_do_not_let_the_log_grow(database: Database, database_file: Path) -> None:
    def read() -> None:
        with database.read() as connection:
            connection.exec_driver_sql(SLOW_READ).scalar()
            connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar()
            connection.exec_driver_sql(SLOW_READ).scalar()

    with repeated(read, read, read):
        for _ in range(3):
            fill(database, 10)
            assert database.shorten_log(limit=8 * MB) <= 8 * MB
    assert size(database_file) <= 8 * MB


def test_a_read_that_does_not_end_keeps_the_log_until_it_has_ended(database: Database, database_file: Path) -> None:
    with database.read() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar()
        fill(database, 2)
        assert database.shorten_log(limit=MB, wait_s=0.01) == size(database_file) > 2 * MB
        fill(database, 1)  # no lock is left
    assert database.shorten_log(limit=MB) == size(database_file) == 0
    assert database.shorten_log(limit=MB) == 0
    with database.write() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 200, "as it was opened"


def test_six_clients_poll_reports_on_many_customers(
    database: Database, database_file: Path, request: pytest.FixtureRequest
) -> None:
    """With --long, on 60,000 customers for 15 seconds; the log may then be 64 MB, and 32 MB three seconds later."""
    is_full = request.config.getoption("--long")
    customers, poll_s, every_s = (CUSTOMERS, POLL_S, SHORTEN_EVERY_S) if is_full else (500, 0.2, 0.05)
    store, now_ms = UsageStore(database), time.time_ns() // 1_000_000

    def write(count: int, at_ms: int = now_ms, start: int = 0) -> None:
        users = (f"customer-{(start + number) % customers}" for number in range(count))
        store.write([record(at_ms, user_id=user, attempts=[attempt(at_ms)]) for user in users])

    for day in range(30):
        write(customers // 30, now_ms - day * DAY_MS, day * customers // 30)
    longest = written = 0
    polled = [
        lambda: store.summary(30, now_ms),
        lambda: store.by_customer(30, now_ms, 100),
        lambda: store.by_provider(30, now_ms),
    ]

    def shorten() -> None:
        database.shorten_log()
        time.sleep(every_s)

    with repeated(*polled * (POLLS // len(polled)), shorten):
        deadline = time.monotonic() + poll_s
        while time.monotonic() < deadline or written < 10 * STEP:
            write(customers // 60, start=(written := written + STEP))
            longest = max(longest, size(database_file))
        assert longest <= 64 * MB
        if is_full:
            time.sleep(3)
    assert size(database_file) <= 32 * MB
    assert sum(row.requests for row in store.by_customer(30, now_ms, customers)) > customers


def test_attempts_that_fail_come_less_and_less_often() -> None:
    """In virtual time, with the calls that would run in a thread run at once."""
    lengths, at_s = [20 * MB] * 7 + [0, 0], list[float]()

    async def shorten_and_note() -> None:
        loop = asyncio.get_running_loop()

        def shorten() -> int:
            at_s.append(loop.time() - 1000)
            return lengths.pop(0)

        loop.set_default_executor(AtOnce())
        with pytest.raises(IndexError):
            await shorten_log_forever(shorten, lambda *_, **__: None)

    run_virtually(shorten_and_note())
    assert at_s == [1, 3, 7, 15, 31, 63, 95, 127, 128, 129]


async def test_a_log_that_cannot_be_emptied_is_logged_once_and_its_end_too() -> None:
    lengths = [80 * MB, 90 * MB, 0, 0, 0]
    events: list[tuple[str, dict[str, object]]] = []

    def shorten() -> int:
        if len(lengths) == 4:
            lengths.pop()
            raise StoreUnavailable("It does not answer.")
        return lengths.pop(0)

    task = asyncio.create_task(
        shorten_log_forever(shorten, lambda event, **fields: events.append((event, fields)), every_s=0)
    )
    with pytest.raises(IndexError):
        await asyncio.wait_for(task, 5)
    grows = "the database's write-ahead log grows: a read keeps it from being emptied"
    assert events == [
        (grows, {"level": "warning", "megabytes": 83}),
        ("the database's write-ahead log is short again", {}),
    ]
