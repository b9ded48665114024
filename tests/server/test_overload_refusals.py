"""Requests that an overloaded server refuses before their bodies have come: what each connection gets, when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from llm_gateway.server.held_connection import CLOSING
from llm_gateway.server.intake import MOST_DROPPED_BYTES, Intake
from tests.server.harness import GET, Running, running
from tests.server.test_intake import POST
from tests.waiting import until


class Refusing(Intake):
    """An intake that is full, and refuses everything."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.is_overloaded = True

    def _hold(self, connection: Any, data: bytes) -> bool:
        self._refuse(connection, data, 0.0)
        return False

    def admits(self, connection: Any, data: bytes) -> bool:
        self._is_full = True
        return super().admits(connection, data)


@contextlib.asynccontextmanager
async def refusing(**limits: Any) -> AsyncIterator[Running]:
    async with running(**limits) as server:
        shared: Any = server.server._shared
        shared.intake = Refusing(shared.log, lambda: shared.date, shared.outbox.empty)
        yield server


async def test_a_request_is_refused_before_its_body_has_come_and_its_connection_stays_open() -> None:
    head = POST.replace(b"Length: 2", b"Length: 100000")[:-2]
    async with refusing() as server:
        client = await server.connect()
        for rest in (bytes(100_000), bytes(100_000) + POST):
            await client.send(head + rest[:500])
            assert (await client.response()).status == 503
            await client.send(rest[500:])
        assert (await client.response()).status == 503, "what follows a body is the next request"
        await client.send(POST + POST)
        refusal = await client.response()
        assert (refusal.status, refusal.headers["connection"]) == (503, "close"), "its end is not certain"


async def test_a_refused_request_whose_rest_is_too_much_or_does_not_come_ends_its_connection() -> None:
    head = POST.replace(b"Length: 2", b"Length: %d" % (MOST_DROPPED_BYTES + 1))[:-2]
    async with refusing(body_s=0.05, linger_s=0.05) as server:
        client = await server.connect()
        assert (await client.ask(head)).headers["connection"] == "close"
        client = await server.connect()
        assert "connection" not in (await client.ask(POST[:-1])).headers
        assert await client.rest() == b""


async def test_refusals_do_not_pile_up_for_a_client_that_does_not_read() -> None:
    async with refusing() as server:
        shared: Any = server.server._shared
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.connect(("127.0.0.1", server.port))
            await until(lambda: shared.connections)
            [connection] = shared.connections
            while connection.phase != CLOSING:
                client.send(POST)
                await asyncio.sleep(0)
                assert connection.transport.get_write_buffer_size() < 2 * HIGH_WATER_LIMIT


async def test_a_client_that_does_not_wait_for_its_refusal_gets_one_and_is_disconnected() -> None:
    """What is read in the same turn of the loop as the refused request is neither parsed nor answered.

    uvloop reads a socket again in the same turn if a read has filled its buffer.
    """
    more = (POST, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"no request at all")
    part = POST.replace(b"Length: 2", b"Length: 3")
    async with refusing(linger_s=0.05) as server:
        shared: Any = server.server._shared
        for first, rest, then in [*((POST, b"", each) for each in more), *((part, b"}", each) for each in more)]:
            client = await server.connect()
            await until(lambda: len(shared.connections) == 1)
            [connection] = shared.connections
            connection.data_received(first)
            connection.data_received(rest + then)
            refusal = await client.response()
            assert (refusal.status, refusal.headers["connection"]) == (503, "close")
            assert await client.rest() == b""
            await until(lambda: not shared.connections)
        client = await server.connect()
        assert (await client.ask(POST)).status == 503, "the others are refused as before"
        assert (await client.ask(GET)).status == 200


async def test_a_refusal_says_that_the_connection_closes_while_the_server_stops() -> None:
    async with refusing() as server:
        client, waiting = await server.connect(), await server.connect()
        assert "connection" not in (await waiting.ask(POST[:-1])).headers
        server.server.retire()
        assert (await client.ask(POST)).headers["connection"] == "close"
        assert await client.rest() == b""
        assert await waiting.rest() == b"", "its response has left, and the rest of its body may never come"
