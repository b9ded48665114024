"""Fixtures: databases for single tests.

`database` runs a test on SQLite and on Postgres. A test of what only one of them has asks for `sqlite_database` or
`postgres_database`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm_gateway.store.database import Database
from llm_gateway.store.secrets import SecretBox
from tests.databases import Databases, PostgresDatabases, SqliteDatabases, postgres

__all__ = ["postgres"]

BUSY_TIMEOUT_S = 0.2


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> SqliteDatabases:
    return SqliteDatabases(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def databases(request: pytest.FixtureRequest) -> Databases:
    """Return a maker of databases of each kind."""
    found: Databases = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def long_on_postgres(request: pytest.FixtureRequest, databases: Databases) -> None:
    """Run a test that takes seconds on Postgres with `--long` only; there, another one shows nearly the same."""
    if isinstance(databases, PostgresDatabases) and not request.config.getoption("--long"):
        pytest.skip("on Postgres, it runs with --long only")


@pytest.fixture
def url(databases: Databases) -> Iterator[str]:
    """Return the URL of a migrated database."""
    with databases.migrated() as url:
        yield url


@pytest.fixture
def empty_url(databases: Databases) -> Iterator[str]:
    """Return the URL of a database without tables."""
    with databases.empty() as url:
        yield url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with opened(url, BUSY_TIMEOUT_S) as database:
        yield database


@pytest.fixture(scope="module")
def shared_sqlite(sqlite: SqliteDatabases) -> Iterator[Database]:
    with sqlite.migrated() as url, opened(url) as database:
        yield database


@pytest.fixture(scope="module")
def shared_postgres(postgres: PostgresDatabases) -> Iterator[Database]:
    with postgres.migrated() as url, opened(url) as database:
        yield database


@pytest.fixture
def database_file(sqlite: SqliteDatabases, tmp_path: Path) -> Path:
    with sqlite.migrated() as url:
        return Path(shutil.copy(url.removeprefix("sqlite:///"), tmp_path / "gateway.db"))


@pytest.fixture
def sqlite_database(database_file: Path) -> Iterator[Database]:
    with opened(f"sqlite:///{database_file}", BUSY_TIMEOUT_S) as database:
        yield database


@pytest.fixture
def postgres_url(postgres: PostgresDatabases) -> Iterator[str]:
    with postgres.migrated() as url:
        yield url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[Database]:
    with opened(postgres_url, BUSY_TIMEOUT_S) as database:
        yield database


@contextmanager
def opened(url: str, busy_timeout_s: float = 5.0) -> Iterator[Database]:
    database = Database.open(url, busy_timeout_s=busy_timeout_s, fsync=False)
    try:
        yield database
    finally:
        database.close()


@pytest.fixture
def box() -> SecretBox:
    return SecretBox([b"k" * 32])
