"""What the API's tests share: the whole gateway in this process, with a mock vendor behind it."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import structlog

from llm_gateway.app import Application
from llm_gateway.settings import Settings
from llm_gateway.store.database import Database
from tests.api.driver import Client, lifespan
from tests.upstream import MockUpstream

Start: TypeAlias = Callable[..., AbstractAsyncContextManager[Application]]


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the environment or of a .env file gets into the tests."""
    for name in [name for name in os.environ if name.upper().startswith("LLM_GATEWAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Logging is set up once a process; every test leaves it as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("api") / "gateway.db"
    database = Database.open(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture
def data_dir(migrated: Path, tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    shutil.copy(migrated, path / "gateway.db")
    return path


@pytest.fixture
def start(data_dir: Path) -> Start:
    """Starts the gateway, with settings of the test's own."""

    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[Application]:
        app = Application(Settings(data_dir=data_dir, local_model="false", **settings))
        with app.log_writer:
            async with lifespan(app):
                yield app

    return start


@pytest.fixture
async def app(start: Start) -> AsyncIterator[Application]:
    async with start() as running:
        yield running


@pytest.fixture
def client(app: Application) -> Client:
    return Client(app)


@pytest.fixture
async def mock() -> AsyncIterator[MockUpstream]:
    async with MockUpstream() as running:
        yield running
