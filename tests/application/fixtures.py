"""Fixtures of the API's tests: the whole gateway in this process, with a mock vendor behind it."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import pytest_asyncio

from llm_gateway.settings import Settings
from tests.application.driver import Client, lifespan
from tests.e2e.process import migrated_database
from tests.in_one_loop import GatewayInOneLoop
from tests.upstream import MockUpstream

Start: TypeAlias = Callable[..., AbstractAsyncContextManager[GatewayInOneLoop]]


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the environment and .env files out of the tests."""
    isolate(monkeypatch, tmp_path)


def isolate(patch: pytest.MonkeyPatch, directory: Path) -> None:
    for name in [name for name in os.environ if name.upper().startswith("LLM_GATEWAY_")]:
        patch.delenv(name)
    patch.chdir(directory)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Restore the process's logging after each test."""
    with logging_restored():
        yield


@contextmanager
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("api") / "gateway.db"
    path.write_bytes(migrated_database())
    return path


@pytest.fixture
def data_dir(migrated: Path, tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    shutil.copy(migrated, path / "gateway.db")
    return path


@pytest.fixture
def start(data_dir: Path) -> Start:
    """Return a function that starts the gateway with the test's settings."""
    return partial(running, data_dir)


@asynccontextmanager
async def running(data_dir: Path, **settings: Any) -> AsyncIterator[GatewayInOneLoop]:
    """Run a gateway. Its journal is not synced: no such test ends the machine, and 16 MiB are written for the syncs."""
    app = GatewayInOneLoop(Settings(data_dir=data_dir, **{"local_model": "false", "journal_fsync": "off", **settings}))
    with app.log_writer:
        async with lifespan(app):
            yield app


@pytest.fixture
async def app(start: Start) -> AsyncIterator[GatewayInOneLoop]:
    async with start() as running:
        yield running


@pytest.fixture
def client(app: GatewayInOneLoop) -> Client:
    return Client(app)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """Return a client of a gateway that the tests of a module share: without providers, for READS_ONLY tests."""
    directory = tmp_path_factory.mktemp("reader")
    shutil.copy(migrated, directory / "gateway.db")
    with pytest.MonkeyPatch.context() as patch, logging_restored():
        isolate(patch, directory)
        async with running(directory, log_level="error") as app:  # its log lines belong to no test
            yield Client(app)


@pytest.fixture
async def mock() -> AsyncIterator[MockUpstream]:
    async with MockUpstream() as running:
        yield running
