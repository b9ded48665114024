"""SIGTERM under load: every accepted request is answered, and the gateway exits with 0."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.faults.client import Load
from tests.faults.conftest import Note
from tests.faults.scene import Scene

QUICK, LONG = 2, 20
ACCEPT_S = 1.0
NOTICED_S = 0.6
"""Seconds after which a load balancer has noticed that the gateway is not ready, and sends no more requests."""


@pytest.mark.fault("SIGTERM under load", "clients stop within the accepting time; half of the calls take 0.9 s")
async def test_stopping_under_load_answers_every_accepted_request(scene: Scene, note: Note, long: bool) -> None:
    load = Load()
    rounds = LONG if long else QUICK
    slowest = 0.0
    for number in range(rounds):
        with scene.gateway(accept_seconds=ACCEPT_S, drain_seconds=20) as gateway:
            if not number:
                scene.providers(gateway, "slow-5", "slow-900")
            load.start(gateway.port)
            await asyncio.sleep(0.4)
            before = len(load.answers)
            gateway.process.terminate()
            asked = time.monotonic()
            await asyncio.sleep(NOTICED_S)
            load.stop()
            await load.done()
            assert len(load.answers) > before
            assert await asyncio.to_thread(gateway.ended) == 0, gateway.log
            slowest = max(slowest, time.monotonic() - asked)
            assert '"event": "stopped"' in gateway.log
    assert not load.broken, load.broken
    assert load.statuses.keys() == {200}, load.statuses
    with scene.gateway() as gateway:
        ledger = scene.check(gateway, load)
        assert ledger.count("ok") == len(load.answers)
        assert "usage journal replayed" not in gateway.log
    note(f"{rounds} stops, {len(load.answers)} requests: 0 client errors, the slowest stop took {slowest:.1f} s")
