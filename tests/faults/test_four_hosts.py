"""Four hosts on one Postgres and one Redis: a budget is used up exactly, and changes are in force everywhere at once.

Their short forms run several hosts in one process: `tests/shared_budgets/test_leases.py` and
`tests/control/test_shared_configuration.py`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from tests.e2e.process import GatewayProcess
from tests.faults.client import Answer, Load
from tests.faults.conftest import Note
from tests.faults.scene import Scene
from tests.faults.test_postgres import RunningServer, postgres
from tests.redis_server import RedisServer, running
from tests.waiting import until

__all__ = ["postgres"]

SETTINGS = {
    "encryption_keys": "00112233445566778899aabbccddeeff" * 2,
    "key_peppers": "1:0123456789abcdefghijklmnopqrstuvwxyz",
}
HOSTS, ROOM, ARRIVING = 4, 1000, 5000
AWAY_S, KILLED_AFTER_S, REST_S = 30.0, 3.0, 0.1
PATIENCE_S = 200.0
"""For a minute after Redis was lost, a host takes no more than in the minute before."""
CODES = {"budget_exceeded", "budget_reserved", "budget_unavailable", "rate_limited"}
"""What may be answered; a limit is a reason while Redis does not answer in time."""
LAST = 5
"""Refusals in succession after which a budget is used up."""
CHANGES, USUAL_S, LATEST_S = 60, 1.0, 2.0
CUT_LISTENERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE query LIKE 'LISTEN%%' AND datname = current_database()
"""


@dataclass
class Site:
    """Gateways on one database and one Redis."""

    scenes: list[Scene]
    gateways: list[GatewayProcess]
    postgres: RunningServer
    redis: RedisServer

    def make(self, path: str, body: dict[str, Any], host: int = 0) -> str:
        """Make something by the management API of a host. Returns its path."""
        response = self.gateways[host].call("POST", f"/api/v1/{path}", body)
        assert response.status == 201, response.body
        return f"/api/v1/{path}/{response.json['id']}"

    def explained(self, host: int, user_id: str) -> Any:
        """Return what the worker of a host would do with a request."""
        body = {"user_id": user_id, "service": "faults", "prompt": "Hello"}
        return self.gateways[host].call("POST", "/api/v1/routing/explain", {"body": body}).json

    async def start(self, host: int) -> None:
        self.gateways[host].launch()
        await asyncio.to_thread(self.gateways[host].wait_until_ready)


@pytest_asyncio.fixture
async def site(scene: Scene, postgres: RunningServer, long: bool) -> AsyncIterator[Site]:
    if not long:
        pytest.skip("with --long only; several hosts in one process are in tests/shared_budgets and tests/control")
    with running() as redis:
        scenes = [replace(scene, directory=scene.directory / f"host-{n}", url=postgres.url) for n in range(HOSTS)]
        for each in scenes:
            each.directory.mkdir()
        gateways = [each.gateway(redis_url=redis.url, **SETTINGS) for each in scenes]
        made = Site(scenes, gateways, postgres, redis)
        try:
            await asyncio.gather(*map(made.start, range(HOSTS)))
            yield made
        finally:
            for gateway in gateways:
                gateway.stop()


async def becomes(condition: Any, within_s: float = PATIENCE_S) -> float:
    """Wait in threads until a condition holds. Returns the seconds that it took."""
    started = time.monotonic()
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - it is asked over HTTP
            await asyncio.sleep(0.005)
    return time.monotonic() - started


async def made_budget(site: Site, name: str) -> str:
    """Make a budget of the customers of the loads `name`, and wait until all workers have it. Returns its path."""
    path = site.make("budgets", {"name": name, "limit_requests": ROOM, "match": {"user_id": f"{name}-*"}})
    await becomes(lambda: all(site.explained(host, f"{name}-1").get("budgets") for host in range(HOSTS)))
    return path


async def used_up(loads: list[Load]) -> None:
    """Wait until each host refuses the budget's requests for good, and end the loads."""

    def are_refused(load: Load) -> bool:
        return {answer.code if answer.status != 200 else "" for answer in load.answers[-LAST:]} == {"budget_exceeded"}

    await until(lambda: all(map(are_refused, loads)), PATIENCE_S)
    for load in loads:
        load.stop()
        await load.done()


async def spent(site: Site, path: str) -> int:
    """Return the requests that the database counts in the budget's account, once everything is stored."""
    for gateway in site.gateways:
        await becomes(lambda gateway=gateway: gateway.call("GET", "/api/v1/usage/summary").status == 200)
    [account] = site.gateways[0].call("GET", f"{path}/accounts").json["accounts"]
    return int(account["spent_requests"])


def answered(loads: list[Load]) -> list[Answer]:
    return [answer for load in loads for answer in load.answers if answer.status == 200]


def refusals(loads: list[Load]) -> Counter[str]:
    """Return how often each error code was answered."""
    return Counter(answer.code for load in loads for answer in load.answers if answer.status != 200)


@pytest.mark.fault("a budget of four hosts", "room for 1,000 requests, 5,000 arrive at all of them")
async def test_four_hosts_admit_exactly_what_a_budget_has_room_for(site: Site, note: Note) -> None:
    site.scenes[0].providers(site.gateways[0], "slow-5", rate_limit_rpm=10**6, rate_limit_tpm=10**9)
    path = await made_budget(site, "exact")
    loads = [Load(clients=4, name=f"exact-{number}") for number in range(HOSTS)]
    for load, gateway in zip(loads, site.gateways, strict=True):
        load.start(gateway.port)
    await until(lambda: sum(load.sent.total() for load in loads) >= ARRIVING, PATIENCE_S)
    await used_up(loads)
    count = len(answered(loads))
    assert count == await spent(site, path) == ROOM
    codes = refusals(loads)
    assert codes.keys() <= CODES, codes
    note(f"{sum(load.sent.total() for load in loads)} requests to {HOSTS} hosts: {count} admitted; {dict(codes)}")


@pytest.mark.fault(
    "a budget of four hosts through kills", "SIGKILL of Redis, of Postgres for 30 s, and of one host, under load"
)
async def test_four_hosts_pass_no_budget_through_kills_and_can_use_nearly_all_of_it(site: Site, note: Note) -> None:
    site.scenes[0].providers(site.gateways[0], "slow-200", rate_limit_rpm=10**6, rate_limit_tpm=10**9)
    path = await made_budget(site, "kills")
    loads = [Load(clients=4, name=f"kills-{number}", reconnects=True) for number in range(HOSTS)]
    for load, gateway in zip(loads, site.gateways, strict=True):
        load.rest_s = REST_S
        load.start(gateway.port)
    await asyncio.sleep(KILLED_AFTER_S)
    site.redis.kill()
    site.postgres.kill()
    await asyncio.sleep(AWAY_S)
    without = len(answered(loads))
    site.postgres.start()
    await asyncio.to_thread(site.gateways[-1].kill)
    site.redis.start()
    await asyncio.sleep(KILLED_AFTER_S)
    await site.start(HOSTS - 1)
    await used_up(loads)
    count, counted = len(answered(loads)), await spent(site, path)
    assert 0.97 * ROOM <= count <= counted <= ROOM
    codes = refusals(loads)
    assert codes.keys() <= CODES, codes
    cut_off = sum(len(load.broken) for load in loads)
    note(
        f"{count} of {ROOM} answered, {without} of them before Postgres was back; {counted} counted, "
        f"{cut_off} cut off; {dict(codes)}"
    )


@contextmanager
def without_notices(url: str) -> Iterator[None]:
    """End each connection that listens for notices, again and again."""
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    over = threading.Event()

    def cut() -> None:
        with engine.connect() as connection:
            while not over.wait(0.01):
                with suppress(DBAPIError):
                    connection.execute(sa.text(CUT_LISTENERS))

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        engine.dispose()


async def delays(site: Site, name: str) -> list[float]:
    """Change something at each host in turn. Returns after how many seconds it was in force at each of the others."""
    late: list[float] = []
    only = {"provider_name": "p0", "model_name": "other", "allow_fallback": False}
    for number in range(CHANGES):
        user_id, here = f"{name}-{number}", number % HOSTS

        def is_there(host: int, user_id: str = user_id) -> bool:
            return bool(site.explained(host, user_id)["candidates"][0]["model"] == "other")

        await asyncio.to_thread(site.make, "overrides", {"user_id": user_id, **only}, here)
        others = [host for host in range(HOSTS) if host != here]
        late += await asyncio.gather(*(becomes(lambda host=host: is_there(host)) for host in others))
    return sorted(late)


@pytest.mark.fault("changes at four hosts", "in force at the others after the answer; then with NOTIFY cut off")
async def test_a_change_is_in_force_at_all_of_four_hosts_within_a_second(site: Site, note: Note) -> None:
    site.gateways[0].provider("p0", site.scenes[0].mock.base_url, "ok", models=["ok", "other"])
    await becomes(lambda: all(site.explained(host, "nobody").get("candidates") for host in range(HOSTS)))
    usual = await delays(site, "noticed")
    with without_notices(site.postgres.url):
        unnoticed = await delays(site, "unnoticed")
    p99 = usual[-(-len(usual) * 99 // 100) - 1]
    assert p99 <= USUAL_S
    assert unnoticed[-1] <= LATEST_S
    note(
        f"{CHANGES} changes: median {usual[len(usual) // 2] * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms; without notices "
        f"median {unnoticed[len(unnoticed) // 2] * 1000:.0f} ms, longest {unnoticed[-1] * 1000:.0f} ms"
    )
