"""Fixtures: SQLite databases for single tests, copied from one that was migrated once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_gateway.store.database import Database
from llm_gateway.store.secrets import SecretBox


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "migrated.db"
    database = Database.open(f"sqlite:///{path}", fsync=False)
    database.migrate()
    database.close()
    return path


@pytest.fixture
def database_file(migrated_file: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(migrated_file, tmp_path / "gateway.db"))


@pytest.fixture
def database(database_file: Path) -> Iterator[Database]:
    database = Database.open(f"sqlite:///{database_file}", busy_timeout_s=0.2, fsync=False)
    yield database
    database.close()


@pytest.fixture(scope="module")
def shared_database(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    path = shutil.copy(migrated_file, tmp_path_factory.mktemp("shared") / "gateway.db")
    database = Database.open(f"sqlite:///{path}", fsync=False)
    yield database
    database.close()


@pytest.fixture
def box() -> SecretBox:
    return SecretBox([b"k" * 32])
