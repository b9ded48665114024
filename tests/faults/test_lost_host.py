"""A host without a disk is lost with its directory: each answer that a client read has its row in Postgres."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import count

import msgspec
import pytest
import sqlalchemy as sa

from tests.databases import PostgresDatabases, postgres
from tests.e2e.process import GatewayProcess
from tests.faults.client import BROKEN, Client, Load, http_request
from tests.faults.conftest import Note
from tests.faults.ledger import Ledger
from tests.faults.scene import Scene
from tests.waiting import wait_until

__all__ = ["postgres"]

KEYS = {
    "encryption_keys": "00112233445566778899aabbccddeeff" * 2,
    "key_peppers": "1:0123456789abcdefghijklmnopqrstuvwxyz",
}
QUICK_ROUNDS, LONG_ROUNDS = 1, 30
NOTICED_S = 10.0
HARD = {"name": "all", "limit_requests": 10**6}
PATH = "/v1/chat/completions"
CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name AND application_name = 'llm-gateway'"
)


class Streams:
    """Clients that read streams one after the other; `read` has the ids of those that they read to the end."""

    def __init__(self, clients: int) -> None:
        self.read: list[str] = []
        self._clients = clients
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, port: int) -> None:
        self._tasks = [asyncio.create_task(self._run(port, f"{number}")) for number in range(self._clients)]

    async def done(self) -> None:
        """Wait until the gateway is gone."""
        await asyncio.gather(*self._tasks)

    async def _run(self, port: int, name: str) -> None:
        with suppress(*BROKEN):
            for number in count():
                self.read.append(await read_stream(port, f"{name} {number} {random.random()}"))


async def read_stream(port: int, prompt: str) -> str:
    """Read a stream to its end, and return the id of its request."""
    messages = [{"role": "user", "content": prompt}]
    body = msgspec.json.encode({"model": "auto", "stream": True, "max_tokens": 10, "messages": messages})
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(http_request("POST", PATH, body, cache_control="no-store"))
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 200"), head
        await reader.readuntil(b"data: [DONE]")
    finally:
        writer.close()
    return head.partition("x-request-id: ")[2].partition("\r\n")[0]


@contextmanager
def away(url: str) -> Iterator[None]:
    """End all connections to a database of the test's server, and refuse new ones meanwhile."""
    parsed = sa.make_url(url)
    engine = sa.create_engine(parsed.set(drivername="postgresql+psycopg", database="postgres"), poolclass=sa.NullPool)
    with closing(engine.connect().execution_options(isolation_level="AUTOCOMMIT")) as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{parsed.database}" ALLOW_CONNECTIONS false')
        connection.execute(sa.text(CUT), {"name": parsed.database})
        try:
            yield
        finally:
            connection.exec_driver_sql(f'ALTER DATABASE "{parsed.database}" ALLOW_CONNECTIONS true')


async def readiness_becomes(gateway: GatewayProcess, status: int) -> None:
    await asyncio.to_thread(wait_until, lambda: gateway.call("GET", "/readyz").status == status, NOTICED_S)


async def metrics(gateway: GatewayProcess) -> list[str]:
    return (await asyncio.to_thread(gateway.call, "GET", "/metrics")).body.decode().splitlines()


async def refuses_calls_without_the_database(scene: Scene, gateway: GatewayProcess) -> None:
    """Take the database away: no call is made, and calls are made again once it is back."""
    with away(scene.url or ""):
        await readiness_becomes(gateway, 503)
        bills, client = len(scene.bills), Client(gateway.port)
        refused = await client.generate("away.1", "away")
        client.close()
        assert (refused.status, refused.code) == (503, "journal_unavailable"), refused.body
        assert refused.headers["retry-after"] == "5"
        assert len(scene.bills) == bills
        assert 'llm_gateway_database_stores_usage{worker="1"} 0.0' in await metrics(gateway)
    await readiness_becomes(gateway, 200)
    assert "llm_gateway_uncommitted_answers_total 0.0" in await metrics(gateway)


async def serves_its_budgets(gateway: GatewayProcess) -> None:
    """Check that a start on an empty directory is the same host, which has what it leased of hard budgets."""
    assert len(gateway.call("GET", "/api/v1/hosts").json["hosts"]) == 1
    client = Client(gateway.port)
    answers = [await client.generate(f"after.{number}", "after") for number in range(3)]
    client.close()
    assert [each.status for each in answers] == [200] * 3, answers[0].body


@pytest.mark.fault(
    "a host without a disk is lost", "SIGKILL under load, its data directory deleted; LLM_GATEWAY_JOURNAL=database"
)
async def test_each_answer_of_a_lost_host_is_in_the_database(
    scene: Scene, postgres: PostgresDatabases, note: Note, long: bool
) -> None:
    load, streams = Load(clients=8), Streams(clients=4)
    with postgres.migrated() as url:
        scene = replace(scene, url=url)
        gateway = scene.gateway(journal="database", **KEYS)
        for number in range(LONG_ROUNDS if long else QUICK_ROUNDS):
            with gateway:
                if not number:
                    scene.providers(gateway, "slow-5", "slow-20")
                    assert gateway.call("POST", "/api/v1/budgets", HARD).status == 201
                    await refuses_calls_without_the_database(scene, gateway)
                load.start(gateway.port)
                streams.start(gateway.port)
                await asyncio.sleep(random.uniform(0.2, 1))
                await asyncio.to_thread(gateway.kill)
                await asyncio.gather(load.done(), streams.done())
            shutil.rmtree(scene.data)
        with gateway:
            await serves_its_budgets(gateway)
        ledger = Ledger(scene.data, url)
    ledger.check_sums()
    assert load.statuses.keys() == {200}, load.statuses
    assert ledger.check_answers(load.answers, scene.bills) == len(load.answers)
    assert load.answers
    assert streams.read
    missing = [each for each in streams.read if each not in ledger.by_id or ledger.by_id[each].outcome != "ok"]
    assert not missing, missing
    note(
        f"{LONG_ROUNDS if long else QUICK_ROUNDS} hosts lost with their directories, {len(load.answers)} answers and "
        f"{len(streams.read)} streams read to their end: each in Postgres; {len(scene.bills)} calls billed, "
        f"{len(ledger.rows)} records; without the database 503 and no call"
    )
