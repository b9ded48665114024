"""Pauses of reading after large reads, so that one fast provider does not block the event loop."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from llm_gateway.upstream.connection import LARGE_READ_BYTES, UpstreamConnection
from llm_gateway.upstream.response import HIGH_WATER_BYTES

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n"


class Wire:
    """A transport that records whether reading is paused."""

    def __init__(self) -> None:
        self._reads = True
        self.closes = False

    def reads(self) -> bool:
        return self._reads

    def write(self, _data: bytes) -> None: ...

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        assert not self.closes
        self._reads = True

    def abort(self) -> None:
        self.closes = True

    def is_closing(self) -> bool:
        return self.closes

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def connection(wire: Wire) -> UpstreamConnection:
    made = UpstreamConnection(20_000_000)
    made.connection_made(cast(asyncio.Transport, wire))
    return made


@pytest.mark.parametrize(("size", "pauses"), [(LARGE_READ_BYTES - 1, False), (LARGE_READ_BYTES, True)])
async def test_reading_pauses_for_a_turn_after_a_large_read(
    connection: UpstreamConnection, wire: Wire, size: int, pauses: bool
) -> None:
    waiting = asyncio.ensure_future(connection.exchange(b"", 5))
    await asyncio.sleep(0)
    connection.data_received(HEAD)

    connection.data_received(b"x" * size)
    assert wire.reads() is not pauses
    await asyncio.sleep(0)
    assert wire.reads()

    waiting.cancel()
    await asyncio.wait({waiting})


async def test_an_unread_stream_stays_paused(connection: UpstreamConnection, wire: Wire) -> None:
    stream = connection.open(b"")
    connection.data_received(HEAD)

    connection.data_received(b"x" * (LARGE_READ_BYTES + HIGH_WATER_BYTES))
    await asyncio.sleep(0)
    assert not wire.reads()
    await stream.read(5)
    assert wire.reads()

    stream.close()


async def test_reading_a_connection_closed_during_the_pause_is_not_resumed(
    connection: UpstreamConnection, wire: Wire
) -> None:
    stream = connection.open(b"")
    connection.data_received(HEAD)
    connection.data_received(b"x" * LARGE_READ_BYTES)

    stream.close()
    await asyncio.sleep(0)

    assert wire.closes
