"""A gateway's memory does not grow with large requests and answers; measured on a real process."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.process import CommandProcess, GatewayProcess
from tests.memory.endings import Answer, Provider, ask, connected, raw, repeated, reset

MEBIBYTE = 1024 * 1024
LARGE = "x" * 3_500_000
AT_MOST_MB = 60
"""Maximum growth in MB: the allocator keeps some memory of a few concurrent requests."""
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\ncontent-length: 40000000\r\n\r\n"


def resident_mb(gateway: GatewayProcess) -> float:
    pages = int(Path(f"/proc/{gateway.worker_pid}/statm").read_text().split()[1])
    return pages * 4096 / MEBIBYTE


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with CommandProcess(tmp_path_factory.mktemp("flat"), log_level="error") as started:
        for name in CASES:
            fields = {"name": name, "display_name": name, "api_key": "k", "models": ["m"]}
            fields["base_url"] = f"http://127.0.0.1:{provider.port}/v1"
            assert started.call("POST", "/api/v1/providers", fields).status == 201
        yield started


CASES: dict[str, tuple[str, int, Answer]] = {
    "refused": (LARGE, 30, raw(b"")),
    "closed": (LARGE, 30, raw(b"")),
    "reset": (LARGE, 30, reset),
    "cut": ("hi", 5, repeated(JSON, b" ", 30_000_000)),
    "trailers": ("hi", 5, repeated(CHUNKED + b"2\r\nxx\r\n0\r\n", b"a: b\r\n", 20 * MEBIBYTE // 6)),
    "trailer": ("hi", 5, repeated(CHUNKED + b"2\r\nxx\r\n0\r\na: ", b"x", 20 * MEBIBYTE)),
    "interim": ("hi", 5, repeated(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 20 * MEBIBYTE // 25)),
    "chunks": ("hi", 4, repeated(CHUNKED, b"2\r\nxx\r\n", 4 * MEBIBYTE // 7)),
}
"""By provider name: the client's prompt, the number of requests, and the provider's answer.

If each request kept its body or answer, that would be 100 MB or more.
"""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", CASES)
def test_memory_does_not_grow_with_failed_requests(
    gateway: GatewayProcess, provider: Provider, name: str, stream: bool
) -> None:
    prompt, times, provider.answer = CASES[name]
    model = "nope" if name == "refused" else f"{name}/m"
    body = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": prompt}]}).encode()

    def call() -> None:
        assert ask(gateway.port, "/v1/chat/completions", body, {"cache-control": "no-store"}) >= 400

    call()
    before = resident_mb(gateway)
    for _ in range(times):
        call()

    assert settled(lambda: resident_mb(gateway) - before, AT_MOST_MB) < AT_MOST_MB


def test_request_bodies_in_flight_are_limited_while_small_requests_are_served(tmp_path: Path) -> None:
    """Twenty clients send all but the last byte of 3.5 MB each; the limit allows two."""
    body = json.dumps({"model": "nope", "messages": [{"role": "user", "content": LARGE}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-service-key: dev-gateway-key\r\n"
    head += b"content-length: %d\r\n\r\n" % len(body)
    with GatewayProcess(tmp_path, log_level="error", max_body_bytes_in_flight=8 * MEBIBYTE) as gateway:
        before = resident_mb(gateway)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connected(gateway.port)) for _ in range(20)]
            for client in clients:
                client.sendall(head + body[:-1])
            time.sleep(0.5)
            assert resident_mb(gateway) - before < AT_MOST_MB
            small = {"model": "nope", "messages": [{"role": "user", "content": "hi"}]}
            assert gateway.call("POST", "/v1/chat/completions", small).status == 404
            statuses = []
            for client in clients:
                client.sendall(body[-1:])
                statuses.append(int(client.recv(12)[9:]))

        assert statuses.count(503) >= 18
        assert set(statuses) == {404, 503}
        assert ask(gateway.port, "/v1/chat/completions", body, {}) == 404


def settled(measure: Callable[[], float], enough: float) -> float:
    """Return the first measurement below `enough`, or the minimum of those of a second.

    The process may be about to return memory to the system.
    """
    least = measure()
    for _ in range(20):
        if least < enough:
            break
        time.sleep(0.05)
        least = min(least, measure())
    return least
