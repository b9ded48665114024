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

from llm_gateway.store.database import Database
from tests.postgres_server import CannotRun, shared_server

TEMPLATE = "migrated"


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
        _migrate(f"sqlite:///{self._migrated}")

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


class PostgresDatabases:
    """Databases of one server that all test processes of a run share, found by their common `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = count()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Start the server if no other process has.

        Raises:
            CannotRun: PostgreSQL cannot run here.
        """
        self.server = self._open.enter_context(shared_server(self._directory))
        url = sa.make_url(self.server.url).set(drivername="postgresql+psycopg")
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
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
        self._open.close()

    def migrated(self) -> AbstractContextManager[str]:
        """Copy the migrated database."""
        return self._copied(TEMPLATE)

    def empty(self, options: str = "") -> AbstractContextManager[str]:
        """Make an empty database, with options of CREATE DATABASE."""
        return self._copied("template0", options)

    @contextmanager
    def _copied(self, template: str, options: str = "") -> Iterator[str]:
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY {options}")
        yield self.server.url_of(name)
        self._run(f"DROP DATABASE {name} WITH (FORCE)")

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


def _migrate(url: str) -> None:
    database = Database.open(url, fsync=False)
    database.migrate()
    database.close()
