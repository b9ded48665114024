"""Transactions, their time limits, and a database file that is locked, moved, damaged or missing."""

from __future__ import annotations

import stat
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.store.database import Database
from llm_gateway.store.migrations import HEAD
from llm_gateway.store.postgres import connect_arguments, parsed_url, place_of
from tests.store.disturbances import locked

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def pragma(connection: sa.Connection, name: str) -> object:
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def put_in(connection: sa.Connection, name: str) -> int:
    return connection.execute(sa.text("INSERT INTO alembic_version VALUES (:name)"), {"name": name}).rowcount


def put(database: Database, name: str) -> None:
    with database.write() as connection:
        put_in(connection, name)


def versions(database: Database) -> list[str]:
    with database.read() as connection:
        return sorted(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars())


def test_the_sqlite_file_is_made_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b%20 #?.db"
    database = Database.open(f"sqlite:///{str(path).replace('?', '%3F')}")
    database.migrate()
    database.close()
    made = next((tmp_path / "a").iterdir())
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def test_wal_files_are_readable_by_their_owner_only(sqlite_database: Database, database_file: Path) -> None:
    database_file.chmod(0o600)
    put(sqlite_database, "x")
    for suffix in ("-wal", "-shm"):
        assert stat.S_IMODE(Path(f"{database_file}{suffix}").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "mysql://localhost/x", "sqlite+aiosqlite:///x.db"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="LLM_GATEWAY_DATABASE_URL must be sqlite:///path"):
        Database.open(url)


def test_a_refused_url_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Database.open("mysql://user:canary-password@localhost/x")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "host", "port", "place"),
    [
        ("postgresql://u:p%40@a:1,b:2/n?sslmode=require", "a,b", "1,2", "a, b"),
        ("postgresql://u@a,b/n", "a,b", ",", "a, b"),
        ("postgresql://u@[::1]:5,b/n", "::1,b", "5,", "::1, b"),
        ("postgresql://u@/n?host=a:1&host=b:2", "a,b", "1,2", "a:1, b:2"),
        ("postgresql://u@/n?host=/run/pg,/run/other", "/run/pg,/run/other", ",", "this machine"),
        ("postgresql://u@a:5/n", "a", 5, "a"),
    ],
)
def test_several_hosts_of_one_database_are_tried_by_each_connection(
    url: str, host: str, port: str | int, place: str
) -> None:
    found = connect_arguments(parsed_url(url))
    assert (found["user"], found["dbname"], found["host"], found["port"]) == ("u", "n", host, port)
    assert place_of(parsed_url(url)) == f"Postgres on {place}"


def test_password_and_tls_of_a_url_reach_each_connection() -> None:
    options = "sslmode=verify-full&sslrootcert=/etc/ca.pem&connect_timeout=2"
    found = connect_arguments(parsed_url(f"postgresql://u:p%40%2F%2541@a:1,b:2/n?{options}"))
    wanted = {"password": "p@/%41", "sslmode": "verify-full", "sslrootcert": "/etc/ca.pem", "connect_timeout": "2"}
    assert wanted.items() <= found.items()


def test_hosts_and_ports_that_do_not_fit_together_are_refused() -> None:
    for url in ("postgresql://a,b/n?port=1,2,3", "postgresql://a:x,b/n", "postgresql://a:1,b:2/n?port=3"):
        with pytest.raises(ConfigurationError, match="give each host its port"):
            Database.open(url)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot be created \(.*\): set LLM_GATEWAY_DATA_DIR"):
        Database.open(f"sqlite:///{tmp_path}/file/gateway.db")


def test_postgres_without_its_driver_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match="install the package psycopg"):
        Database.open("postgresql://localhost/gateway")


def test_sqlite_syncs_every_commit(database_file: Path) -> None:
    database = Database.open(f"sqlite:///{database_file}")
    with database.write() as connection:
        assert pragma(connection, "synchronous") == 2
        assert pragma(connection, "journal_mode") == "wal"
        assert pragma(connection, "page_size") == 8192
    database.close()


def test_an_error_rolls_the_transaction_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        raise ZeroDivisionError(put_in(connection, "x"))
    assert versions(database) == [HEAD]
    put(database, "y")
    assert versions(database) == [HEAD, "y"]


def test_a_read_sees_one_consistent_state(database: Database) -> None:
    with database.read() as connection:
        before = connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar()
        put(database, "x")
        assert connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar() == before == 1
    assert len(versions(database)) == 2


def test_a_read_cannot_write(database: Database) -> None:
    with pytest.raises(StoreUnavailable), database.read() as connection:
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('x')")
    assert versions(database) == [HEAD]


def test_a_long_read_is_cut_off(database: Database) -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught, database.read(0.05) as connection:
        connection.exec_driver_sql(ENDLESS)
    assert time.monotonic() - started < 2
    assert caught.value.retry_after_s == 1
    assert versions(database) == [HEAD]


def test_the_read_limit_of_a_database_is_its_default(url: str) -> None:
    database = Database.open(url, read_limit_s=0.05)
    with pytest.raises(StoreUnavailable), database.read() as connection:
        connection.exec_driver_sql(ENDLESS)
    database.close()


def test_a_locked_database_is_unavailable_after_the_busy_timeout(database: Database, url: str) -> None:
    with locked(url):
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            put(database, "x")
        assert 0.15 < time.monotonic() - started < 2
        assert versions(database) == [HEAD]
        assert database.check() is True
    put(database, "x")


def test_a_violated_constraint_is_raised_as_it_is(database: Database) -> None:
    with pytest.raises(IntegrityError):
        put(database, HEAD)


def test_a_moved_file_is_not_written_to(sqlite_database: Database, database_file: Path, tmp_path: Path) -> None:
    database = sqlite_database
    put(database, "before")
    assert database.check() is True
    moved = [path.rename(tmp_path / f"moved-{path.name}") for path in tmp_path.glob("gateway.db*")]
    with pytest.raises(StoreUnavailable):
        put(database, "lost")
    assert database.check() is False
    assert not database_file.exists()
    for path in moved:
        path.rename(tmp_path / path.name.removeprefix("moved-"))
    assert versions(database) == [HEAD, "before"]
    put(database, "after")
    assert database.check() is True


def test_a_damaged_file_is_unavailable_and_at_startup_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    path.write_bytes(b"no database at all" * 1000)
    database = Database.open(f"sqlite:///{path}")
    assert database.check() is False
    with pytest.raises(StoreUnavailable), database.read():
        pass
    with pytest.raises(ConfigurationError, match="is damaged or not a SQLite database: restore a backup"):
        database.migrate()
    database.close()


def test_check_fails_until_the_tables_are_made(empty_url: str) -> None:
    database = Database.open(empty_url)
    assert database.check() is False
    database.migrate()
    assert database.check() is True
    database.close()
