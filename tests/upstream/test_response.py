"""Streamed responses: reading and delivery of pieces, time-outs, errors, and buffering for slow readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from llm_gateway.upstream.pool import Pool
from llm_gateway.upstream.response import HIGH_WATER_BYTES, IncompleteResponse, ResponseStream
from tests.waiting import until

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class ProviderSide:
    """The provider's side of the newest connection."""

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
def provider_side() -> ProviderSide:
    return ProviderSide()


@pytest.fixture
async def pool(provider_side: ProviderSide, request: pytest.FixtureRequest) -> AsyncIterator[Pool]:
    limits = {"max_body_bytes": 10_000_000, **getattr(request, "param", {})}
    async with await asyncio.start_server(provider_side, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        made = Pool(f"http://127.0.0.1:{port}", {}, tls=None, pinned=None, **limits)
        yield made
        made.close()
        if provider_side.made:
            provider_side.writer.close()
            await provider_side.gone.wait()


async def opened(pool: Pool, provider_side: ProviderSide) -> ResponseStream:
    opening = asyncio.create_task(pool.open("/", b"{}", 5))
    await provider_side.asked.wait()
    provider_side.asked.clear()
    provider_side.say(HEAD)
    return await opening


async def test_pieces_are_read_as_they_arrive_and_the_connection_is_kept(
    pool: Pool, provider_side: ProviderSide
) -> None:
    for _ in range(2):
        stream = await opened(pool, provider_side)
        assert (stream.status, stream.header(b"content-type")) == (200, b"text/event-stream")
        provider_side.chunk(b"one")
        assert await stream.read(5) == b"one"
        reading = asyncio.create_task(stream.read(5))
        await asyncio.sleep(0)
        assert not reading.done()
        provider_side.chunk(b"two")
        assert await reading == b"two"
        provider_side.say(b"0\r\n\r\n")
        assert await stream.read(5) == b""
        assert await stream.read(5) == b""
        pool.release(stream)

    assert provider_side.made == 1


async def test_a_late_reader_gets_everything_at_once(pool: Pool, provider_side: ProviderSide) -> None:
    stream = await opened(pool, provider_side)
    provider_side.chunk(b"one")
    provider_side.chunk(b"two")
    provider_side.say(b"0\r\n\r\n")
    await until(lambda: stream._is_over)

    assert await stream.read(5) == b"onetwo"
    assert await stream.read(5) == b""
    pool.release(stream)


async def test_a_read_timeout_closes_the_connection(pool: Pool, provider_side: ProviderSide) -> None:
    stream = await opened(pool, provider_side)

    with pytest.raises(TimeoutError):
        await stream.read(0.05)
    await asyncio.wait_for(provider_side.gone.wait(), 5)
    with pytest.raises(IncompleteResponse):
        await stream.read(5)


async def test_a_head_timeout_closes_the_connection(pool: Pool, provider_side: ProviderSide) -> None:
    with pytest.raises(TimeoutError):
        await pool.open("/", b"{}", 0.05)

    await asyncio.wait_for(provider_side.gone.wait(), 5)


async def test_a_broken_connection_is_raised_after_the_data_before_it(pool: Pool, provider_side: ProviderSide) -> None:
    stream = await opened(pool, provider_side)
    provider_side.chunk(b"one")
    provider_side.writer.close()
    await until(lambda: stream._is_over)

    assert await stream.read(5) == b"one"
    with pytest.raises(IncompleteResponse, match="closed too early"):
        await stream.read(5)


async def test_an_early_release_closes_the_connection(pool: Pool, provider_side: ProviderSide) -> None:
    stream = await opened(pool, provider_side)
    reading = asyncio.create_task(stream.read(5))
    await asyncio.sleep(0)
    pool.release(stream)

    with pytest.raises(IncompleteResponse, match="on this side"):
        await reading
    await asyncio.wait_for(provider_side.gone.wait(), 1)


async def test_a_cancelled_reader_closes_the_connection(pool: Pool, provider_side: ProviderSide) -> None:
    stream = await opened(pool, provider_side)
    reading = asyncio.create_task(stream.read(5))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])

    await asyncio.wait_for(provider_side.gone.wait(), 1)


async def test_at_most_one_read_beyond_the_mark_is_buffered_for_a_slow_reader(
    pool: Pool, provider_side: ProviderSide
) -> None:
    stream = await opened(pool, provider_side)
    total = 8_000_000
    provider_side.chunk(b"x" * total)
    provider_side.say(b"0\r\n\r\n")
    await asyncio.sleep(0.3)
    held = stream._held

    assert HIGH_WATER_BYTES < held <= HIGH_WATER_BYTES + 256 * 1024
    got = 0
    while data := await stream.read(5):
        got += len(data)
    assert got == total
    pool.release(stream)
    assert (await opened(pool, provider_side)).status == 200
    assert provider_side.made == 1


@pytest.mark.parametrize("pool", [{"max_stream_bytes": 10_000_000}], indirect=True)
async def test_a_stream_that_is_too_large_is_cut_off(pool: Pool, provider_side: ProviderSide) -> None:
    stream = await opened(pool, provider_side)
    provider_side.chunk(b"x" * 10_000_001)

    async def read_on() -> None:
        while await stream.read(5):
            pass

    with pytest.raises(IncompleteResponse, match="larger than 10000000 bytes"):
        await read_on()


async def test_a_stream_may_exceed_the_limit_of_whole_responses(pool: Pool, provider_side: ProviderSide) -> None:
    stream = await opened(pool, provider_side)
    provider_side.chunk(b"x" * 10_000_001)
    provider_side.say(b"0\r\n\r\n")

    got = 0
    while data := await stream.read(5):
        got += len(data)

    assert got == 10_000_001


async def test_delivered_data_is_taken_as_it_arrives(pool: Pool, provider_side: ProviderSide) -> None:
    stream = await opened(pool, provider_side)
    provider_side.chunk(b"held")
    await until(lambda: stream._held)
    taken: list[bytes] = []

    def take(data: bytes) -> bool:
        taken.append(data)
        return True

    delivering = asyncio.create_task(stream.deliver(take, 5))
    await until(lambda: taken == [b"held"])
    provider_side.chunk(b"one")
    await until(lambda: taken == [b"held", b"one"])
    provider_side.say(b"0\r\n\r\n")

    assert await delivering is False
    assert await stream.deliver(take, 5) is False
    pool.release(stream)
    assert (await opened(pool, provider_side)).status == 200
    assert provider_side.made == 1


async def test_data_after_take_returned_false_is_delivered_by_the_next_call(
    pool: Pool, provider_side: ProviderSide
) -> None:
    stream = await opened(pool, provider_side)
    taken: list[bytes] = []

    def take(data: bytes) -> bool:
        taken.append(data)
        return len(taken) == 2

    delivering = asyncio.create_task(stream.deliver(take, 5))
    await asyncio.sleep(0)
    provider_side.chunk(b"one")
    assert await delivering is True
    total = 8_000_000
    provider_side.chunk(b"x" * total)
    provider_side.say(b"0\r\n\r\n")
    await asyncio.sleep(0.3)
    assert HIGH_WATER_BYTES < stream._held <= HIGH_WATER_BYTES + 256 * 1024

    more = [await stream.deliver(take, 5), await stream.deliver(take, 5)]
    while await stream.deliver(take, 5):
        pass

    assert more == [True, True]
    assert (taken[0], sum(map(len, taken))) == (b"one", total + 3)


async def test_delivery_times_out_without_progress(pool: Pool, provider_side: ProviderSide) -> None:
    stream = await opened(pool, provider_side)

    def in_vain(data: bytes) -> bool:
        return True

    def in_earnest(data: bytes) -> bool:
        stream.progressed()
        return len(data) < 4

    delivering = asyncio.create_task(stream.deliver(in_earnest, 0.3))
    for _ in range(4):
        await asyncio.sleep(0.15)
        provider_side.chunk(b"one")
    provider_side.chunk(b"last")
    assert await delivering is True

    delivering = asyncio.create_task(stream.deliver(in_vain, 0.3))
    for _ in range(3):
        await asyncio.sleep(0.15)
        provider_side.chunk(b"one")
    with pytest.raises(TimeoutError):
        await delivering
    await asyncio.wait_for(provider_side.gone.wait(), 1)


async def test_a_broken_connection_ends_delivery(pool: Pool, provider_side: ProviderSide) -> None:
    stream = await opened(pool, provider_side)
    delivering = asyncio.create_task(stream.deliver(lambda _: True, 5))
    await asyncio.sleep(0)
    provider_side.writer.close()

    with pytest.raises(IncompleteResponse, match="closed too early"):
        await delivering


async def test_an_error_of_take_is_raised_by_deliver_and_closes_the_connection(
    pool: Pool, provider_side: ProviderSide
) -> None:
    stream = await opened(pool, provider_side)

    def fails(data: bytes) -> bool:
        raise LookupError(data)

    delivering = asyncio.create_task(stream.deliver(fails, 5))
    await asyncio.sleep(0)
    provider_side.chunk(b"one")

    with pytest.raises(LookupError, match="one"):
        await delivering
    pool.release(stream)
    await asyncio.wait_for(provider_side.gone.wait(), 1)


def framed(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


async def test_the_end_does_not_hide_data_after_take_returned_false(pool: Pool, provider_side: ProviderSide) -> None:
    """One read of the socket holds the piece after which `take` returns False, another piece, and the end."""
    stream = await opened(pool, provider_side)
    taken: list[bytes] = []

    def take(data: bytes) -> bool:
        taken.append(data)
        return data != b"one"

    delivering = asyncio.create_task(stream.deliver(take, 5))
    await asyncio.sleep(0)
    provider_side.say(framed(b"one", b"two", b"three") + b"0\r\n\r\n")

    assert await delivering is True
    assert await stream.deliver(take, 5) is False
    assert b"".join(taken) == b"onetwothree"


async def test_data_after_an_error_of_take_is_dropped(pool: Pool, provider_side: ProviderSide) -> None:
    stream = await opened(pool, provider_side)
    taken: list[bytes] = []

    def take(data: bytes) -> bool:
        taken.append(data)
        if data == b"bad":
            raise ValueError(data)
        return True

    delivering = asyncio.create_task(stream.deliver(take, 5))
    await asyncio.sleep(0)
    provider_side.say(framed(b"one", b"bad", b"three") + b"0\r\n\r\n")

    with pytest.raises(ValueError, match="bad"):
        await delivering
    with pytest.raises(IncompleteResponse, match="bad"):
        await stream.deliver(take, 5)
    assert taken == [b"one", b"bad"]
