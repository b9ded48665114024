"""A response as it comes: its pieces, its end, and what is held for a slow reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from llm_gateway.upstream.pool import Pool
from llm_gateway.upstream.response import HIGH_WATER_BYTES, IncompleteResponse, ResponseStream
from tests.waiting import until

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
async def pool(far: Far, request: pytest.FixtureRequest) -> AsyncIterator[Pool]:
    limits = {"max_body_bytes": 10_000_000, **getattr(request, "param", {})}
    async with await asyncio.start_server(far, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        made = Pool(f"http://127.0.0.1:{port}", {}, tls=None, pinned=None, **limits)
        yield made
        made.close()
        if far.made:
            far.writer.close()
            await far.gone.wait()


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
        await asyncio.sleep(0)
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
    await until(lambda: stream._is_over)

    assert await stream.read(5) == b"onetwo"
    assert await stream.read(5) == b""
    pool.release(stream)


async def test_too_late_closes_the_connection(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)

    with pytest.raises(TimeoutError):
        await stream.read(0.05)
    await asyncio.wait_for(far.gone.wait(), 5)
    with pytest.raises(IncompleteResponse):
        await stream.read(5)


async def test_no_head_in_time(pool: Pool, far: Far) -> None:
    with pytest.raises(TimeoutError):
        await pool.open("/", b"{}", 0.05)

    await asyncio.wait_for(far.gone.wait(), 5)


async def test_a_cut_is_told_after_what_came_before(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    far.chunk(b"one")
    far.writer.close()
    await until(lambda: stream._is_over)

    assert await stream.read(5) == b"one"
    with pytest.raises(IncompleteResponse, match="closed too early"):
        await stream.read(5)


async def test_whoever_is_released_early_closes_the_connection(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    reading = asyncio.create_task(stream.read(5))
    await asyncio.sleep(0)
    pool.release(stream)

    with pytest.raises(IncompleteResponse, match="on this side"):
        await reading
    await asyncio.wait_for(far.gone.wait(), 1)


async def test_a_cancelled_reader_closes_the_connection(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    reading = asyncio.create_task(stream.read(5))
    await asyncio.sleep(0)
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


@pytest.mark.parametrize("pool", [{"max_stream_bytes": 10_000_000}], indirect=True)
async def test_a_stream_that_is_too_large_is_broken_off(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    far.chunk(b"x" * 10_000_001)

    async def read_on() -> None:
        while await stream.read(5):
            pass

    with pytest.raises(IncompleteResponse, match="larger than 10000000 bytes"):
        await read_on()


async def test_a_stream_may_be_larger_than_a_whole_answer(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    far.chunk(b"x" * 10_000_001)
    far.say(b"0\r\n\r\n")

    got = 0
    while data := await stream.read(5):
        got += len(data)

    assert got == 10_000_001


async def test_what_is_poured_is_taken_as_it_comes(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    far.chunk(b"held")
    await until(lambda: stream._held)
    taken: list[bytes] = []

    def take(data: bytes) -> bool:
        taken.append(data)
        return True

    pouring = asyncio.create_task(stream.deliver(take, 5))
    await until(lambda: taken == [b"held"])
    far.chunk(b"one")
    await until(lambda: taken == [b"held", b"one"])
    far.say(b"0\r\n\r\n")

    assert await pouring is False
    assert await stream.deliver(take, 5) is False
    pool.release(stream)
    assert (await opened(pool, far)).status == 200
    assert far.made == 1


async def test_who_has_enough_gets_the_rest_when_it_pours_again(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    taken: list[bytes] = []

    def take(data: bytes) -> bool:
        taken.append(data)
        return len(taken) == 2

    pouring = asyncio.create_task(stream.deliver(take, 5))
    await asyncio.sleep(0)
    far.chunk(b"one")
    assert await pouring is True
    total = 8_000_000
    far.chunk(b"x" * total)
    far.say(b"0\r\n\r\n")
    await asyncio.sleep(0.3)
    assert HIGH_WATER_BYTES < stream._held <= HIGH_WATER_BYTES + 256 * 1024

    more = [await stream.deliver(take, 5), await stream.deliver(take, 5)]
    while await stream.deliver(take, 5):
        pass

    assert more == [True, True]
    assert (taken[0], sum(map(len, taken))) == (b"one", total + 3)


async def test_silence_ends_a_pour_and_only_progress_counts(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)

    def in_vain(data: bytes) -> bool:
        return True

    def in_earnest(data: bytes) -> bool:
        stream.progressed()
        return len(data) < 4

    pouring = asyncio.create_task(stream.deliver(in_earnest, 0.3))
    for _ in range(4):
        await asyncio.sleep(0.15)
        far.chunk(b"one")
    far.chunk(b"last")
    assert await pouring is True

    pouring = asyncio.create_task(stream.deliver(in_vain, 0.3))
    for _ in range(3):
        await asyncio.sleep(0.15)
        far.chunk(b"one")
    with pytest.raises(TimeoutError):
        await pouring
    await asyncio.wait_for(far.gone.wait(), 1)


async def test_a_cut_in_a_pour(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    pouring = asyncio.create_task(stream.deliver(lambda _: True, 5))
    await asyncio.sleep(0)
    far.writer.close()

    with pytest.raises(IncompleteResponse, match="closed too early"):
        await pouring


async def test_who_pours_gets_its_own_error_back_and_the_connection_is_closed(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)

    def fails(data: bytes) -> bool:
        raise LookupError(data)

    pouring = asyncio.create_task(stream.deliver(fails, 5))
    await asyncio.sleep(0)
    far.chunk(b"one")

    with pytest.raises(LookupError, match="one"):
        await pouring
    pool.release(stream)
    await asyncio.wait_for(far.gone.wait(), 1)


def framed(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


async def test_the_end_does_not_hide_what_came_while_the_taker_had_enough(pool: Pool, far: Far) -> None:
    """All in one read of the socket: the piece that was enough, another, and the end."""
    stream = await opened(pool, far)
    taken: list[bytes] = []

    def take(data: bytes) -> bool:
        taken.append(data)
        return data != b"one"

    pouring = asyncio.create_task(stream.deliver(take, 5))
    await asyncio.sleep(0)
    far.say(framed(b"one", b"two", b"three") + b"0\r\n\r\n")

    assert await pouring is True
    assert await stream.deliver(take, 5) is False
    assert b"".join(taken) == b"onetwothree"


async def test_what_comes_with_a_broken_piece_is_not_taken(pool: Pool, far: Far) -> None:
    stream = await opened(pool, far)
    taken: list[bytes] = []

    def take(data: bytes) -> bool:
        taken.append(data)
        if data == b"bad":
            raise ValueError(data)
        return True

    pouring = asyncio.create_task(stream.deliver(take, 5))
    await asyncio.sleep(0)
    far.say(framed(b"one", b"bad", b"three") + b"0\r\n\r\n")

    with pytest.raises(ValueError, match="bad"):
        await pouring
    with pytest.raises(IncompleteResponse, match="bad"):
        await stream.deliver(take, 5)
    assert taken == [b"one", b"bad"]
