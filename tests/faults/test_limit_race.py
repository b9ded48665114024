"""Load far above a provider's limit, with kills in between: the provider never sees more in any 60 seconds."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time

import pytest

from tests.faults.client import Load
from tests.faults.conftest import Note
from tests.faults.scene import Scene, windows
from tests.waiting import until

LIMIT = 300
QUICK_S, LONG_S = 0.3, 130.0
WINDOW_S = 60.0
ASKED = 5
"""Minimum of the load, as a multiple of the limit."""
CLIENTS = 20


async def load_for(load: Load, port: int, seconds: float) -> None:
    load.start(port)
    await asyncio.sleep(seconds)


@pytest.mark.fault(
    "far more than a provider's limit",
    "clients that ask without a pause; SIGKILL and a start in between; at the mock: every 60 seconds there are",
)
async def test_a_provider_never_gets_more_than_its_limit_in_any_60_seconds(
    scene: Scene, note: Note, long: bool
) -> None:
    """In the long form kills happen anywhere in the 60 seconds; the quick form covers only the first seconds."""
    load = Load(clients=CLIENTS)
    with scene.gateway(cache_ttl_seconds=0, max_queue_seconds=0) as gateway:
        scene.providers(gateway, "slow-20", rate_limit_rpm=LIMIT)
        started = time.monotonic()
        await load_for(load, gateway.port, random.uniform(0, 0.15))
        gateway.kill()
        await load.done()
    kills = 1
    ends = started + (LONG_S if long else 0)
    while time.monotonic() < ends:
        with scene.gateway(cache_ttl_seconds=0, max_queue_seconds=0) as gateway:
            await load_for(load, gateway.port, random.uniform(5, 30))
            gateway.kill()
            await load.done()
            kills += 1
    with scene.gateway(cache_ttl_seconds=0, max_queue_seconds=0) as gateway:
        await load_for(load, gateway.port, QUICK_S)
        await until(lambda: sum(load.sent.values()) >= ASKED * LIMIT, WINDOW_S / 2)
        load.stop()
        await load.done()
        seconds = time.monotonic() - started
        ledger = await asyncio.to_thread(scene.check, gateway, load)
    most = windows(bill.time for bill in scene.bills)
    assert most <= LIMIT
    # Calls that were killed between their intent and sending count, too: at most one per client and kill.
    possible = LIMIT * (1 + int(seconds / 62))
    assert len(scene.bills) + ledger.count("cancelled") >= 0.97 * possible
    assert sum(load.sent.values()) >= ASKED * possible
    note(
        f"{kills} kills, {sum(load.sent.values())} requests in {seconds:.0f} s at a limit of {LIMIT}: "
        f"at most {most} in any 60 s, {len(scene.bills)} of {possible} possible calls made "
        f"and {ledger.count('cancelled')} cut off by the kills"
    )


@pytest.mark.fault(
    "a killed worker at a provider's limit", "SIGKILL of the worker alone, clients connect again; at the mock: as above"
)
@pytest.mark.parametrize("workers", [1, 2], ids=["one worker", "two workers"])
async def test_a_worker_that_replaces_a_killed_one_counts_its_calls(
    scene: Scene, note: Note, long: bool, workers: int
) -> None:
    """A single worker is told of the calls in the journal that the killed one left; several count in shared memory."""
    load = Load(clients=CLIENTS, reconnects=True)
    rounds = 10 if long else 3
    with scene.gateway(cache_ttl_seconds=0, max_queue_seconds=0, workers=workers) as gateway:
        scene.providers(gateway, "slow-20", rate_limit_rpm=LIMIT)
        started = time.monotonic()
        load.start(gateway.port)
        for _ in range(rounds):
            await asyncio.sleep(random.uniform(0, 0.15))
            os.kill(random.choice(gateway.worker_pids), signal.SIGKILL)
            answered = len(load.answers)
            await until(lambda answered=answered: len(load.answers) > answered, WINDOW_S / 2)  # type: ignore[misc]
        await asyncio.sleep(QUICK_S)
        await until(lambda: sum(load.sent.values()) >= ASKED * LIMIT, WINDOW_S / 2)
        load.stop()
        await load.done()
        seconds = time.monotonic() - started
        ledger = await asyncio.to_thread(scene.check, gateway, load)
    most = windows(bill.time for bill in scene.bills)
    assert most <= LIMIT
    assert len(scene.bills) + ledger.count("cancelled") >= 0.97 * LIMIT
    note(
        f"{rounds} kills, {sum(load.sent.values())} requests in {seconds:.0f} s at a limit of {LIMIT}: at most {most} "
        f"in any 60 s, and {ledger.count('cancelled')} cut off by the kills"
    )
