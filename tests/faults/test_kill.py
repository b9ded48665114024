"""Kill the gateway (SIGKILL) at random moments, again and again: the usage records stay exact."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.e2e.process import GatewayProcess
from tests.faults.client import Load
from tests.faults.conftest import Note
from tests.faults.scene import Scene

QUICK_CLIENTS, LONG_CLIENTS = 12, 24
QUICK_ROUNDS, LONG_ROUNDS = 4, 100
LONGEST_LIFE_S = 1.0
LONGEST_START_S = 0.5


@pytest.mark.fault(
    "kill -9 at random moments under load", "SIGKILL, the next start on the same data; each round another fsync policy"
)
async def test_a_kill_under_load_loses_no_call_and_counts_none_twice(scene: Scene, note: Note, long: bool) -> None:
    """Each round uses another fsync policy; before every fourth, a gateway is killed while it starts and replays."""
    gateways = [scene.gateway(journal_fsync=policy) for policy in ("always", "interval", "off")]
    load = Load(clients=LONG_CLIENTS if long else QUICK_CLIENTS)
    rounds = LONG_ROUNDS if long else QUICK_ROUNDS
    starts_killed = 0
    with gateways[0] as gateway:
        scene.providers(gateway, "slow-5", "slow-30", "slow-10+flaky-9+status-500")
        gateway.kill()
    for number in range(rounds):
        gateway = gateways[number % 3]
        if number % 4 == 3:
            gateway.launch()
            await asyncio.sleep(random.uniform(0, LONGEST_START_S))
            gateway.kill()
            starts_killed += 1
        with gateway:
            load.start(gateway.port)
            await asyncio.sleep(random.uniform(0.05, LONGEST_LIFE_S))
            gateway.kill()
            await load.done()
    with gateways[0] as gateway:
        ledger = scene.check(gateway, load)
    assert load.statuses.keys() <= {200}, load.statuses
    assert load.statuses[200] > 10 * rounds
    note(
        f"{rounds} kills under load and {starts_killed} in a start, {sum(load.sent.values())} requests, "
        f"{len(scene.bills)} calls billed, {load.statuses[200]} answers read, {len(ledger.rows)} records "
        f"({ledger.count('cancelled')} cut off): 0 calls and 0 answers without a record, 0 counted twice, "
        "rollups = records"
    )


@pytest.mark.fault("kill -9 in the very first start", "SIGKILL at random moments, then a start on what it left")
async def test_a_gateway_killed_in_its_first_start_can_be_started_again(scene: Scene, note: Note, long: bool) -> None:
    """It is killed while it creates its database, key or journal."""
    kills = 40 if long else 3
    for number in range(kills):
        gateway = GatewayProcess(scene.directory, data_dir=f"data-{number}")
        gateway.launch()
        await asyncio.sleep(random.uniform(0, LONGEST_START_S))
        gateway.kill()
        if long or number % 2:
            with gateway:
                scene.providers(gateway, "ok")
                assert gateway.ask().status == 200
                assert gateway.summary()["total_requests"] == 1
    note(f"{kills} kills: every start after one came up and served")
