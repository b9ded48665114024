"""While the database is down, the gateway goes on serving, and every record is stored afterwards."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.e2e.process import GatewayProcess
from tests.faults.client import Answer, Client, Load, http_request
from tests.faults.conftest import Note
from tests.faults.scene import Scene

LOCKED_QUICK_S, LOCKED_LONG_S = 6.0, 60.0
"""Seconds the database is locked: longer than it waits for a lock."""
MOVED_QUICK_S, MOVED_LONG_S = 2.0, 60.0
HEALTH_S = 3.0
BOUND_S = 0.25
"""Maximum increase of the p99 latency meanwhile, in seconds."""


@contextmanager
def locked(scene: Scene) -> Iterator[None]:
    with closing(sqlite3.connect(scene.data / "gateway.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


@contextmanager
def moved(scene: Scene) -> Iterator[None]:
    file, elsewhere = scene.data / "gateway.db", scene.data / "elsewhere.db"
    file.rename(elsewhere)
    yield
    elsewhere.rename(file)


def p99_s(answers: list[Answer]) -> float:
    times = sorted(answer.seconds for answer in answers)
    return times[int(len(times) * 0.99)]


async def health(gateway: GatewayProcess) -> str:
    """Return the database's state from the health check, which must answer in time."""
    client = Client(gateway.port)
    async with asyncio.timeout(HEALTH_S):
        await client.send(http_request("GET", "/api/v1/health"))
        answer = await client.read()
    client.close()
    assert answer.status == 200
    database: str = answer.json["database"]
    return database


async def health_becomes(gateway: GatewayProcess, wanted: str, within_s: float = HEALTH_S) -> None:
    """Wait until the health check reports this state: the database is checked once a second.

    Raises:
        TimeoutError: it does not report it in time.
    """
    async with asyncio.timeout(within_s):
        while await health(gateway) != wanted:  # noqa: ASYNC110 - another process must be polled
            await asyncio.sleep(0.05)


@pytest.mark.fault(
    "database locked, or gone", "another process holds a write lock; the file is moved away and back; load meanwhile"
)
@pytest.mark.parametrize("how", [locked, moved], ids=["locked", "moved"])
async def test_requests_are_served_and_recorded_while_the_database_is_down(
    scene: Scene, note: Note, long: bool, how: object
) -> None:
    is_locked = how is locked
    seconds = (LOCKED_LONG_S if long else LOCKED_QUICK_S) if is_locked else (MOVED_LONG_S if long else MOVED_QUICK_S)
    with scene.gateway() as gateway:
        scene.providers(gateway, "slow-5", "slow-20")
        load = Load(clients=16 if long else 2)
        load.start(gateway.port)
        await asyncio.sleep(1)
        before = len(load.answers)
        with locked(scene) if is_locked else moved(scene):
            await asyncio.sleep(seconds / 2)
            assert gateway.process.poll() is None, f"it ended with {gateway.process.returncode}:\n{gateway.log[-2000:]}"
            await health_becomes(gateway, "ok" if is_locked else "unavailable")  # a locked database can be read
            await asyncio.sleep(seconds / 2)
            during = load.answers[before:]
        load.stop()
        await load.done()
        assert load.statuses.keys() == {200}, load.statuses
        assert not load.broken
        slower = p99_s(during) - p99_s(load.answers[:before])
        assert slower < BOUND_S
        ledger = await asyncio.to_thread(scene.check, gateway, load)
        assert ledger.count("ok") == len(load.answers)
        await health_becomes(gateway, "ok")
    note(
        f"out for {seconds:.0f} s, {len(load.answers)} requests: 0 failed, all recorded; p99 "
        f"{p99_s(load.answers[:before]) * 1000:.0f} ms before, {p99_s(during) * 1000:.0f} ms meanwhile"
    )
