"""Processes are killed while clients use up hard budgets: no limit is passed, nothing stays held, the books agree."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import closing
from decimal import Decimal
from typing import Any

import pytest

from llm_gateway.store.budget_verification import verify
from llm_gateway.store.database import Database
from tests.e2e.process import GatewayProcess
from tests.faults.client import BROKEN, Answer, Client, Load
from tests.faults.conftest import Note
from tests.faults.ledger import exact_cost
from tests.faults.scene import Scene
from tests.waiting import until

LONG_ROUNDS, QUICK_ROUNDS = 100, 3
CLIENTS, MANY_CLIENTS = 6, 16
"""Clients of each budget, in the quick form and in the long one."""
BACK_S = 20.0
"""Maximum seconds until a killed process is replaced; the supervisor waits up to 5 seconds before it starts it."""
ROOM = Decimal("0.008")
"""USD that each round adds to the limits: room for some 30 requests, fewer than the clients send."""
MUCH = Decimal(5)
"""USD with which workers hold amounts for the next requests ahead (`budget_advances.py`)."""
OVERDRAFT = Decimal("0.004")
ONE_BOUND = Decimal("0.002")
"""More than one request of these tests can cost."""
NANO = Decimal("0.000000001")
MODES = ("bound", "expected")


def victims(gateway: GatewayProcess, number: int) -> list[int]:
    """Return the processes that are killed in this round: a worker, control, or both at once."""
    worker, control = random.choice(gateway.worker_pids), gateway.control_pid
    return [[worker], [control], [control, worker]][number % 3]


def make_budget(gateway: GatewayProcess, hold: str, overdraft: Decimal) -> str:
    """Make a budget of the customers of one load, which has no room yet. Returns its path."""
    fields: dict[str, Any] = {"overdraft_usd": f"{overdraft:f}"} if hold == "expected" else {}
    response = gateway.call(
        "POST",
        "/api/v1/budgets",
        {
            "name": hold, "match": {"user_id": f"{hold}-*"}, "hold": hold, "limit_usd": f"{NANO:f}", "period": "total",
            **fields,
        },
    )  # fmt: skip
    assert response.status == 201, response.body
    return f"/api/v1/budgets/{response.json['id']}"


async def managed(gateway: GatewayProcess, method: str, path: str, body: Any = None) -> Any:
    """Return the answer of the management API, as soon as it is back."""
    async with asyncio.timeout(BACK_S):
        while True:
            came = await asyncio.to_thread(gateway.call, method, path, body)
            if came.status == 200:
                return came.json
            assert came.status == 503, came.body
            await asyncio.sleep(0.05)


async def spent_of(gateway: GatewayProcess, path: str) -> Decimal:
    """Return what the database counts in the budget's account, once everything is stored."""
    await managed(gateway, "GET", "/api/v1/usage/summary")
    [account] = (await managed(gateway, "GET", f"{path}/accounts"))["accounts"]
    return Decimal(str(account["spent_usd"]))


async def refusal(gateway: GatewayProcess, hold: str) -> Answer:
    """Return the answer to a request of a budget without room, when none of the others is in flight."""
    async with asyncio.timeout(BACK_S):
        while True:
            client = Client(gateway.port)
            try:
                answer = await client.generate(f"{hold}-customer-0.last", f"{hold}-customer-0")
                if answer.status != 200 and answer.code != "budget_reserved":  # a worker may not have the limit yet
                    return answer
            except BROKEN:
                pass
            finally:
                client.close()
            await asyncio.sleep(0.05)


@pytest.mark.fault(
    "kill -9 while hard budgets are used up",
    "SIGKILL of a worker, of control, of both, in turn; clients ask without a pause for room that is added each round",
)
@pytest.mark.parametrize(
    ("workers", "room"),
    [(1, ROOM), (4, ROOM), (4, MUCH)],
    ids=["one worker", "four workers", "four workers, much room"],
)
async def test_no_budget_is_passed_and_nothing_stays_held_after_kills(
    scene: Scene, note: Note, long: bool, workers: int, room: Decimal
) -> None:
    rounds, clients = (LONG_ROUNDS, MANY_CLIENTS) if long else (QUICK_ROUNDS, CLIENTS)
    loads = {hold: Load(clients=clients, customers=2, name=hold, reconnects=True) for hold in MODES}
    limits = dict.fromkeys(MODES, NANO)
    overdraft = MUCH if room == MUCH else OVERDRAFT
    with scene.gateway(workers=workers, cache_ttl_seconds=0, max_queue_seconds=0) as gateway:
        scene.providers(gateway, "slow-20", rate_limit_rpm=10**6, rate_limit_tpm=10**9)
        paths = {hold: make_budget(gateway, hold, overdraft) for hold in MODES}
        for number in range(rounds):
            for hold, load in loads.items():
                limits[hold] += room
                await managed(gateway, "PATCH", paths[hold], {"limit_usd": f"{limits[hold]:f}"})
                load.start(gateway.port)
            await asyncio.sleep(random.uniform(0.0, 0.4))
            await until(lambda: len(gateway.worker_pids) == workers, BACK_S)
            for pid in victims(gateway, number):
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.3)
            for load in loads.values():
                load.stop()
                await load.done()
        spent = {hold: await spent_of(gateway, path) for hold, path in paths.items()}
        bills = scene.bills
        for hold, limit in limits.items():
            costs = [
                exact_cost(b.prompt_tokens, b.completion_tokens) for b in bills if (b.marker or "").startswith(hold)
            ]
            assert sum(costs) * NANO <= spent[hold], "what the vendor billed is in the account"
            assert room == MUCH or sum(costs) * NANO >= limit / 2, "the budget was used"
        for hold, path in paths.items():
            beyond = max(overdraft, ONE_BOUND) if hold == "expected" else 0
            assert spent[hold] <= limits[hold] + beyond, f"{hold}: {spent[hold]} of {limits[hold]}"
            await managed(gateway, "PATCH", path, {"limit_usd": f"{NANO:f}"})
            answer = await refusal(gateway, hold)
            assert (answer.status, answer.code) == (429, "budget_exceeded"), answer
            status = answer.json["budget"]
            assert status["held_usd"] == 0, status
            assert Decimal(str(status["spent_usd"])) >= spent[hold], "the memory never counts too little"
        statuses = set(loads["bound"].statuses) | set(loads["expected"].statuses)
        assert statuses == {200, 429} or (room == MUCH and statuses == {200}), statuses
    with closing(Database.open(f"sqlite:///{scene.data / 'gateway.db'}", read_limit_s=60)) as database:
        found = verify(database, int(time.time() * 1000), 90)
    assert len(found) == len(MODES)
    assert [each.drift for each in found if each.is_wrong or each.drift is None] == []
    answered = {hold: load.statuses[200] for hold, load in loads.items()}
    note(
        f"{rounds} kills, {len(bills)} calls billed, {sum(answered.values())} answers read, "
        f"{sum(load.statuses[429] for load in loads.values())} refused; "
        + ", ".join(f"{hold}: {spent[hold]:.4f} of {limits[hold]:.4f} USD" for hold in MODES)
        + "; nothing held, drift 0"
    )
