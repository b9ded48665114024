"""While Postgres is stopped, killed or silent, the gateway goes on serving, and every record is stored afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.process import GatewayProcess
from tests.faults.client import Load
from tests.faults.conftest import Note
from tests.faults.scene import PATIENCE_S, Scene
from tests.faults.test_database import BOUND_S, health_becomes, p99_s
from tests.postgres_server import CannotRun, PostgresServer, new_cluster
from tests.waiting import wait_until

STOPPED_QUICK_S, STOPPED_LONG_S = 2.5, 600.0
SILENT_QUICK_S, SILENT_LONG_S = 2.0, 30.0
LONG_HOSTS = 3
KEYS = {
    "encryption_keys": "00112233445566778899aabbccddeeff" * 2,
    "key_peppers": "1:0123456789abcdefghijklmnopqrstuvwxyz",
}
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


async def health_of_all_becomes(gateways: list[GatewayProcess], health: str) -> None:
    await asyncio.gather(*(health_becomes(gateway, health, NOTICED_S) for gateway in gateways))


def has_providers(gateway: GatewayProcess) -> bool:
    """Return whether the worker of a gateway has heard of providers."""
    body = {"user_id": "nobody", "service": "faults", "prompt": "Hello"}
    return bool(gateway.call("POST", "/api/v1/routing/explain", {"body": body}).json.get("candidates"))


def is_shipped(gateway: GatewayProcess) -> bool:
    """Return whether all that a gateway has answered is in the database."""
    return gateway.call("GET", "/api/v1/usage/summary").status == 200


@contextmanager
def started(scene: Scene, count: int) -> Iterator[list[GatewayProcess]]:
    """Start hosts on the scene's database, and wait until each has the providers."""
    with ExitStack() as stack:
        gateways = []
        for number in range(count):
            host = replace(scene, directory=scene.directory / f"host-{number}")
            host.directory.mkdir()
            gateways.append(stack.enter_context(host.gateway(**KEYS)))
        scene.providers(gateways[0], "slow-5", "slow-20")
        for gateway in gateways:
            wait_until(lambda gateway=gateway: has_providers(gateway))  # type: ignore[misc]
        yield gateways


@pytest.mark.fault("Postgres gone, or silent", "SIGQUIT and a later start; SIGSTOP of its processes; load meanwhile")
async def test_requests_are_served_and_recorded_while_postgres_is_away(
    scene: Scene, postgres: RunningServer, note: Note, long: bool
) -> None:
    """The long form has several hosts."""
    stopped_s, silent_s = (STOPPED_LONG_S, SILENT_LONG_S) if long else (STOPPED_QUICK_S, SILENT_QUICK_S)
    scene = replace(scene, url=postgres.url)
    with started(scene, LONG_HOSTS if long else 1) as gateways:
        loads = [Load(clients=2, name=f"host-{number}") for number, _ in enumerate(gateways)]
        for load, gateway in zip(loads, gateways, strict=True):
            load.start(gateway.port)
        await asyncio.sleep(1)
        before = [len(load.answers) for load in loads]
        postgres.kill()
        await health_of_all_becomes(gateways, "unavailable")
        await asyncio.sleep(stopped_s)
        postgres.start()
        await health_of_all_becomes(gateways, "ok")
        postgres.signal(signal.SIGSTOP)
        await health_of_all_becomes(gateways, "unavailable")
        await asyncio.sleep(silent_s)
        postgres.signal(signal.SIGCONT)
        await health_of_all_becomes(gateways, "ok")
        usual = [answer for load, count in zip(loads, before, strict=True) for answer in load.answers[:count]]
        during = [answer for load, count in zip(loads, before, strict=True) for answer in load.answers[count:]]
        for load in loads:
            load.stop()
            await load.done()
            assert [answer for answer in load.answers if answer.status != 200] == []
            assert not load.broken
        assert p99_s(during) - p99_s(usual) < BOUND_S
        for gateway in gateways:
            await asyncio.to_thread(wait_until, partial(is_shipped, gateway), PATIENCE_S)
        assert not [*scene.directory.glob("host-*/data/journal/quarantine.jsonl")]
        ledger = await asyncio.to_thread(scene.check, gateways[0], *loads)
        answered = sum(len(load.answers) for load in loads)
        assert ledger.count("ok") == answered
    note(
        f"{len(gateways)} hosts, gone for {stopped_s:.0f} s, silent for {silent_s:.0f} s, {answered} requests: 0 "
        f"failed, all recorded; p99 {p99_s(usual) * 1000:.0f} ms before, {p99_s(during) * 1000:.0f} ms meanwhile"
    )
