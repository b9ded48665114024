"""Several hosts on one Postgres behind a balancer: restarts nobody notices, and a lost host whose journal is moved."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.databases import PostgresDatabases, postgres
from tests.e2e.process import GatewayProcess
from tests.faults.balancer import Balancer
from tests.faults.client import Load
from tests.faults.conftest import Note
from tests.faults.scene import Scene

__all__ = ["postgres"]

KEYS = {
    "encryption_keys": "00112233445566778899aabbccddeeff" * 2,
    "key_peppers": "1:0123456789abcdefghijklmnopqrstuvwxyz",
}
HOSTS, RESTARTS = 3, 17
"""Hosts, and restarts of each."""
LOST_S = 0.3


@pytest.fixture
def hosts(scene: Scene, postgres: PostgresDatabases, long: bool) -> Iterator[list[Scene]]:
    if not long:
        pytest.skip("with --long only; tests/control/test_shared_configuration.py has two hosts in one process")
    with postgres.migrated() as url:
        directories = [scene.directory / f"host-{number}" for number in range(HOSTS)]
        for directory in directories:
            directory.mkdir()
        yield [replace(scene, directory=directory, url=url) for directory in directories]


async def started(gateway: GatewayProcess) -> GatewayProcess:
    gateway.launch()
    await asyncio.to_thread(gateway.wait_until_ready)
    return gateway


@pytest.mark.fault(
    "hosts restarted one by one, one lost", "SIGTERM behind a balancer under load; SIGKILL, directory moved"
)
async def test_restarts_of_hosts_are_not_noticed_and_a_lost_one_loses_nothing(hosts: list[Scene], note: Note) -> None:
    gateways = [host.gateway(accept_seconds=0.6, drain_seconds=20, **KEYS) for host in hosts]
    rolling, lossy = Load(clients=8), Load(clients=4, name="lossy", reconnects=True)
    try:
        await asyncio.gather(*map(started, gateways))
        hosts[0].providers(gateways[0], "slow-5", "slow-20")
        async with Balancer([gateway.port for gateway in gateways]) as balancer:
            await balancer.sees(len(gateways))
            rolling.start(balancer.port)
            for gateway in gateways * RESTARTS:
                await asyncio.sleep(0.2)
                assert await asyncio.to_thread(gateway.stop) == 0, gateway.log
                await started(gateway)
                await balancer.sees(len(gateways))
            rolling.stop()
            await rolling.done()
            lossy.start(balancer.port)
            await asyncio.sleep(LOST_S)
            await asyncio.to_thread(gateways[-1].kill)
            await asyncio.sleep(LOST_S)
            lossy.stop()
            await lossy.done()
        moved = replace(hosts[-1], directory=hosts[-1].directory.with_name("moved"))
        hosts[-1].directory.rename(moved.directory)
        gateways[-1] = await started(moved.gateway(**KEYS))
        assert all(await asyncio.gather(*(asyncio.to_thread(gateway.call, "GET", "/readyz") for gateway in gateways)))
        for gateway in gateways[:-1]:
            assert await asyncio.to_thread(gateway.stop) == 0, gateway.log
        ledger = await asyncio.to_thread(moved.check, gateways[-1], rolling, lossy)
    finally:
        for gateway in gateways:
            gateway.stop()
    assert not rolling.broken, rolling.broken
    assert rolling.statuses.keys() == {200}, rolling.statuses
    note(
        f"{HOSTS * RESTARTS} restarts of {HOSTS} hosts, {len(rolling.answers)} requests: 0 client errors; "
        f"one killed, {len(lossy.broken)} cut off, {len(ledger.rows)} records: none lost, none twice"
    )
