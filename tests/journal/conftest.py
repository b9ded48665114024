"""Fixtures for tests of the journal writer on a failing disk and of the shipper."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from llm_gateway.journal.shipper import Shipper
from llm_gateway.journal.writer import Fsync, JournalWriter
from tests.journal.disk import Open
from tests.journal.samples import Database, FailingFileSystem, Heard
from tests.journal.shipping import Journal


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run these tests on the gateway's event loop, whose C threads sync the journal."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(params=["pool", "thread"])
def files(request: pytest.FixtureRequest) -> FailingFileSystem:
    return FailingFileSystem(in_pool=request.param == "pool")


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def open_writer(tmp_path: Path, files: FailingFileSystem, heard: Heard) -> AsyncIterator[Open]:
    """Return a function that opens writers with small segments; failures end before they are closed."""
    writers: list[JournalWriter] = []

    def open_(fsync: Fsync = "always", **options: Any) -> JournalWriter:
        options = {"segment_bytes": 100_000, "reserve_bytes": 1000} | options
        writers.append(JournalWriter.open(tmp_path, fsync=fsync, files=files, log=heard, **options))
        return writers[-1]

    yield open_
    files.fails.clear()
    for writer in writers:
        await writer.sync_and_close()
        writer.directory.close()
    assert files.open_fds == set()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal" / "writer")
    yield journal
    journal.crash()


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def shipper(journal: Journal, database: Database, heard: Heard) -> Iterator[Shipper]:
    shipper = Shipper(journal.root, database, log=heard)
    shipper.start()
    yield shipper
    database.is_down = None
    shipper.stop(5)
