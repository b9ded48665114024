"""Hosts whose clocks are wrong by an hour: limits hold; periods, ends of keys and usage have the database's time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from tests.databases import PostgresDatabases, postgres
from tests.e2e.process import GatewayProcess
from tests.faults.client import Load
from tests.faults.conftest import Note
from tests.faults.scene import Scene, windows
from tests.faults.shifted_clock import ShiftedGateway, library
from tests.redis_server import running
from tests.waiting import until

__all__ = ["postgres"]

KEYS = {
    "encryption_keys": "00112233445566778899aabbccddeeff" * 2,
    "key_peppers": "1:0123456789abcdefghijklmnopqrstuvwxyz",
}
HOUR = timedelta(hours=1)
AWAY = timedelta(seconds=5)
ROOM = 4
"""Requests that the budget of the short form has room for."""
LIMIT, LONG_ROOM, LOAD_S = 120, 60, 150.0
"""Calls a minute of the provider, requests of the budget, and seconds of load, in the long form."""
MODELS, REST_S = {"budget": "slow-20", "limit": "slow-5"}, 0.02
WARNING = '"this host\'s clock differs from that of the database"'


@pytest.fixture
def shared(scene: Scene, postgres: PostgresDatabases) -> Iterator[Scene]:
    library()
    with postgres.migrated() as url:
        yield replace(scene, url=url)


def hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def time_in(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def away_from_the_next_hour() -> None:
    """Wait until no hour ends within the next seconds."""
    await until(lambda: hour_of(datetime.now(UTC) + AWAY) == hour_of(datetime.now(UTC)), 2 * AWAY.total_seconds())


def made(gateway: GatewayProcess, path: str, body: dict[str, Any]) -> Any:
    response = gateway.call("POST", f"/api/v1/{path}", body)
    assert response.status == 201, response.body
    return response.json


def hourly_budget(gateway: GatewayProcess, room: int) -> str:
    """Make a budget for some requests of an hour. Returns its path."""
    body = {"name": "hourly", "limit_requests": room, "period": "hour", "match": {"service": "e2e"}}
    return f"/api/v1/budgets/{made(gateway, 'budgets', body)['id']}"


@pytest.mark.fault("a host's clock is an hour ahead", "libfaketime; a budget of an hour, keys that end soon, records")
def test_a_host_with_a_wrong_clock_follows_that_of_the_database(shared: Scene, note: Note) -> None:
    with ShiftedGateway(shared.directory, +1, database_url=shared.url, **KEYS) as gateway:
        assert WARNING in gateway.log
        shared.providers(gateway, "ok")
        path = hourly_budget(gateway, ROOM)
        asyncio.run(away_from_the_next_hour())
        before = datetime.now(UTC)
        answers = [gateway.ask("Hello", model="ok") for _ in range(ROOM + 1)]
        assert [answer.status for answer in answers] == [200] * ROOM + [429]
        assert time_in(answers[-1].json["budget"]["resets_at"]) == hour_of(before) + HOUR
        accounts = gateway.call("GET", f"{path}/accounts").json
        assert time_in(accounts["period_start"]) == hour_of(before)
        assert time_in(accounts["resets_at"]) == hour_of(before) + HOUR
        ends = (before + HOUR / 2).isoformat()
        key = made(gateway, "keys", {"name": "soon", "scopes": ["call", "read"], "expires_at": ends})
        assert gateway.call("GET", "/api/v1/usage/summary", key=key["secret"]).status == 200
        [first, *_] = records = gateway.call("GET", "/api/v1/usage/records").json["records"]
        late = max(abs(time_in(record["at"]) - before) for record in records)
        assert late < HOUR / 10, first
    note(f"{len(records)} records at most {late.total_seconds():.1f} s from the right time; period of the right hour")


async def started(gateway: GatewayProcess) -> GatewayProcess:
    gateway.launch()
    await asyncio.to_thread(gateway.wait_until_ready)
    return gateway


def has_budget(gateway: GatewayProcess) -> bool:
    """Return whether the worker of a gateway has heard of the budget."""
    body = {"user_id": "budget-1", "service": "faults", "prompt": "Hello"}
    return bool(gateway.call("POST", "/api/v1/routing/explain", {"body": body}).json.get("budgets"))


@pytest.mark.fault(
    "hosts an hour ahead, an hour behind, and right",
    "libfaketime; far more than a provider's limit and an hour's budget",
)
async def test_hosts_with_other_clocks_share_one_limit_and_one_budget(shared: Scene, note: Note, long: bool) -> None:
    """Who uses up the budget calls another provider than who uses up the limit."""
    if not long:
        pytest.skip("with --long only; the short form is the test above")
    with ExitStack() as stack:
        redis = stack.enter_context(running())
        settings = {"database_url": shared.url, "redis_url": redis.url, "max_queue_seconds": 0, **KEYS}
        gateways: list[GatewayProcess] = []
        for hours in (0, +1, -1):
            directory = shared.directory / f"host{hours:+d}"
            directory.mkdir()
            host = ShiftedGateway(directory, hours, **settings) if hours else GatewayProcess(directory, **settings)
            gateways.append(await started(host))
            stack.callback(host.stop)
        gateways[0].provider("limited", shared.mock.base_url, "slow-5", rate_limit_rpm=LIMIT)
        gateways[0].provider("free", shared.mock.base_url, "slow-20")
        fields = {"name": "hourly", "limit_requests": LONG_ROOM, "period": "hour"}
        path = f"/api/v1/budgets/{made(gateways[0], 'budgets', {**fields, 'match': {'user_id': 'budget-*'}})['id']}"
        await until(lambda: all(map(has_budget, gateways)), 10)
        await until(lambda: datetime.now(UTC).minute < 60 - 4, 300)
        begun = datetime.now(UTC)
        loads = [Load(clients=4, name=f"{name}-{number}") for name in MODELS for number, _ in enumerate(gateways)]
        for load, gateway in zip(loads, gateways * 2, strict=True):
            model = MODELS[load.name.partition("-")[0]]
            load.fields, load.rest_s = partial(dict, model=model), REST_S
            load.start(gateway.port)
        await asyncio.sleep(LOAD_S)
        for load in loads:
            load.stop()
            await load.done()
        page = gateways[1].call("GET", f"{path}/accounts").json
        ledger = await asyncio.to_thread(shared.books, gateways[2])
        ended = datetime.now(UTC)
        for gateway in gateways[1:]:
            assert WARNING in gateway.log
    answered = sum(load.statuses[200] for load in loads[: len(gateways)])
    limited = [bill.time for bill in shared.bills if bill.model == MODELS["limit"]]
    most = windows(limited)
    assert most <= LIMIT
    assert answered == LONG_ROOM
    assert time_in(page["period_start"]) == hour_of(begun)
    [account] = page["accounts"]
    assert account["spent_requests"] == answered
    moments = [datetime.fromtimestamp(row.at_ms / 1000, UTC) for row in ledger.rows]
    assert begun - AWAY < min(moments) < max(moments) < ended + AWAY
    note(
        f"{sum(len(load.answers) for load in loads)} requests to 3 hosts in {LOAD_S:.0f} s: at most {most} of {LIMIT} "
        f"calls in any 60 s, {len(limited)} together; {answered} of {LONG_ROOM} of the hour's budget"
    )
