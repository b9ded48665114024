"""Clients that disconnect while their request waits in a line: it is not sent, on every API, whole or streamed."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.process import KEY, GatewayProcess, Response, until
from tests.e2e.test_streams import records
from tests.e2e.test_waiting_line import CALLS
from tests.upstream import UpstreamProcess
from tests.upstream.forked import ForkedUpstream

STREAM_PATH = "/v1beta/models/auto:streamGenerateContent?alt=sse"
ANSWER_S = 1.5


@pytest.fixture
def mock() -> Iterator[UpstreamProcess]:
    """Provide a new mock: after many calls, its answers are too long for a second call beside them."""
    with ForkedUpstream() as running:
        yield running


def asked(surface: str, *, stream: bool) -> tuple[str, dict[str, Any]]:
    path, body = CALLS[surface]
    if surface == "generate":
        body = {**body, "user_id": "anonymous"}  # the other APIs' customer: places of two customers are paced
    if not stream:
        return path, body
    return (STREAM_PATH, body) if surface == "gemini" else (path, {**body, "stream": True})


def send(gateway: GatewayProcess, surface: str, *, stream: bool) -> socket.socket:
    """Send a request, and return its connection without reading from it."""
    path, document = asked(surface, stream=stream)
    body = json.dumps(document).encode()
    lines = [f"POST {path} HTTP/1.1", "host: localhost", f"x-service-key: {KEY}", "cache-control: no-store"]
    head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    connection.sendall(head.encode() + body)
    return connection


def metric(gateway: GatewayProcess, name: str) -> float:
    lines = gateway.call("GET", "/metrics").body.decode().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("surface", CALLS)
def test_a_request_leaves_the_line_when_its_client_disconnects(
    gateway: GatewayProcess, mock: UpstreamProcess, surface: str, stream: bool
) -> None:
    """The limit has room for one call, so a second one waits; a third one is served after its client has left."""
    gateway.provider("acme", mock.base_url, "slow-1500", rate_limit_tpm=300)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, gateway)
        until(lambda: bool(mock.seen().calls))
        leaving = send(gateway, surface, stream=stream)
        until(lambda: metric(gateway, "llm_gateway_requests_in_flight") == 2)
        time.sleep(0.15)
        leaving.close()
        until(lambda: metric(gateway, "llm_gateway_requests_in_flight") <= 1)
        answers = call(gateway), first.result()

    assert [answer.status for answer in answers] == [200, 200]
    assert len(mock.seen().calls) == 2
    ok, left, served = records(gateway)[-3:]
    assert [row["outcome"] for row in (ok, left, served)] == ["ok", "cancelled", "ok"]
    assert (left["status"], left["cost_nanos"], left["attempts"]) == (499, 0, None)
    assert 100 <= left["queued_ms"] < ANSWER_S * 1000


def call(gateway: GatewayProcess) -> Response:
    path, body = CALLS["chat"]
    return gateway.call("POST", path, body, cache_control="no-store")
