"""Parsers take time linear in their input, in pieces of any size.

Server-sent events are tested in `test_sse.py`, the protocols' readers and writers in `protocols/test_linear.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import process_time
from typing import Any, cast

import pytest

from llm_gateway.journal.frames import encode_frame, scan
from llm_gateway.telemetry.redaction import Redactor
from llm_gateway.upstream.connection import UpstreamConnection
from tests.server.harness import running

FEW, MANY = 20_000, 160_000
MOST = 4.0
"""Maximum ratio of the time per byte in MANY to that in FEW; with quadratic work it is eight."""
TRIES = 3


async def cost_of(take: Callable[[int], Awaitable[float]], size: int) -> float:
    """Return the CPU seconds per byte, the least of several tries."""
    return min([await take(size) for _ in range(TRIES)]) / size


async def assert_linear(take: Callable[[int], Awaitable[float]]) -> None:
    few = await cost_of(take, FEW)
    assert await cost_of(take, MANY) < MOST * few


class Wire:
    """A transport that drops all output; the test passes input to the connection itself."""

    def write(self, _data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def abort(self) -> None: ...

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


def spent(feed: Callable[[bytes], None], data: bytes) -> float:
    """Feed the data byte by byte. Returns the CPU seconds."""
    pieces = [data[at : at + 1] for at in range(len(data))]
    start = process_time()
    for piece in pieces:
        feed(piece)
    return process_time() - start


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_providers_response_is_parsed_in_linear_time(framing: str) -> None:
    async def take(size: int) -> float:
        connection = UpstreamConnection(10_000_000)
        connection.connection_made(cast(asyncio.Transport, Wire()))
        waiting = asyncio.ensure_future(connection.exchange(b"", 60))
        await asyncio.sleep(0)
        if framing == "length":
            connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            body = b"x" * size
        else:
            connection.data_received(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            body = b"1\r\nx\r\n" * (size // 6) + b"0\r\n\r\n"
        seconds = spent(connection.data_received, body)
        assert len((await waiting).body) == (size if framing == "length" else size // 6)
        connection.connection_lost(None)
        return seconds

    await assert_linear(take)


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_clients_request_is_parsed_in_linear_time(framing: str) -> None:
    async def take(size: int) -> float:
        async with running(body_bytes=10_000_000) as server:
            client = await server.connect()
            header = b"content-length: %d" % size if framing == "length" else b"transfer-encoding: chunked"
            await client.send(b"POST / HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n" % header)
            await asyncio.sleep(0.05)
            [connection] = cast(Any, server.server)._connections()
            body = b"x" * size if framing == "length" else b"1\r\nx\r\n" * (size // 6) + b"0\r\n\r\n"
            seconds = spent(connection.data_received, body)
            assert (await client.response()).json["size"] == (size if framing == "length" else size // 6)
            return seconds

    await assert_linear(take)


@pytest.mark.parametrize("text", ["sk-", "Bearer ", "Bearer" + " " * 50, "key=", "key=x" * 3, "AIza", "-sk-x", "a"])
async def test_redaction_takes_linear_time(text: str) -> None:
    redact = Redactor(["secret-secret"])

    async def take(size: int) -> float:
        line = text * (size // len(text))
        start = process_time()
        for _ in range(5):
            redact(line)
        return process_time() - start

    await assert_linear(take)


@pytest.mark.parametrize(
    "damage",
    [
        lambda frame: frame[20:],
        lambda frame: frame[:-1],
        lambda frame: frame[:30] + b"\n" + frame[30:],
        lambda frame: frame.replace(b"J2 ", b"J2 J2 "),
    ],
    ids=["head lost", "end lost", "torn", "head repeated"],
)
async def test_scanning_a_damaged_journal_takes_linear_time(damage: Callable[[bytes], bytes]) -> None:
    frame = damage(encode_frame("S", "0" * 36, b'{"a":"' + b"x" * 300 + b'"}'))

    async def take(size: int) -> float:
        data = frame * (4 * size // len(frame))
        start = process_time()
        scan(data)
        return process_time() - start

    await assert_linear(take)
