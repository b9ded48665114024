"""Postgres alone: sessions behind a pooler, a server that falls silent, encodings, concurrent writers."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.store.database import Database
from llm_gateway.store.hosts import HostClaim, HostTable
from llm_gateway.store.migrations import HEAD
from llm_gateway.store.postgres import wait_for_migration_turn
from llm_gateway.store.providers import list_providers
from llm_gateway.store.usage import UsageStore
from tests.databases import PostgresDatabases
from tests.postgres_server import programs as programs_of
from tests.store.histories import DAY_MS, HOUR_MS, NOW_MS, attempt, clear, cube_rows, record, rollup_rows, stored_ids
from tests.waiting import wait_until

LEFT_IN_SESSION = """
SELECT 'setting ' || name FROM pg_settings WHERE source = 'session' AND name NOT LIKE 'transaction%%'
UNION ALL SELECT 'statement ' || statement FROM pg_prepared_statements
UNION ALL SELECT 'lock ' || objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
UNION ALL SELECT 'channel ' || c FROM pg_listening_channels() c
UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE is_holdable
UNION ALL SELECT 'table ' || relname FROM pg_class WHERE relpersistence = 't'
"""
WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event = 'advisory' AND clock_timestamp() - query_start > interval '0.1 s'
"""
TAKEN_BY_POOLERS = {"application_name", "client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings"}
"""Settings at the start of a connection that PgBouncer keeps for each client (pgbouncer.org/config.html)."""


def test_no_transaction_leaves_anything_in_its_session(postgres: PostgresDatabases) -> None:
    """A pooler in transaction mode gives the next transaction another session."""
    with postgres.empty() as url, closing(Database.open(url, fsync=False)) as database:
        database.migrate()
        store = UsageStore(database)
        for _ in range(7):  # by default psycopg prepares a statement at its sixth use
            store.write([record(NOW_MS - 40 * DAY_MS + number * DAY_MS, attempts=[attempt()]) for number in range(40)])
            store.summary(30, NOW_MS)
            store.by_customer(30, NOW_MS, 10)
            list_providers(database)
            assert database.check()
        while store.build_block(NOW_MS):
            pass
        assert store.prune(NOW_MS - 35 * DAY_MS, 1000)
        at_start: set[str] = set()
        for transaction in (database.write(), database.read()):
            with transaction as connection:
                raw: Any = connection.connection.driver_connection
                raw.rollback()  # the limits of this transaction end with it
                assert raw.execute(LEFT_IN_SESSION).fetchall() == []
                names = raw.execute("SELECT name FROM pg_settings WHERE source = 'client'").fetchall()
                at_start |= {name for (name,) in names}
        assert at_start <= TAKEN_BY_POOLERS


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_read_is_cut_off_when_the_server_falls_silent(postgres_database: Database) -> None:
    with postgres_database.read() as connection:  # the pool hands out this connection again
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    started = time.monotonic()
    with pytest.raises(StoreUnavailable), postgres_database.read(0.05) as connection, stopped(pid):
        connection.exec_driver_sql("SELECT 1")
    assert 1 < time.monotonic() - started < 5
    assert postgres_database.check()


def test_a_connection_that_the_server_has_ended_is_not_used(postgres_database: Database) -> None:
    own = "SELECT pg_backend_pid()"
    with postgres_database.read() as connection:
        ended = connection.exec_driver_sql(own).scalar_one()
    with postgres_database.write() as connection:
        assert connection.exec_driver_sql("SELECT pg_terminate_backend(%s, 5000)", (ended,)).scalar_one()
    with postgres_database.read() as connection:
        assert connection.exec_driver_sql(own).scalar_one() != ended


def test_commits_are_durable_whatever_the_servers_default(postgres_database: Database) -> None:
    """A record leaves the journal once its commit has returned. The server of the tests has `off`."""
    query = "SELECT current_setting('synchronous_commit'), reset_val FROM pg_settings WHERE name = 'synchronous_commit'"
    with postgres_database.write() as connection:
        assert tuple(connection.exec_driver_sql(query).one()) == ("on", "off")


def test_a_database_that_cannot_hold_every_character_is_refused(postgres: PostgresDatabases) -> None:
    with postgres.empty("ENCODING 'LATIN1' LOCALE 'C'") as url, closing(Database.open(url)) as database:
        with pytest.raises(ConfigurationError, match="has the encoding LATIN1: create it anew with ENCODING 'UTF8'"):
            database.migrate()
        assert not database.check()


def test_a_host_says_that_it_waits_for_another_one_that_migrates(postgres_database: Database) -> None:
    told, lines = threading.Event(), list[str]()

    def log(event: str, **_fields: object) -> None:
        lines.append(event)
        told.set()

    with postgres_database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    with ThreadPoolExecutor(1) as threads, postgres_database.write() as connection:
        wait_for_migration_turn(connection, None)
        waiting = threads.submit(postgres_database.migrate, log)
        assert told.wait(10)
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = %s", (HEAD,))  # it is done
        connection.commit()
        waiting.result(10)
    assert lines == ["waiting for another host that migrates the database"]


def test_a_host_that_is_gone_while_it_migrates_keeps_no_other_from_it(postgres_database: Database) -> None:
    def take_turn() -> None:
        with postgres_database.write() as connection:
            wait_for_migration_turn(connection, None)

    def be_gone() -> None:
        with postgres_database.write() as connection:
            wait_for_migration_turn(connection, None, idle_limit_s=0.05)
            with ThreadPoolExecutor(1) as threads:
                threads.submit(take_turn).result(10)
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(StoreUnavailable):
        be_gone()


def test_hosts_that_start_at_once_wait_for_each_others_turns_for_longer_than_a_write_waits(postgres_url: str) -> None:
    def is_waiting() -> bool:
        with database.read() as connection:
            return bool(connection.exec_driver_sql(WAITING).scalar_one())

    claim = HostClaim(id="id", name="a", version="1", tables=HEAD, run="run", place="place")
    with closing(Database.open(postgres_url, busy_timeout_s=0.05)) as database, ThreadPoolExecutor(1) as threads:
        with database.write() as connection:
            wait_for_migration_turn(connection, None)
            claiming = threads.submit(HostTable(database).claim, claim)
            wait_until(lambda: claiming.done() or is_waiting(), 10)
        assert claiming.result(10) is None


def test_a_dump_is_restored_into_an_empty_database(
    postgres: PostgresDatabases, postgres_url: str, tmp_path: Path
) -> None:
    """The commands of docs/SETUP.md in the place of `llm-gateway backup` and `restore`."""
    file, programs = tmp_path / "dump", programs_of(postgres.server.directory)
    with closing(Database.open(postgres_url, fsync=False)) as database:
        UsageStore(database).write([record(NOW_MS, attempts=[attempt()])])
        before = (stored_ids(database), cube_rows(database))
    subprocess.run([programs / "pg_dump", "--format=custom", f"--file={file}", postgres_url], check=True)
    with postgres.empty() as url:
        subprocess.run([programs / "pg_restore", "--exit-on-error", "--no-owner", f"--dbname={url}", file], check=True)
        with closing(Database.open(url, fsync=False)) as database:
            assert database.is_current()
            assert (stored_ids(database), cube_rows(database)) == before
            UsageStore(database).write([record(NOW_MS)])  # numbers go on where they were


def test_writers_of_overlapping_batches_neither_deadlock_nor_count_twice(postgres_url: str) -> None:
    """Each has the records of all in another order, as after a restart in the middle of a batch."""
    history = [
        record(NOW_MS - number % 5 * HOUR_MS, user_id=f"u{number % 7}", cost_nanos=number, attempts=[attempt()])
        for number in range(60)
    ]
    failures: list[BaseException] = []

    def write(store: UsageStore, number: int) -> None:
        mine = history[number * 15 :] + history[: number * 15]
        starts = list(range(0, 60, 6))
        while starts:
            try:
                store.write(mine[starts[0] : starts[0] + 12][:: -1 if number % 2 else 1])
                del starts[0]
            except StoreUnavailable as error:  # another one has just stored some of them: send them again
                failures.extend([error] if "deadlock" in str(error.__cause__) else [])

    with ExitStack() as opened:
        databases = [opened.enter_context(closing(Database.open(postgres_url, fsync=False))) for _ in range(4)]
        stores = [UsageStore(database) for database in databases]
        threads = [threading.Thread(target=write, args=each) for each in zip(stores, range(4), strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        assert stored_ids(databases[0]) == sorted(each.id for each in history)
        assert stores[0].summary(1, NOW_MS).requests == 60
        sums = (rollup_rows(databases[0]), cube_rows(databases[0]))
        clear(databases[0])
        stores[0].write(history)
        assert (rollup_rows(databases[0]), cube_rows(databases[0])) == sums


def test_a_role_without_rights_is_told_so(postgres: PostgresDatabases) -> None:
    with postgres.empty() as url, closing(Database.open(url)) as database:
        with database.write() as connection:
            connection.exec_driver_sql("DO $$ BEGIN CREATE ROLE reader LOGIN; EXCEPTION WHEN OTHERS THEN END $$")
        as_reader = sa.make_url(url).set(username="reader").render_as_string()
        with (
            closing(Database.open(as_reader)) as limited,
            pytest.raises(ConfigurationError, match=r"does not accept .* \(permission denied for schema public\)"),
        ):
            limited.migrate()
