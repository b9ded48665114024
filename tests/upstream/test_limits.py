"""Size limits of a provider's response: every part is bounded, not only the body, since each could be endless."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from llm_gateway.upstream.connection import MAX_HEAD_BYTES
from llm_gateway.upstream.pool import Pool
from llm_gateway.upstream.response import IncompleteResponse

LIMIT = 4_000_000
MOST_SENT = LIMIT + 12_000_000
"""The limit, and the bytes that the buffers of both sockets can hold on top."""
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
BLOCK = 65536
REFUSED = r"larger than|Header overflow|Expected|Invalid"
"""Messages of the connection or of the parser."""


def endless(block: bytes) -> Iterator[bytes]:
    while True:
        yield block * (BLOCK // len(block) + 1)


ENDLESS = {
    "status line": (b"HTTP/1.1 200 ", b"x"),
    "header": (OK + b"a: ", b"x"),
    "headers": (OK, b"a: b\r\n"),
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "interim responses with headers": (b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
    "body": (OK + b"content-length: 100000000\r\n\r\n", b"x"),
    "body until the end of the connection": (OK + b"\r\n", b"x"),
    "chunks": (CHUNKED, b"1000\r\n" + b"x" * 4096 + b"\r\n"),
    "chunks of two bytes": (CHUNKED, b"2\r\nxx\r\n"),
    "chunk extension": (CHUNKED + b"2;a=", b"x"),
    "chunk extensions": (CHUNKED, b"2;" + b"a=b;" * 20_000 + b"\r\nxx\r\n"),
    "trailer": (CHUNKED + b"2\r\nxx\r\n0\r\na: ", b"x"),
    "trailers": (CHUNKED + b"2\r\nxx\r\n0\r\n", b"a: b\r\n"),
}


class Provider:
    """A server that sends `before`, then `block` repeatedly until the connection ends."""

    def __init__(self, before: bytes, block: bytes) -> None:
        self.before, self.block = before, block
        self.sent = 0
        self.ended = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"{}")
            writer.write(self.before)
            for block in endless(self.block):
                writer.write(block)
                self.sent += len(block)
                await writer.drain()
                if self.sent > 10 * MOST_SENT:
                    break
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
            self.ended.set()


@asynccontextmanager
async def pool_of(provider: Provider) -> AsyncIterator[Pool]:
    async with await asyncio.start_server(provider, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        pool = Pool(f"http://127.0.0.1:{port}", {}, tls=None, pinned=None, max_body_bytes=LIMIT, max_stream_bytes=LIMIT)
        yield pool
        pool.close()
        async with asyncio.timeout(10):
            await provider.ended.wait()


@pytest.mark.parametrize("what", ENDLESS)
async def test_an_endless_part_of_a_response_is_cut_off(what: str) -> None:
    provider = Provider(*ENDLESS[what])
    async with pool_of(provider) as pool:
        with pytest.raises(IncompleteResponse, match=REFUSED):
            await pool.post("/", b"{}", 60)

    assert provider.sent <= MOST_SENT


@pytest.mark.parametrize("what", [what for what in ENDLESS if "bod" not in what and what not in ("chunks", "trailers")])
async def test_an_endless_part_of_a_stream_is_cut_off(what: str) -> None:
    provider = Provider(*ENDLESS[what])
    async with pool_of(provider) as pool:
        with pytest.raises(IncompleteResponse, match=REFUSED):
            await read_all(pool)

    assert provider.sent <= MOST_SENT


async def read_all(pool: Pool) -> None:
    stream = await pool.open("/", b"{}", 60)
    while await stream.read(60):
        pass


async def test_trailers_are_not_taken_for_headers() -> None:
    answer = CHUNKED + b"2\r\nhi\r\n0\r\nretry-after: 9\r\n\r\n"

    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(answer)
        await reader.read()
        writer.close()
        gone.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        pool = Pool(f"http://127.0.0.1:{port}", {}, tls=None, pinned=None, max_body_bytes=LIMIT, max_stream_bytes=LIMIT)
        response = await pool.post("/", b"{}", 5)
        pool.close()
        await gone.wait()

    assert (response.status, response.body, response.header(b"retry-after")) == (200, b"hi", None)


@pytest.mark.parametrize("size", [1, 2, 1000])
async def test_a_body_in_small_chunks_is_read_whole(size: int) -> None:
    body = b"ab" * 150_000
    chunks = b"".join(b"%x\r\n%b\r\n" % (size, body[at : at + size]) for at in range(0, len(body), size))

    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(CHUNKED + chunks + b"0\r\n\r\n")
        await reader.read()
        writer.close()
        gone.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        pool = Pool(f"http://127.0.0.1:{port}", {}, tls=None, pinned=None, max_body_bytes=LIMIT, max_stream_bytes=LIMIT)
        response = await pool.post("/", b"{}", 30)
        pool.close()
        await gone.wait()

    assert response.body == body
    assert len(chunks) > MAX_HEAD_BYTES
