"""Streamed responses at their edges: delayed heads, defects before and after the 200, late disconnects."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llm_gateway.domain.reply import Answer, Reply
from llm_gateway.domain.usage import Usage
from llm_gateway.errors import GatewayError, InternalError
from llm_gateway.worker.endpoints.streaming import HEARTBEAT_S, DrainLimit, StreamedResponse

ANSWER = Answer(
    reply=Reply(content="Hello", usage=Usage()), provider="p", model="m", cost_nanos=0, cost_status="exact",
    route=b"priority",
)  # fmt: skip


class Words:
    """An event writer that encodes everything as plain words."""

    content_type = b"text/plain"
    keep_alive = b"still here"

    def opened(self, came: Any) -> Any:
        return []

    def kept(self, answer: Answer) -> bytes:
        return answer.reply.content.encode()

    def take(self, raw_events: Any) -> bytes:
        return b"".join(raw_events)

    def end(self, answer: Answer) -> bytes:
        return b"end"

    def headers_of_error(self, error: GatewayError) -> None:
        return None

    def error(self, error: GatewayError) -> bytes:
        return f"error: {error.detail}".encode()


class Client:
    """The server's side of a client: it keeps what is sent, and delays the head and reading as the test wants."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self.head = asyncio.Event()
        self.reads = asyncio.Event()
        self.left = asyncio.Event()
        self.head.set()
        self.reads.set()

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            await self.head.wait()
            self.said.append(b"head")

    def take(self, data: bytes) -> bool:
        self.said.append(data)
        return self.reads.is_set()

    async def caught_up(self) -> None:
        await self.reads.wait()

    async def receive(self) -> Any:
        await self.left.wait()
        return {"type": "http.disconnect"}


def response(client: Client, drain_limit: DrainLimit, heartbeat_s: float = HEARTBEAT_S) -> StreamedResponse:
    def defect(error: Exception) -> GatewayError:
        return InternalError(str(error))

    return StreamedResponse(Words(), client.receive, client, drain_limit, [], defect, heartbeat_s)


async def test_a_defect_after_the_first_heartbeat_becomes_an_error_event() -> None:
    client = Client()

    async def open_() -> Any:
        while not client.said:  # noqa: ASYNC110 - the heartbeat says it
            await asyncio.sleep(0.001)
        raise ValueError("oh")

    await response(client, DrainLimit("drain"), heartbeat_s=0.01).run(asyncio.ensure_future(open_()))

    assert client.said[:2] == [b"head", Words.keep_alive]
    assert client.said[-1] == b"error: oh"


async def test_a_defect_before_the_first_heartbeat_is_raised() -> None:
    async def open_() -> Any:
        raise ValueError("oh")

    with pytest.raises(ValueError, match="oh"):
        await response(Client(), DrainLimit("drain")).run(asyncio.ensure_future(open_()))


async def test_a_client_that_disconnects_at_the_very_end_does_not_stay_counted() -> None:
    client, drain_limit = Client(), DrainLimit("drain")
    client.reads.clear()

    async def open_() -> Any:
        return ANSWER

    running = asyncio.ensure_future(response(client, drain_limit).run(asyncio.ensure_future(open_())))
    await asyncio.sleep(0.01)
    client.left.set()
    client.reads.set()  # in the same turn, as when a connection is lost
    await running
    await asyncio.sleep(0.01)

    assert drain_limit.count == 0


async def test_no_heartbeat_is_sent_before_the_head() -> None:
    """The head waits while the client has not read the previous response on the same connection."""
    client = Client()
    client.head.clear()

    class Relay:
        answer = None

        async def run(self, sink: Any) -> None:
            await sink.ready()
            sink.take([b"hello"])

    async def open_() -> Any:
        return Relay()

    opening = asyncio.ensure_future(open_())
    running = asyncio.ensure_future(response(client, DrainLimit("drain"), heartbeat_s=0.01).run(opening))
    await asyncio.sleep(0.05)  # five heartbeats
    assert client.said == []
    client.head.set()
    await running

    assert client.said == [b"head", b"hello"]
