"""Databases for single tests, on SQLite and on a real Postgres, copied from ones that were migrated once."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Protocol, Self

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from llm_gateway.store.database import Database
from llm_gateway.store.tables import metadata
from tests.e2e.process import migrated_database
from tests.postgres_server import CannotRun, PostgresServer, shared_server

TEMPLATE = "migrated"
MOST_USES = 25
"""Tests that use a database until it is dropped: nothing removes its dead rows."""

KEPT = {"usage_cube_fill", "compatibility"}
"""Tables whose row a migration inserts."""

DESCRIBED = """
SELECT version_num, (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_trigger),
    (SELECT count(*) FROM pg_attribute) FROM alembic_version
"""
"""The version of the tables, and numbers of objects that change with any table, function or trigger."""


class Databases(Protocol):
    """Makes databases of one kind. Each ends with its context."""

    def migrated(self) -> AbstractContextManager[str]:
        """Make a database with the gateway's tables, and return its URL."""

    def empty(self) -> AbstractContextManager[str]:
        """Make a database without tables, and return its URL."""


class SqliteDatabases:
    """SQLite files in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = count()
        self._migrated = directory / f"{TEMPLATE}.db"
        self._migrated.write_bytes(migrated_database())

    @contextmanager
    def migrated(self) -> Iterator[str]:
        """Copy the migrated file."""
        with self.empty() as url:
            shutil.copy(self._migrated, url.removeprefix("sqlite:///"))
            yield url

    @contextmanager
    def empty(self) -> Iterator[str]:
        """Name a file that does not exist."""
        folder = self._directory / str(next(self._numbers))
        folder.mkdir()
        yield f"sqlite:///{folder / 'gateway.db'}"
        shutil.rmtree(folder)


class UsedDatabase:
    """A migrated database that tests use one after the other."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.name = name
        self._engine = _engine(server.url_of(name))
        self._connection = self._engine.connect()
        self._uses = 0
        self._tables = self._described()

    def is_emptied(self) -> bool:
        """Delete all rows. Returns False if the database is not as it was, or too much of it is dead rows."""
        self._uses += 1
        try:
            return self._uses < MOST_USES and self._described() == self._tables and self._delete()
        except DBAPIError:  # a test has left a lock
            return False

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()
        self._engine.dispose()

    def _described(self) -> list[tuple[object, ...]]:
        return [tuple(row) for row in self._connection.execute(sa.text(DESCRIBED))]

    def _delete(self) -> bool:
        rows = "; ".join(f"DELETE FROM {name}" for name in metadata.tables if name not in KEPT)
        again = "DELETE FROM usage_cube_fill; INSERT INTO usage_cube_fill VALUES ('', '')"
        self._connection.execute(sa.text(f"DO $$ BEGIN SET LOCAL lock_timeout = '1s'; {rows}; {again}; END $$"))
        return True


class PostgresDatabases:
    """Databases of one server that all test processes of a run share, found by their common `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = count()
        self._open = ExitStack()
        self._spare: list[UsedDatabase] = []

    def __enter__(self) -> Self:
        """Start the server if no other process has.

        Raises:
            CannotRun: PostgreSQL cannot run here.
        """
        self.server = self._open.enter_context(shared_server(self._directory))
        engine = _engine(self.server.url)
        self._open.callback(engine.dispose)
        self._connection = self._open.enter_context(engine.connect())
        with (self._directory / "turn").open("a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if not self._connection.scalar(sa.text(f"SELECT 1 FROM pg_database WHERE datname = '{TEMPLATE}'")):
                self._run(f"CREATE DATABASE {TEMPLATE}")
                _migrate(self.server.url_of(TEMPLATE))
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        for used in self._spare:
            used.close()
        self._open.close()

    @contextmanager
    def migrated(self) -> Iterator[str]:
        """Empty the database that was used last, or copy the migrated one; a copy takes ten times as long."""
        used = self._spare.pop() if self._spare else UsedDatabase(self.server, self._copy(TEMPLATE))
        yield self.server.url_of(used.name)
        if used.is_emptied():
            self._spare.append(used)
        else:
            used.close()
            self._run(f"DROP DATABASE {used.name} WITH (FORCE)")

    def empty(self, options: str = "") -> AbstractContextManager[str]:
        """Make an empty database, with options of CREATE DATABASE."""
        return self._copied("template0", options)

    def copy(self, url: str) -> AbstractContextManager[str]:
        """Copy a database of this server, to which nobody is connected."""
        return self._copied(str(sa.make_url(url).database))

    @contextmanager
    def _copied(self, template: str, options: str = "") -> Iterator[str]:
        name = self._copy(template, options)
        yield self.server.url_of(name)
        self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _copy(self, template: str, options: str = "") -> str:
        name = f"test_{os.getpid()}_{id(self)}_{next(self._numbers)}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY {options}")
        return name

    def _run(self, statement: str) -> None:
        self._connection.execute(sa.text(statement))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresDatabases]:
    """Return the databases of a real server, which all workers of pytest-xdist share; a `conftest.py` imports it."""
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    try:
        with PostgresDatabases(common / "postgres") as databases:
            yield databases
    except CannotRun as error:
        pytest.skip(str(error))


def _engine(url: str) -> sa.Engine:
    return sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")


def _migrate(url: str) -> None:
    database = Database.open(url, fsync=False)
    database.migrate()
    database.close()
