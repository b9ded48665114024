"""Identical concurrent requests with two equal providers make one upstream call in each worker."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.process import GatewayProcess
from tests.faults.client import Answer, Client
from tests.faults.conftest import Note
from tests.faults.scene import Scene

CLIENTS = 200


@pytest.mark.fault("200 identical requests at once, two equal providers", "a connection each, one cache key")
async def test_200_identical_requests_make_one_upstream_call_a_worker(scene: Scene, note: Note, long: bool) -> None:
    rounds, called = 10 if long else 1, 0
    with scene.gateway() as gateway:
        scene.providers(gateway, "slow-700", "slow-700", rate_limit_rpm=1_000)
        for number in range(rounds):
            answers = await all_at_once(gateway, f"one.same{number}")
            assert {answer.status for answer in answers} == {200}
            calls = len(scene.bills) - called
            called += calls
            assert 1 <= calls <= scene.workers
            assert len({answer.json["content"] for answer in answers}) <= calls
            assert sum(not answer.json["cached"] for answer in answers) == calls
            assert sum(answer.json["cost_usd"] > 0 for answer in answers) == calls
        ledger = await asyncio.to_thread(scene.check, gateway)
        assert (ledger.count("ok"), ledger.count("cached")) == (called, rounds * CLIENTS - called)
    note(f"{rounds} times {CLIENTS} requests: {len(scene.bills)} upstream calls")


async def all_at_once(gateway: GatewayProcess, marker: str) -> list[Answer]:
    clients = [Client(gateway.port) for _ in range(CLIENTS)]
    for client in clients:
        await client.connect()

    async def ask(client: Client) -> Answer:
        answer = await client.generate(marker, "one")
        client.close()
        return answer

    return await asyncio.gather(*(ask(client) for client in clients))
