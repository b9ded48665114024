"""Connections between worker and control are reused, and a connection that was closed meanwhile is nobody's error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llm_gateway.forwarding.control_socket import ControlSocket
from llm_gateway.forwarding.forwarder import ForwardLimits
from tests.forwarding.harness import both, control, request, until, worker
from tests.server.harness import Client

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class RawControl:
    """Control's socket with a scripted server: counts connections, and keeps what each request was."""

    def __init__(self, answer: Callable[[int], bytes]) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head.split(b" ")[0])
                answer = self._answer(len(self.requests))
                writer.write(answer)
                if not answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


@asynccontextmanager
async def raw_control(data_dir: Path, answer: Callable[[int], bytes]) -> AsyncIterator[RawControl]:
    address = ControlSocket(data_dir)
    made = RawControl(answer)
    server = await asyncio.start_unix_server(made.serve, sock=address.bind())
    try:
        yield made
    finally:
        server.close()
        for writer in made.writers:
            writer.close()
        address.close()


async def ask(client: Client, method: str = "GET") -> int:
    return (await client.ask(request(method, "/x"), method=method)).status


async def test_safe_requests_reuse_a_connection(tmp_path: Path) -> None:
    async with raw_control(tmp_path, lambda _: OK) as raw, worker(tmp_path) as running:
        client = await running.connect()
        assert [await ask(client) for _ in range(5)] == [200] * 5
        assert raw.connections == 1


async def test_a_head_response_leaves_the_connection_usable(tmp_path: Path) -> None:
    head = OK.removesuffix(b"ok")
    async with raw_control(tmp_path, lambda n: head if n % 2 else OK) as raw, worker(tmp_path) as running:
        client = await running.connect()
        assert [await ask(client, method) for method in ("HEAD", "GET", "HEAD", "GET")] == [200] * 4
        assert raw.connections == 1


async def test_requests_that_change_something_get_a_connection_of_their_own(tmp_path: Path) -> None:
    async with raw_control(tmp_path, lambda _: OK) as raw, worker(tmp_path) as running:
        client = await running.connect()
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert await ask(client, method) == 200
        assert raw.connections == 4


async def test_a_reused_connection_that_control_closes_is_no_error_for_a_safe_request(tmp_path: Path) -> None:
    async with raw_control(tmp_path, lambda n: b"" if n == 2 else OK) as raw, worker(tmp_path) as running:
        client = await running.connect()
        assert await ask(client) == 200
        assert await ask(client) == 200
        assert (raw.connections, raw.requests) == (2, [b"GET"] * 3)


async def test_a_request_is_sent_again_only_once(tmp_path: Path) -> None:
    async with raw_control(tmp_path, lambda n: b"" if n > 1 else OK) as raw, worker(tmp_path) as running:
        client = await running.connect()
        assert await ask(client) == 200
        assert await ask(client) == 503
        assert raw.requests == [b"GET"] * 3


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_request_that_changes_something_is_never_sent_again(tmp_path: Path, method: str) -> None:
    async with raw_control(tmp_path, lambda _: b"") as raw, worker(tmp_path) as running:
        response = await running.ask(method, "/x")
        assert (response.status, response.headers["x-should-retry"]) == (503, "false")
        assert raw.requests == [method.encode()]


async def test_a_restarted_control_is_reached_over_new_connections(tmp_path: Path) -> None:
    async with worker(tmp_path) as running:
        client = await running.connect()
        for _ in range(3):
            async with control(tmp_path):
                assert [await ask(client) for _ in range(2)] == [200] * 2


async def test_idle_connections_are_closed_after_a_while(tmp_path: Path) -> None:
    async with raw_control(tmp_path, lambda _: OK) as raw, worker(tmp_path, ForwardLimits(idle_s=0.1)) as running:
        client = await running.connect()
        assert await ask(client) == 200
        await asyncio.sleep(0.2)
        assert await ask(client) == 200
        assert raw.connections == 2


async def test_a_response_with_connection_close_is_not_followed_by_another_request(tmp_path: Path) -> None:
    closing = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
    async with raw_control(tmp_path, lambda _: closing) as raw, worker(tmp_path) as running:
        client = await running.connect()
        for _ in range(2):
            response = await client.ask(request("GET", "/x"))
            assert response.status == 200
            assert "connection" not in response.headers, "the client's connection stays open"
        assert raw.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-t: 1\r\n\r\n",
    ],
)
async def test_each_response_is_that_of_its_request(tmp_path: Path, answer: bytes) -> None:
    async with raw_control(tmp_path, lambda _: answer) as raw, worker(tmp_path) as running:
        client = await running.connect()
        for _ in range(3):
            response = await client.ask(request("GET", "/x"))
            assert (response.status, response.body) == (200, b"ok")
        assert len(raw.requests) == 3


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_at_most_eight_unused_connections_are_kept_until_the_forwarder_is_closed(tmp_path: Path) -> None:
    async with both(tmp_path) as running:
        client = await running.connect()
        assert await ask(client) == 200
        before = descriptors()  # with one connection, which takes a descriptor on each side
        for _ in range(30):
            assert await ask(client, "DELETE") == 200
        await until(lambda: descriptors() == before + 2 * 7)
        running.forwarder.close()
        await until(lambda: descriptors() == before - 2)
        assert await ask(client) == 200
        await until(lambda: descriptors() == before - 2)
