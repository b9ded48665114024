"""A response as it comes: its pieces, its end, and what is held for a slow reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from llm_gateway.upstream.pool import Pool
from llm_gateway.upstream.response import HIGH_WATER_BYTES, Broken, ResponseStream

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Far:
    """The other end of the newest connection."""

    def __init__(self) -> None:
        self.made = 0
        self.gone = asyncio.Event()
        self.writer: asyncio.StreamWriter
        self.asked = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        self.writer = writer
        try:
            while await reader.readuntil(b"{}"):
                self.asked.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.gone.set()
            writer.close()

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    def chunk(self, data: bytes) -> None:
        self.say(b"%x\r\n%b\r\n" % (len(data), data))


@pytest.fixture
def far() -> Far:
    return Far()


@pytest.fixture
async def pool(far: Far) -> AsyncIterator[Pool]:
    async with await asyncio.start_server(far, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        made = Pool(f"http://127.0.0.1:{port}", {}, tls=None, pinned=None, max_body_bytes=10_000_000)
        yield made
        made.close()
        if far.made:
            far.writer.close()
        await asyncio.sleep(0.02)


async def opened(pool: Pool, far: Far) -> ResponseStream:
    opening = asyncio.create_task(pool.open("/", b"{}", 5))
    await far.asked.wait()
    far.asked.clear()
    far.say(HEAD)
    return await opening


async def test_pieces_as_they_come_and_the_connection_is_kept(pool: Pool, far: Far) -> None:
    for _ in range(2):
        stream = await opened(pool, far)
        assert (stream.status, stream.header(b"content-type")) == (200, b"text/event-stream")
        far.chunk(b"one")
        assert await stream.read(5) == b"one"
        reading = asyncio.create_task(stream.read(5))
        await asyncio.sleep(0.02)
        assert not reading.done()
        far.chunk(b"two")
        assert await reading == b"two"
        far.say(b"0\r\n\r\n")
        assert await stream.read(5) == b""
        assert await stream.read(5) == b""
        pool.release(stream)

    assert far.made == 1


async def test_a_reader_that_comes_late_gets_all_at_once(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    far.chunk(b"one")
    far.chunk(b"two")
    far.say(b"0\r\n\r\n")
    await asyncio.sleep(0.05)

    assert await stream.read(5) == b"onetwo"
    assert await stream.read(5) == b""
    pool.release(stream)


async def test_too_late_closes_the_connection(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)

    with pytest.raises(TimeoutError):
        await stream.read(0.05)
    await asyncio.wait_for(far.gone.wait(), 5)
    with pytest.raises(Broken):
        await stream.read(5)


async def test_no_head_in_time(pool: Pool, far: Far) -> None:
    with pytest.raises(TimeoutError):
        await pool.open("/", b"{}", 0.05)

    await asyncio.wait_for(far.gone.wait(), 5)


async def test_a_cut_is_told_after_what_came_before(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    far.chunk(b"one")
    far.writer.close()
    await asyncio.sleep(0.05)

    assert await stream.read(5) == b"one"
    with pytest.raises(Broken, match="closed too early"):
        await stream.read(5)


async def test_whoever_is_released_early_closes_the_connection(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    reading = asyncio.create_task(stream.read(5))
    await asyncio.sleep(0.02)
    pool.release(stream)

    with pytest.raises(Broken, match="on this side"):
        await reading
    await asyncio.wait_for(far.gone.wait(), 1)


async def test_a_cancelled_reader_closes_the_connection(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    reading = asyncio.create_task(stream.read(5))
    await asyncio.sleep(0.02)
    reading.cancel()
    await asyncio.wait([reading])

    await asyncio.wait_for(far.gone.wait(), 1)


async def test_a_slow_reader_holds_no_more_than_256_kib(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    total = 8_000_000
    far.chunk(b"x" * total)
    far.say(b"0\r\n\r\n")
    await asyncio.sleep(0.3)
    held = stream._held

    assert HIGH_WATER_BYTES < held <= HIGH_WATER_BYTES + 256 * 1024
    got = 0
    while data := await stream.read(5):
        got += len(data)
    assert got == total
    pool.release(stream)
    assert (await opened(pool, far)).status == 200
    assert far.made == 1


async def test_a_stream_that_is_too_large_is_broken_off(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    far.chunk(b"x" * 10_000_001)

    async def read_on() -> None:
        while await stream.read(5):
            pass

    with pytest.raises(Broken, match="larger than 10000000 bytes"):
        await read_on()
