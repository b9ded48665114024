"""Pending writes of connections: sent together, in order, and never after a close."""

from __future__ import annotations

import asyncio
from typing import Any

from llm_gateway.server.shared_state import Outbox
from tests.server.harness import running
from tests.server.test_exchange import body, start


class Transport(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self, written: list[tuple[str, bytes]], name: str) -> None:
        super().__init__()
        self._written = written
        self._name = name
        self.closed = False

    def write(self, data: Any) -> None:
        self._written.append((self._name, data))

    def is_closing(self) -> bool:
        return self.closed


async def test_data_posted_in_one_turn_is_written_at_its_end_in_order() -> None:
    written: list[tuple[str, bytes]] = []
    a, b, outbox = Transport(written, "a"), Transport(written, "b"), Outbox()
    outbox.post(a, b"1")
    outbox.post(b, b"2")
    outbox.post(a, b"3")
    assert written == []
    await asyncio.sleep(0)
    assert written == [("a", b"13"), ("b", b"2")]
    outbox.post(b, b"4")
    await asyncio.sleep(0)
    assert written[2:] == [("b", b"4")]


async def test_nothing_is_written_to_a_closed_transport() -> None:
    written: list[tuple[str, bytes]] = []
    gone, here, outbox = Transport(written, "gone"), Transport(written, "here"), Outbox()
    outbox.post(gone, b"1")
    outbox.post(here, b"2")
    gone.closed = True
    await asyncio.sleep(0)
    assert written == [("here", b"2")]


async def test_emptying_early_writes_nothing_twice() -> None:
    written: list[tuple[str, bytes]] = []
    transport, outbox = Transport(written, "a"), Outbox()
    outbox.post(transport, b"1")
    outbox.empty()
    await asyncio.sleep(0)
    assert written == [("a", b"1")]


async def test_whole_and_streamed_answers_on_one_connection_keep_their_order() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(start())
        for _ in range(2 if scope["path"] == "/streamed" else 0):
            await send(body(scope["path"].encode(), more=True))
        await send(body(scope["path"].encode()))

    async with running(app) as server:
        client = await server.connect()
        paths = ("/whole", "/streamed", "/whole", "/streamed")
        await client.send(b"".join(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path.encode() for path in paths))
        said = [(await client.response()).body for _ in paths]
    assert said == [b"/whole", b"/streamed" * 3, b"/whole", b"/streamed" * 3]


async def test_a_refusal_follows_the_answers_before_it() -> None:
    async with running() as server:
        client = await server.connect()
        await client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/9.9\r\nhost: a\r\n\r\n")
        said = [(await client.response()).status for _ in range(2)]
        assert await client.rest() == b""
    assert said == [200, 400]
