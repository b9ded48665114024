"""Fixtures: the gateway's application in the test process, as tests/control has it."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.application.driver import Client
from tests.application.fixtures import (
    app,
    client,
    data_dir,
    isolate,
    logging_restored,
    migrated,
    mock,
    own_logging,
    own_settings,
    reader,
    running,
    start,
)

__all__ = ["app", "client", "data_dir", "migrated", "mock", "own_logging", "own_settings", "reader", "start"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """Return a client of a gateway that the tests of a module share: each has names of its own for what it makes."""
    directory = tmp_path_factory.mktemp("shared")
    shutil.copy(migrated, directory / "gateway.db")
    with pytest.MonkeyPatch.context() as patch, logging_restored():
        isolate(patch, directory)
        async with running(directory, log_level="error") as app:
            yield Client(app)
