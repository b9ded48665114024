"""Two gateways on one Postgres: what is changed at one is in force at the other, people stay signed in at both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
import sqlalchemy as sa

from llm_gateway.store.database import Database
from llm_gateway.store.tables import usage_records
from tests.application.driver import Client
from tests.application.fixtures import isolate, logging_restored, running
from tests.dashboard.browser import PASSWORD, Browser
from tests.databases import PostgresDatabases, postgres
from tests.in_one_loop import GatewayInOneLoop
from tests.journal.samples import frame, intent, left_behind, request_id, settled
from tests.store.histories import stored_ids
from tests.upstream import MockUpstream

__all__ = ["postgres"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = {
    "service_keys": "ann:key-of-ann",
    "encryption_keys": "00112233445566778899aabbccddeeff" * 2,
    "key_peppers": "1:0123456789abcdefghijklmnopqrstuvwxyz",
    "log_level": "error",
}
ASK = {"user_id": "bob", "service": "shop", "prompt": "Hello"}
NOT_KEPT = {"cache-control": "no-store"}
USUAL_S, LATEST_S = 0.5, 2.0
"""Seconds until a change is in force at the other host: with notices as a rule, and at most, also without."""
CUT_LISTENERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE query LIKE 'LISTEN%%' AND datname = current_database()
"""


class Pair(NamedTuple):
    """Two gateways, a vendor behind both, and their database."""

    apps: tuple[GatewayInOneLoop, GatewayInOneLoop]
    vendor: str
    database: Database
    root: Path

    @property
    def clients(self) -> tuple[Client, Client]:
        first, second = (Client(app, "key-of-ann") for app in self.apps)
        return first, second


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(postgres: PostgresDatabases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    root = tmp_path_factory.mktemp("pair")
    async with AsyncExitStack() as opened:
        url = opened.enter_context(postgres.empty())  # both make its tables, one after the other
        patch = opened.enter_context(pytest.MonkeyPatch.context())
        opened.enter_context(logging_restored())
        isolate(patch, root)
        mock = await opened.enter_async_context(MockUpstream())
        first, second = [
            await opened.enter_async_context(running(root / name, database_url=url, **SETTINGS))
            for name in ("one", "two")
        ]
        database = opened.enter_context(closing(Database.open(url, fsync=False)))
        yield Pair((first, second), mock.base_url, database, root)


async def seconds_until(holds: Callable[[], Awaitable[bool]]) -> float:
    """Return the seconds until something holds, at most some."""
    started = time.monotonic()
    while not await holds() and time.monotonic() - started < 5:  # noqa: ASYNC110 - it is asked over HTTP
        await asyncio.sleep(0.01)
    return time.monotonic() - started


async def is_status(client: Client, expected: int) -> bool:
    return (await client.call("POST", "/api/v1/generate", ASK, headers=NOT_KEPT)).status == expected


async def made(client: Client, path: str, body: dict[str, Any]) -> Any:
    response = await client.call("POST", f"/api/v1/{path}", body)
    assert response.status == 201, response.body
    return response.json


async def change_everything(pair: Pair, name: str) -> list[float]:
    """Change a provider, a key, an override and a budget at one host. Returns how late each is at the other one."""
    (here, there), late = pair.clients, []

    async def measure(holds: Callable[[], Awaitable[bool]]) -> None:
        late.append(await seconds_until(holds))

    provider = {"name": name, "display_name": name, "api_key": "sk-secret", "models": ["ok", "other"]}
    made_provider = await made(here, "providers", {**provider, "base_url": pair.vendor})
    await measure(lambda: is_status(there, 200))
    key = await made(here, "keys", {"name": name, "scopes": ["call"]})
    caller = Client(pair.apps[1], key["secret"])
    await measure(lambda: is_status(caller, 200))
    assert (await here.call("DELETE", f"/api/v1/keys/{key['id']}")).status == 204
    await measure(lambda: is_status(caller, 401))
    only = {"provider_name": name, "model_name": "other", "allow_fallback": False}
    override = await made(here, "overrides", {"user_id": "eve", **only})

    async def explained(user_id: str) -> Any:
        answer = await there.call("POST", "/api/v1/routing/explain", {"body": {**ASK, "user_id": user_id}})
        return answer.json

    async def is_overridden() -> bool:
        return bool((await explained("eve"))["candidates"][0]["model"] == "other")

    await measure(is_overridden)
    await made(here, "budgets", {"name": name, "limit_requests": 1, "match": {"user_id": name}})

    async def has_budget() -> bool:
        return bool((await explained(name))["budgets"])

    await measure(has_budget)
    for path in (f"overrides/{override['id']}", f"providers/{made_provider['id']}"):
        assert (await here.call("DELETE", f"/api/v1/{path}")).status == 204
    await measure(lambda: is_status(there, 503))
    return late


async def test_a_change_is_in_force_at_the_other_host_within_a_second(pair: Pair) -> None:
    late = sorted(await change_everything(pair, "noticed"))
    assert late[len(late) // 2] < USUAL_S
    assert late[-1] < LATEST_S


async def test_a_lost_notice_is_healed_within_two_seconds(pair: Pair) -> None:
    with pair.database.write() as connection:
        assert len(connection.execute(sa.text(CUT_LISTENERS)).all()) >= 1
    (here, there), late = pair.clients, []
    provider = {"name": "unnoticed", "display_name": "Unnoticed", "api_key": "sk-secret", "models": ["ok"]}
    made_provider = await made(here, "providers", {**provider, "base_url": pair.vendor})
    late.append(await seconds_until(lambda: is_status(there, 200)))
    assert (await here.call("DELETE", f"/api/v1/providers/{made_provider['id']}")).status == 204
    late.append(await seconds_until(lambda: is_status(there, 503)))
    assert max(late) < LATEST_S


async def test_each_host_lists_both(pair: Pair) -> None:
    first, second = [(await client.call("GET", "/api/v1/hosts")).json for client in pair.clients]
    assert [host["id"] for host in first["hosts"]] == [host["id"] for host in second["hosts"]]
    assert ([host["is_own"] for host in first["hosts"]], first["living"]) == ([True, False], 2)
    healthy = {"status": "ok", "service": "llm-gateway", "database": "ok", "hosts": 2}

    async def is_counted() -> bool:
        return bool((await pair.clients[0].call("GET", "/api/v1/health")).json == healthy)

    assert await seconds_until(is_counted) < 5  # the first host learns of the second with its next beat
    refused = await pair.clients[0].call("DELETE", f"/api/v1/hosts/{first['hosts'][1]['id']}")
    assert refused.status == 409


async def test_who_signs_in_at_one_host_is_signed_in_at_both_and_signs_out_of_both(pair: Pair) -> None:
    browser = Browser(pair.apps[0])
    await made(pair.clients[0], "people", {"name": "eve", "password": PASSWORD, "role": "admin"})
    for signed_in in (await browser.sign_in("key-of-ann"), await browser.sign_in_as("eve", PASSWORD)):
        assert signed_in.status == 303, signed_in.body
        for app in (*pair.apps, *pair.apps):
            browser.app = app
            assert (await browser.get("/ui/sessions")).status == 200
    assert (await browser.post("/ui/sign-out")).status == 303  # at the second host
    for app in pair.apps:
        browser.app = app
        assert (await browser.get("/ui/sessions")).status == 303


async def test_the_journal_of_a_lost_host_is_adopted_where_its_directory_is_moved_to(pair: Pair) -> None:
    """Of two requests, one was settled, and one was cut off by the end of the host: it has a record at its bound."""
    lost, found = pair.root / "lost", pair.root / "two"
    entries = frame("I", 1, intent(1)) + frame("S", 1, settled(1)) + frame("I", 2, intent(2))
    left_behind(lost, {1: entries}, writer="of-the-lost-host").rename(found / "journal" / "of-the-lost-host")

    async def are_stored() -> bool:
        return set(stored_ids(pair.database)) >= {request_id(1), request_id(2)}

    await seconds_until(are_stored)
    with pair.database.read() as connection:
        rows = connection.execute(sa.select(usage_records.c.id, usage_records.c.outcome, usage_records.c.cost_nanos))
        records = {row.id: (row.outcome, row.cost_nanos > 0) for row in rows}
    assert (records[request_id(1)], records[request_id(2)]) == (("ok", False), ("cancelled", True))
    assert not (found / "journal" / "of-the-lost-host").exists()
