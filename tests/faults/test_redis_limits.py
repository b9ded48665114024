"""Two gateways with data directories of their own and one Redis: at the provider, and in what they say."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.e2e.process import GatewayProcess
from tests.faults.client import Load
from tests.faults.conftest import Note
from tests.faults.scene import windows
from tests.redis_server import RedisServer, running
from tests.upstream import read_bills
from tests.upstream.forked import ForkedUpstream
from tests.waiting import until, wait_until

LIMIT = 60
ENCRYPTION_KEY = "uJ5vYfNnq2w0a4Zk1mB8t7RrXcD3eHsLpQiGoV6yTzE="
METRICS = (
    "llm_gateway_redis_connected", "llm_gateway_redis_limits_shared", "llm_gateway_redis_trips_total",
    "llm_gateway_redis_timeouts_total", "llm_gateway_redis_errors_total", "llm_gateway_redis_refused_total",
    "llm_gateway_redis_reconnects_total",
)  # fmt: skip
LONG_S, QUICK_S = 150.0, 0.5


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running("--requirepass", "a-password-of-redis") as started:
        yield started


@pytest.mark.fault(
    "far more than a limit that two hosts share over Redis", "Redis flushed, frozen and killed; at the mock: every 60 s"
)
async def test_two_gateways_stay_within_one_limit_and_share_answers(
    server: RedisServer, tmp_path: Path, note: Note, long: bool
) -> None:
    """In the long form Redis is flushed, frozen and killed under load; the quick form covers the first seconds."""
    bills = tmp_path / "bills.jsonl"
    url = f"unix://:a-password-of-redis@{server.path}"
    settings = {"redis_url": url, "encryption_keys": ENCRYPTION_KEY, "max_queue_seconds": 0}
    directories = [tmp_path / name for name in ("a", "b")]
    for directory in directories:
        directory.mkdir()
    with ExitStack() as stack:
        mock = stack.enter_context(ForkedUpstream(journal=bills, fsync=False))
        gateways = [stack.enter_context(GatewayProcess(directories[0], **settings))]
        gateways[0].provider("p", mock.base_url, "slow-20", rate_limit_rpm=LIMIT)
        copy_database(*[directory / "data" for directory in directories])
        gateways.append(stack.enter_context(GatewayProcess(directories[1], **settings)))
        for gateway in gateways:
            wait_until(lambda gateway=gateway: 'llm_gateway_redis_hosts{worker="1"} 2.0' in metrics(gateway), 20)  # type: ignore[misc]
            assert [name for name in METRICS if f'{name}{{worker="1"}}' not in metrics(gateway)] == []
        assert gateways[0].ask("Hello", model="slow-20", no_store=False).status == 200
        again = gateways[1].ask("Hello", model="slow-20", no_store=False)
        assert again.json["cached"] is True, again.json
        loads = [Load(clients=10) for _ in gateways]
        for load, gateway in zip(loads, gateways, strict=True):
            load.start(gateway.port)
        started = time.monotonic()
        await until(lambda: len(read_bills(bills)) >= LIMIT, 60)
        if long:
            await faults(server)
            await asyncio.sleep(max(0, started + LONG_S - time.monotonic()))
        await asyncio.sleep(QUICK_S)
        well = {"status": "ok", "service": "llm-gateway", "database": "ok", "redis": "ok"}
        await until(lambda: health(gateways[0]) == well, 10)
        server.kill()
        unwell = {**well, "status": "degraded", "redis": "unavailable"}
        await until(lambda: health(gateways[0]) == unwell, 10)
        await asyncio.sleep(QUICK_S)
        server.start()
        for gateway in gateways:
            await until(lambda gateway=gateway: health(gateway)["redis"] == "ok", 10)  # type: ignore[misc]
        for load in loads:
            load.stop()
            await load.done()
        for gateway in gateways:
            assert gateway.log.count('"redis cannot be used"') >= 1, gateway.log
            assert gateway.log.count('"redis is back"') >= 1
            assert "a-password-of-redis" not in gateway.log
    times = [bill.time for bill in read_bills(bills)]
    most = windows(times)
    assert most <= LIMIT
    note(f"{len(times)} calls in {time.monotonic() - started:.0f} s, at most {most} of {LIMIT} in any 60 s")
    assert len(times) >= 0.97 * LIMIT * (1 + int((time.monotonic() - started) / 125) if long else 1)


def copy_database(source: Path, target: Path) -> None:
    """Copy the database of a running gateway, as a second host has the same providers."""
    target.mkdir(mode=0o700)
    (target / "gateway.db").touch(mode=0o600)
    with (
        closing(sqlite3.connect(source / "gateway.db")) as running_one,
        closing(sqlite3.connect(target / "gateway.db")) as copy,
    ):
        running_one.backup(copy)


async def faults(server: RedisServer) -> None:
    """Let happen to Redis what can happen."""
    await asyncio.sleep(20)
    server.ask(b"AUTH a-password-of-redis\r\nFLUSHALL")
    await asyncio.sleep(20)
    server.freeze()
    await asyncio.sleep(10)
    server.thaw()
    await asyncio.sleep(10)
    server.kill()
    await asyncio.sleep(20)
    server.start()


def metrics(gateway: GatewayProcess) -> str:
    return gateway.call("GET", "/metrics").body.decode()


def health(gateway: GatewayProcess) -> dict[str, str]:
    found: dict[str, str] = json.loads(gateway.call("GET", "/api/v1/health").body)
    return found
