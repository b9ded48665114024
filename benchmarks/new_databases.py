"""A new and empty database for each run of the benchmark `shipping`: a SQLite file, or one of a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import sqlalchemy as sa

from benchmarks.measured_databases import PostgresCluster, SqliteFile


class NewDatabase(NamedTuple):
    """URL of an empty database, and the process id of its server, 0 without one."""

    url: str
    server_pid: int = 0


class NewDatabases(Protocol):
    """Where each run gets a database of its own."""

    about: str

    def new(self, folder: Path) -> AbstractContextManager[NewDatabase]:
        """Make a database, in `folder` if it is a file; it is deleted when the block ends."""


class SqliteFiles:
    """Files of SQLite, each in the folder of its run."""

    about = SqliteFile.about

    @contextmanager
    def new(self, folder: Path) -> Iterator[NewDatabase]:
        """Return the URL of a file that does not exist yet; whoever made the folder deletes it."""
        yield NewDatabase(f"sqlite:///{folder / 'gateway.db'}")


class PostgresDatabases:
    """Databases of one PostgreSQL server."""

    about = PostgresCluster.about

    def __init__(self, url: str, server_pid: int) -> None:
        self._url = sa.make_url(url)
        self._server_pid = server_pid
        self._engine = sa.create_engine(
            self._url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )
        self._made = 0

    @contextmanager
    def new(self, folder: Path) -> Iterator[NewDatabase]:
        """Create a database in the server, and drop it when the block ends."""
        del folder
        self._made += 1
        name = f"run_{self._made}"
        self._run(f"CREATE DATABASE {name}")
        self._run("CHECKPOINT")  # what earlier runs left to write is no part of this one
        yield NewDatabase(self._url.set(database=name).render_as_string(), self._server_pid)
        self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _run(self, text: str) -> None:
        with self._engine.connect() as connection:
            connection.exec_driver_sql(text)


@contextmanager
def sqlite_files(folder: Path) -> Iterator[NewDatabases]:
    """Start nothing: SQLite works in the process that is measured."""
    del folder
    yield SqliteFiles()


@contextmanager
def postgres_databases(folder: Path) -> Iterator[NewDatabases]:
    """Start a server in `folder`, and stop it when the block ends.

    Raises:
        CannotRun: it does not start.
    """
    with closing(PostgresCluster(folder)) as cluster:
        yield PostgresDatabases(cluster.start(), cluster.pid)


DATABASES: Mapping[str, Callable[[Path], AbstractContextManager[NewDatabases]]] = {
    "sqlite": sqlite_files,
    "postgres": postgres_databases,
}
