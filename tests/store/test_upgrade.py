"""Data of older versions of the database is whole after the upgrade.

That of 0002 (`upgrade/make.py`): records, reports, cube, limits. That of 0015 (`upgrade/make_0015.py`): rollups.
"""

from __future__ import annotations

import json
import lzma
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from alembic import command

from llm_gateway.domain.quote import Quote
from llm_gateway.domain.usage import AttemptRecord, Price, SentAttempt
from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.journal.replay import replay
from llm_gateway.store import migrations
from llm_gateway.store.database import Database
from llm_gateway.store.providers import list_providers
from llm_gateway.store.repricing import Repricing, Wanted
from llm_gateway.store.retention import Retention
from llm_gateway.store.tables import usage_records
from llm_gateway.store.usage import UsageStore
from tests.databases import Databases, PostgresDatabases
from tests.journal.samples import Heard, left_behind
from tests.store.histories import DAY_MS, check_cube, cube_rows, rollup_rows, stored_attempts

FOLDER = Path(__file__).with_name("upgrade")
END_MS = 20_600 * DAY_MS + 15 * 3_600_000
RECORDS = 300


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.db"
    path.write_bytes(lzma.decompress((FOLDER / "0002.db.xz").read_bytes()))
    return path


@pytest.fixture
def before(file: Path) -> list[dict[str, Any]]:
    """Return the records as the older version stored them."""
    with closing(sqlite3.connect(file)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM usage_records ORDER BY id")]


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the SQLite file after its upgrade."""
    path = tmp_path_factory.mktemp("upgraded") / "gateway.db"
    path.write_bytes(lzma.decompress((FOLDER / "0002.db.xz").read_bytes()))
    with closing(Database.open(f"sqlite:///{path}", fsync=False)) as database:
        database.migrate()
    return path


@pytest.fixture(scope="module")
def upgraded_on_postgres(postgres: PostgresDatabases, upgraded: Path) -> Iterator[str]:
    """Return the URL of a Postgres database with the same rows, after its upgrade."""
    file = upgraded.with_name("0002.db")
    file.write_bytes(lzma.decompress((FOLDER / "0002.db.xz").read_bytes()))
    with postgres.empty() as url:
        with closing(Database.open(url, fsync=False)) as database:
            copy_rows(file, database, "0002", ["providers", "overrides", "usage_records", "usage_rollups"])
            database.migrate()
        yield url


@pytest.fixture
def database(request: pytest.FixtureRequest, databases: Databases, before: list[dict[str, Any]]) -> Iterator[Database]:
    """Return a copy of the upgraded database."""
    assert len(before) == RECORDS
    if isinstance(databases, PostgresDatabases):
        copied = databases.copy(request.getfixturevalue("upgraded_on_postgres"))
    else:
        copied = databases.empty()
    with copied as url:
        if url.startswith("sqlite:"):
            shutil.copy(request.getfixturevalue("upgraded"), url.removeprefix("sqlite:///"))
        with closing(Database.open(url, fsync=False)) as database:
            yield database


def copy_rows(file: Path, database: Database, version: str, tables: list[str]) -> None:
    """Make the tables of a version, with the rows of the file."""
    with closing(sqlite3.connect(file)) as source, database.write() as connection:
        command.upgrade(migrations.configuration(connection), version)
        old = sa.MetaData()
        old.reflect(connection, only=tables)
        for table in old.sorted_tables:
            names = table.columns.keys()
            rows = [
                {column.name: _as(column, value) for column, value in zip(table.columns, row, strict=True)}
                for row in source.execute(f"SELECT {', '.join(names)} FROM {table.name}")
            ]
            if rows:
                connection.execute(sa.insert(table), rows)


def _as(column: sa.Column[Any], value: Any) -> Any:
    return bool(value) if isinstance(column.type, sa.Boolean) else value


@pytest.fixture
def store(database: Database) -> UsageStore:
    return UsageStore(database)


def fill(store: UsageStore) -> None:
    while store.fill_cube() is not None:
        pass


def deep(attempts: str) -> list[AttemptRecord]:
    return msgspec.json.decode(attempts, type=list[AttemptRecord])


def test_records_keep_their_fields_and_new_ones_are_empty(database: Database, before: list[dict[str, Any]]) -> None:
    with database.read() as connection:
        after = [dict(row) for row in connection.execute(sa.select(usage_records).order_by("id")).mappings()]
    new = {"session", "agent", "queued_ms", "route", "key_id", "team_id", "instance_id", "traceparent", "refused_by"}
    assert [{name: row[name] for name in row if name not in new} for row in after] == [
        {name: row[name] for name in row if name not in {"organization", "project"}} for row in before
    ]
    assert {row[name] for row in after for name in new} == {None}
    assert stored_attempts(database) == [deep(row["attempts"]) for row in before if row["attempts"]]


def test_reports_are_the_same(store: UsageStore, before: list[dict[str, Any]]) -> None:
    summary = store.summary(90, END_MS)
    assert (summary.requests, summary.cost_nanos) == (RECORDS, sum(row["cost_nanos"] for row in before))
    assert sum(row.totals.cost_nanos for row in store.by_provider(90, END_MS)) == summary.cost_nanos
    assert {row.name for row in store.by_service(90, END_MS)} == {row["service"] for row in before}
    assert sum(row.requests for row in store.by_customer(90, END_MS, 500)) == RECORDS


def test_the_cube_is_filled_with_the_stored_records(store: UsageStore, database: Database) -> None:
    assert cube_rows(database) == []
    rollups = rollup_rows(database)
    fill(store)
    check_cube(database)
    assert sum(row[9] for row in cube_rows(database) if row[0] == 24) == RECORDS
    assert rollup_rows(database) == rollups


def test_retention_fills_the_cube_before_it_deletes(store: UsageStore, database: Database, tmp_path: Path) -> None:
    logged: list[tuple[str, dict[str, Any]]] = []
    (tmp_path / "retention.json").write_text(json.dumps({"believed_ms": END_MS}))
    retention = Retention(
        store, tmp_path, 1, lambda event, **fields: logged.append((event, fields)), clock_ms=lambda: END_MS
    )
    while retention.step():
        pass
    assert [event for event, _ in logged] == ["older usage is summed by all dimensions", "old usage records deleted"]
    assert logged[0][1] == {"records": RECORDS}
    assert 0 < logged[1][1]["count"] < RECORDS
    check_cube(database)
    assert sum(row[9] for row in cube_rows(database) if row[0] == 1) == RECORDS


@pytest.mark.parametrize("is_filled", [False, True])
def test_old_records_are_repriced(store: UsageStore, database: Database, is_filled: bool) -> None:
    if is_filled:
        fill(store)
    price = Price(((0, 7_000_000_000),), ((0, 9_000_000_000),))
    providers = list_providers(database)
    wanted = Wanted(since_ms=0, until_ms=END_MS, provider="house")
    report = Repricing(database, providers, lambda _provider, _attempt: Quote(price), sleep=lambda _: None).run(
        wanted, dry_run=False, progress=lambda _: None
    )
    assert report.changed > 20
    fill(store)
    check_cube(database)
    assert sum(row[17] for row in cube_rows(database) if row[0] == 24) == store.summary(90, END_MS).cost_nanos
    after = [one for attempts in stored_attempts(database) for one in attempts]
    assert {one.price for one in after if one.provider == "house" and one.usage.input_tokens} == {price}
    with database.read() as connection:
        forms = connection.exec_driver_sql("SELECT DISTINCT substr(attempts, 1, 2) FROM usage_records").scalars()
        assert set(forms) == {None, "[{", "[["}


def test_limits_are_restored_from_old_records(store: UsageStore, before: list[dict[str, Any]]) -> None:
    since_ms = END_MS - 3_600_000
    attempts = [one for row in before for one in deep(row["attempts"] or "[]")]
    expected = [
        SentAttempt(one.provider_id, one.started_ms, one.limit_tokens)
        for one in attempts
        if one.sent and one.started_ms >= since_ms
    ]
    assert len(expected) > 5
    found = store.recent_attempts(since_ms)
    assert sorted(found, key=repr) == sorted(expected, key=repr)


def test_journal_entries_of_version_1_are_stored_once_and_counted(
    store: UsageStore, database: Database, tmp_path: Path
) -> None:
    left_behind(tmp_path, {1: lzma.decompress((FOLDER / "0002.seg.xz").read_bytes())})

    report = replay(tmp_path, store.write, log=Heard())

    assert (report.records, report.abandoned) == (2, 1)
    with database.read() as connection:
        query = sa.select(usage_records).where(usage_records.c.at_ms > END_MS).order_by(usage_records.c.outcome)
        cut, served = connection.execute(query).all()
    assert (served.version, served.outcome, served.route) == (1, "ok", None)
    assert (cut.version, cut.outcome, cut.error_code) == (1, "cancelled", "gateway_crashed")
    assert sorted(map(len, stored_attempts(database)[-2:])) == [1, 2]
    fill(store)
    check_cube(database)
    assert store.summary(90, END_MS + DAY_MS).requests == RECORDS + 2


def test_a_gateway_of_the_older_version_cannot_store_records_without_the_cube(
    database: Database, before: list[dict[str, Any]]
) -> None:
    """A process of the older version may still run while a newer one upgrades the database."""
    insert = f"INSERT INTO usage_records ({', '.join(before[0])}) SELECT * FROM usage_records"
    with pytest.raises(StoreUnavailable) as raised, database.write() as connection:
        connection.exec_driver_sql(insert)
    assert "organization" in str(raised.value.__cause__)


def test_a_database_of_a_newer_version_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        connection.exec_driver_sql("UPDATE compatibility SET oldest = '9999'")
    with pytest.raises(ConfigurationError, match="which a newer llm-gateway made"):
        database.migrate()


def test_rollups_of_version_0015_keep_every_sum_and_a_downgrade_restores_them(empty_url: str, tmp_path: Path) -> None:
    file = tmp_path / "0015.db"
    file.write_bytes(lzma.decompress((FOLDER / "0015.db.xz").read_bytes()))
    with closing(sqlite3.connect(file)) as source:
        before = sorted(source.execute("SELECT * FROM usage_rollups"))
    assert {row[:2] for row in before} >= {("customer", "32days"), ("service", "hour"), ("provider", "day")}
    logged: list[tuple[str, dict[str, Any]]] = []
    with closing(Database.open(empty_url, fsync=False)) as database:
        copy_rows(file, database, "0015", ["usage_rollups"])
        database.migrate(lambda event, **fields: logged.append((event, fields)))
        assert rollup_rows(database) == before
        assert sum(fields["rows"] for _, fields in logged) == len(before)
        with database.write() as connection:
            command.downgrade(migrations.configuration(connection), "0015")
        with database.read() as connection:
            assert sorted(map(tuple, connection.exec_driver_sql("SELECT * FROM usage_rollups").all())) == before
