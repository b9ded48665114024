"""Many who ask the same at once, two equal providers: one upstream call."""

from __future__ import annotations

import asyncio

from tests.faults.client import Answer, Client
from tests.faults.conftest import Note
from tests.faults.scene import Scene

CLIENTS = 200


async def test_single_flight(scene: Scene, note: Note) -> None:
    with scene.gateway() as gateway:
        scene.providers(gateway, "slow-700", "slow-700")
        clients = [Client(gateway.port) for _ in range(CLIENTS)]
        for client in clients:
            await client.connect()

        async def ask(client: Client) -> Answer:
            answer = await client.generate("one.same", "one")
            client.close()
            return answer

        answers = await asyncio.gather(*(ask(client) for client in clients))
        assert {answer.status for answer in answers} == {200}
        assert len(scene.bills) == 1
        assert len({answer.json["content"] for answer in answers}) == 1
        assert sum(not answer.json["cached"] for answer in answers) == 1
        assert sum(answer.json["cost_usd"] > 0 for answer in answers) == 1
        ledger = await asyncio.to_thread(scene.books, gateway)
        assert (ledger.count("ok"), ledger.count("cached")) == (1, CLIENTS - 1)
    note(f"{CLIENTS} requests, {len(scene.bills)} upstream call")
