"""Several workers behind one port: one configuration, one limit, one set of counts; one of them ends alone."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.process import KEY, GatewayProcess, until
from tests.upstream import UpstreamProcess

WORKERS = 3
LIMIT = 20


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path, workers=WORKERS, max_queue_seconds=0) as running:
        yield running


def answering(gateway: GatewayProcess) -> int:
    """Return the number of workers that accept connections."""
    return gateway.log.count('"event": "ready"')


def statuses(gateway: GatewayProcess, count: int, key: str = KEY) -> Counter[int]:
    """Ask several questions at once, each over a connection of its own."""

    def ask(number: int) -> int:
        body = {"user_id": "u", "service": "s", "prompt": f"Question {number}"}
        return gateway.call("POST", "/api/v1/generate", body, key=key, cache_control="no-store").status

    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(ask, range(count)))


def test_a_change_is_in_force_in_every_worker_once_it_is_answered(
    gateway: GatewayProcess, mock: UpstreamProcess
) -> None:
    until(lambda: answering(gateway) == WORKERS)
    path = gateway.provider("p", mock.base_url)
    assert statuses(gateway, 40) == {200: 40}
    key = gateway.call("POST", "/api/v1/keys", {"name": "shop", "rpm": LIMIT}).json
    of_key = statuses(gateway, 3 * LIMIT, key["secret"])
    assert of_key == {200: LIMIT, 429: 2 * LIMIT}
    assert gateway.call("DELETE", f"/api/v1/keys/{key['id']}").status == 204
    assert statuses(gateway, 40, key["secret"]) == {401: 40}
    assert gateway.call("PATCH", path, {"is_enabled": False}).status == 200
    assert statuses(gateway, 40) == {503: 40}


def test_the_workers_share_a_providers_limit_exactly(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    until(lambda: answering(gateway) == WORKERS)
    gateway.provider("p", mock.base_url, rate_limit_rpm=LIMIT)
    assert statuses(gateway, 3 * LIMIT) == {200: LIMIT, 429: 2 * LIMIT}
    assert mock.seen().total == LIMIT


def test_a_breaker_that_opens_in_one_worker_spares_all_the_calls(
    gateway: GatewayProcess, mock: UpstreamProcess
) -> None:
    until(lambda: answering(gateway) == WORKERS)
    gateway.provider("down", mock.base_url, "status-500", priority=20)
    gateway.provider("p", mock.base_url, priority=10)
    assert Counter(gateway.ask(f"Question {number}").status for number in range(30)) == {200: 30}
    assert mock.seen().total == 30 + 5
    assert gateway.log.count('"event": "circuit breaker opened"') == 1
    metrics = gateway.call("GET", "/metrics").body.decode()
    assert 'llm_gateway_breaker_open{model="status-500",provider="down"} 1.0' in metrics
    os.kill(gateway.worker_pids[0], signal.SIGKILL)
    until(lambda: answering(gateway) == WORKERS + 1)
    assert statuses(gateway, 10) == {200: 10}
    assert mock.seen().total == 40 + 5


def test_reports_and_metrics_add_the_workers_up(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    until(lambda: answering(gateway) == WORKERS)
    gateway.provider("p", mock.base_url)
    assert statuses(gateway, 30) == {200: 30}
    assert gateway.summary()["total_requests"] == 30
    metrics = gateway.call("GET", "/metrics").body.decode()
    assert 'llm_gateway_requests_total{error_code="",outcome="ok",surface="generate"} 30.0' in metrics


def test_a_worker_that_is_ended_alone_leaves_the_socket_open_and_is_replaced(
    tmp_path: Path, mock: UpstreamProcess
) -> None:
    with GatewayProcess(tmp_path) as gateway:
        gateway.provider("p", mock.base_url)
        os.kill(gateway.worker_pid, signal.SIGTERM)
        until(lambda: '"event": "retiring"' in gateway.log)
        # Until another worker accepts it, a connection waits; a SYN that is dropped would be sent again after a second.
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=0.9):
            assert gateway.ask().status == 200
        until(lambda: answering(gateway) == 2)
