"""Slowloris: clients that send half a request and then nothing do not slow other clients down."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.e2e.process import GatewayProcess
from tests.faults.client import Client, Load
from tests.faults.conftest import Note
from tests.faults.scene import Scene

QUICK, LONG = 300, 2_000
MEASURE_QUICK_S, MEASURE_LONG_S = 1.0, 8.0
HALF = b"POST /api/v1/generate HTTP/1.1\r\nhost: localhost\r\nx-service-key: dev-gate"


async def p99(gateway: GatewayProcess, seconds: float, name: str) -> float:
    """Return the p99 latency in seconds of requests that must all succeed."""
    load = Load(clients=8, name=name)
    load.start(gateway.port)
    await asyncio.sleep(seconds)
    load.stop()
    await load.done()
    assert not load.broken
    assert load.statuses.keys() == {200}
    times = sorted(answer.seconds for answer in load.answers)
    return times[int(len(times) * 0.99)]


@pytest.mark.fault("slowloris", "connections that send half a head and then nothing, beside clients that ask")
async def test_half_sent_requests_do_not_slow_other_clients(scene: Scene, note: Note, long: bool) -> None:
    count, seconds = (LONG, MEASURE_LONG_S) if long else (QUICK, MEASURE_QUICK_S)
    with scene.gateway(log_level="warning") as gateway:
        scene.providers(gateway, "slow-5")
        await p99(gateway, 0.3, "warm")
        alone = await p99(gateway, seconds, "alone")
        half_open = [Client(gateway.port) for _ in range(count)]
        opened = time.monotonic()
        for client in half_open:
            await client.send(HALF)
        beside = await p99(gateway, seconds, "beside")
        if long:
            assert beside <= 2 * alone, (alone, beside)
            for client in half_open:  # each gets an answer after the header timeout
                answer = await asyncio.wait_for(client.read(), 20)
                assert answer.status == 408
        lasted = time.monotonic() - opened
        for client in half_open:
            client.close()
        await asyncio.sleep(0.2)  # closes the clients before the gateway stops
    told = f", each told 408 within {lasted:.0f} s" if long else ""
    note(f"{count} half-open{told}: p99 of others {alone * 1000:.1f} ms alone, {beside * 1000:.1f} ms beside")
