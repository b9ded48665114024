"""While Postgres is stopped, killed or silent, the gateway goes on serving, and every record is stored afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.client import Load
from tests.faults.conftest import Note
from tests.faults.scene import Scene
from tests.faults.test_database import BOUND_S, health_becomes, p99_s
from tests.postgres_server import CannotRun, PostgresServer, new_cluster

STOPPED_QUICK_S, STOPPED_LONG_S = 2.5, 600.0
SILENT_QUICK_S, SILENT_LONG_S = 2.0, 30.0
NOTICED_S = 10.0
"""Maximum seconds until the health check tells: a silent server is given up after 2 s, while connecting after 5."""


class RunningServer:
    """A server that can be killed, started again, stopped with all its processes, and continued."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.url = server.url
        self._pid = server.start()

    def kill(self) -> None:
        """End it at once, as at a crash, whatever state it is in."""
        self.signal(signal.SIGCONT)
        self._server.stop(self._pid)

    def start(self) -> None:
        self._pid = self._server.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and each of its processes."""
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
        for pid in (self._pid, *map(int, children)):
            with suppress(ProcessLookupError):  # a connection has just ended
                os.kill(pid, number)


@pytest.fixture
def postgres() -> Iterator[RunningServer]:
    try:
        server = new_cluster()
    except CannotRun as error:
        pytest.skip(str(error))
    running = RunningServer(server)
    yield running
    running.kill()
    shutil.rmtree(server.directory)


@pytest.mark.fault("Postgres gone, or silent", "SIGQUIT and a later start; SIGSTOP of its processes; load meanwhile")
async def test_requests_are_served_and_recorded_while_postgres_is_away(
    scene: Scene, postgres: RunningServer, note: Note, long: bool
) -> None:
    stopped_s, silent_s = (STOPPED_LONG_S, SILENT_LONG_S) if long else (STOPPED_QUICK_S, SILENT_QUICK_S)
    scene = replace(scene, url=postgres.url)
    with scene.gateway() as gateway:
        scene.providers(gateway, "slow-5", "slow-20")
        load = Load(clients=4 if long else 2)
        load.start(gateway.port)
        await asyncio.sleep(1)
        before = len(load.answers)
        postgres.kill()
        await health_becomes(gateway, "unavailable", NOTICED_S)
        await asyncio.sleep(stopped_s)
        postgres.start()
        await health_becomes(gateway, "ok", NOTICED_S)
        postgres.signal(signal.SIGSTOP)
        await health_becomes(gateway, "unavailable", NOTICED_S)
        await asyncio.sleep(silent_s)
        postgres.signal(signal.SIGCONT)
        await health_becomes(gateway, "ok", NOTICED_S)
        during = load.answers[before:]
        load.stop()
        await load.done()
        assert load.statuses.keys() == {200}, load.statuses
        assert not load.broken
        slower = p99_s(during) - p99_s(load.answers[:before])
        assert slower < BOUND_S
        ledger = await asyncio.to_thread(scene.check, gateway, load)
        assert ledger.count("ok") == len(load.answers)
    note(
        f"gone for {stopped_s:.0f} s, silent for {silent_s:.0f} s, {len(load.answers)} requests: 0 failed, all "
        f"recorded; p99 {p99_s(load.answers[:before]) * 1000:.0f} ms before, {p99_s(during) * 1000:.0f} ms meanwhile"
    )
