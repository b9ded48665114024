"""Gateways behind nginx with deploy/balancer/default.conf are restarted one after the other, and no client notices."""

from __future__ import annotations

import asyncio
import http.client
import random
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import cycle, islice

import pytest

from llm_gateway.server.shared_state import Limits
from llm_gateway.settings import Settings
from tests.e2e.process import GatewayProcess, free_port
from tests.faults.client import Load
from tests.faults.conftest import Note
from tests.faults.scene import Scene
from tests.nginx_server import DEPLOY, changed, find_nginx, nginx

ACCEPT_S = 2.0
"""Seconds for which a stopping gateway accepts. Here and in nginx's configuration all times are shorter than usual."""
KEPT = re.compile(r"keepalive_timeout (\d+)s;")
FAILED = re.compile(r"fail_timeout=(\d+)s;")
CONNECTED = re.compile(r"proxy_connect_timeout (\d+)s;")
RESTARTS, BURST, BURST_S = 50, 32, 0.2
"""Restarts; requests at once, after which nginx has as many idle connections; seconds of a burst."""


def seconds_in(file: str, setting: re.Pattern[str]) -> int:
    """Return the time that a file of `deploy/` has everywhere in a setting."""
    [found] = set(setting.findall((DEPLOY / file).read_text()))
    return int(found)


@pytest.mark.fault("times of nginx in deploy/", "compared with the gateway's")
def test_nginx_forgets_a_gateway_that_stops_and_remembers_one_that_is_back_in_time() -> None:
    """It drops idle connections before the gateway does, and uses a restarted gateway before the next one stops."""
    accept_s, balancer = Settings().accept_seconds, "balancer/default.conf"
    for file in ("nginx.conf", balancer):
        assert seconds_in(file, KEPT) < min(accept_s, Limits().retired_idle_s), file
    assert seconds_in(balancer, CONNECTED) + seconds_in(balancer, FAILED) < accept_s


@pytest.fixture
def gateways(scene: Scene, long: bool) -> Iterator[list[GatewayProcess]]:
    if not long:
        pytest.skip("with --long only; the short form is the test above")
    find_nginx()
    with ExitStack() as stack:
        hosts = [replace(scene, directory=scene.directory / name) for name in ("one", "two")]
        started = []
        for host in hosts:
            host.directory.mkdir()
            started.append(stack.enter_context(host.gateway(accept_seconds=ACCEPT_S)))
            host.providers(started[-1], "slow-20")
        yield started


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    finally:
        connection.close()


async def burst(load: Load, port: int) -> None:
    """Send many requests at once for a moment."""
    load.start(port)
    await asyncio.sleep(BURST_S)
    load.stop()
    await load.done()


@pytest.mark.fault(
    "rolling restarts behind nginx", "SIGTERM of two gateways in turn; bursts that leave idle connections"
)
async def test_no_client_notices_restarts_behind_nginx(
    scene: Scene, gateways: list[GatewayProcess], note: Note
) -> None:
    port, chance = free_port(), random.Random()
    changes = {
        f"172.30.82.1{number}:8200 max_fails=1 fail_timeout=2s": f"127.0.0.1:{gateway.port} max_fails=1 fail_timeout=1s"
        for number, gateway in enumerate(gateways, 1)
    }
    changes |= {"listen 8200;": f"listen 127.0.0.1:{port};", "keepalive_timeout 4s;": "keepalive_timeout 1s;"}
    steady, bursts = Load(clients=2), Load(clients=BURST, name="burst")
    with nginx(scene.directory, changed("balancer/default.conf", changes), lambda: is_ready(port)):
        steady.start(port)
        for gateway in islice(cycle(gateways), RESTARTS):
            await burst(bursts, port)
            gateway.process.terminate()
            await asyncio.sleep(ACCEPT_S + chance.uniform(0.0, 1.0))
            await burst(bursts, port)
            assert await asyncio.to_thread(gateway.ended) == 0, gateway.log
            gateway.launch()
            await asyncio.to_thread(gateway.wait_until_ready)
        steady.stop()
        await steady.done()
        errors = (scene.directory / "error.log").read_text()
    answered = len(steady.answers) + len(bursts.answers)
    assert (steady.statuses + bursts.statuses).keys() == {200}, (steady.statuses + bursts.statuses, errors[-2000:])
    assert not steady.broken + bursts.broken
    assert len(scene.bills) == answered, "nginx sent a request twice"
    note(f"{RESTARTS} restarts of 2 gateways, {answered} requests: 0 client errors, none sent twice")
