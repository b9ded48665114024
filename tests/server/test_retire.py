"""Server that retires: another process accepts on the same socket, and no client sees a difference."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import Any

from tests.server.harness import GET, Message, Running, answer, read_body, running
from tests.waiting import until

DRAIN_S = 60.0


async def handle(scope: Message, receive: Any, send: Any) -> None:
    """Answer; /stream takes half a second for it."""
    await read_body(receive)
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
        await send({"type": "http.response.body", "body": b"done", "more_body": True})
        await asyncio.sleep(0.5)
        await send({"type": "http.response.body", "body": b"done"})
    else:
        await answer(send, b"done")


def successors_socket(server: Running) -> socket.socket:
    """Return the copy of the listening socket that another process would have."""
    listener = server.server._sock
    assert listener is not None
    return listener.dup()


async def test_connections_go_to_the_successor_at_once() -> None:
    async with running(handle, drain_s=DRAIN_S) as server:
        with successors_socket(server) as successor:
            server.server.retire()
            await until(lambda: "retiring" in [event for event, _ in server.events])
            await asyncio.sleep(0)
            client = await server.connect()
            await client.send(GET)
            accepted, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(successor), 5)
            with accepted:
                assert await asyncio.get_running_loop().sock_recv(accepted, 1000) == GET


async def test_an_idle_connection_is_closed_after_one_more_answer() -> None:
    async with running(handle, drain_s=DRAIN_S) as server:
        kept = await server.connect()
        assert "connection" not in (await kept.ask(GET)).headers
        server.server.retire()
        await asyncio.sleep(1)
        response = await kept.ask(GET)
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert await kept.rest() == b""


async def test_an_idle_connection_that_is_not_used_is_closed_after_5_seconds() -> None:
    async with running(handle, drain_s=DRAIN_S) as server:
        kept = await server.connect()
        await kept.ask(GET)
        server.server.retire()
        started = time.monotonic()
        assert await kept.rest() == b""
        assert 4 < time.monotonic() - started < 7


async def test_a_request_that_has_arrived_is_answered_though_its_connection_was_to_be_closed() -> None:
    async with running(handle, drain_s=DRAIN_S) as server:
        kept = await server.connect()
        await kept.ask(GET)
        server.server.retire()
        await asyncio.sleep(0.1)
        assert os.write(kept.writer.get_extra_info("socket").fileno(), GET) == len(GET)
        [connection] = server.server._connections()
        connection.expire(connection.deadline)  # in the same turn of the event loop, which has not read it
        assert (await kept.response()).status == 200


async def test_a_stream_that_began_before_ends_and_its_connection_is_closed_soon() -> None:
    async with running(handle, drain_s=DRAIN_S) as server:
        streaming = await server.connect()
        await streaming.send(GET.replace(b"/", b"/stream", 1))
        _, headers = await streaming.head()
        assert "connection" not in headers
        server.server.retire()
        started = time.monotonic()
        assert await streaming.rest() == b"donedone"
        assert time.monotonic() - started < 7
