"""Closed-loop load generator of the benchmarks: it waits for slow answers, and gives up on silence."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.jobs import Job
from benchmarks.load import load

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
PATIENCE_S = 0.4
REQUESTS = 6


@asynccontextmanager
async def _answering(count: int, pause_s: float) -> AsyncIterator[int]:
    """Serve on the yielded port: answer `count` requests, each after a pause, and then none."""
    is_over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(count):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(pause_s)
            writer.write(ANSWER)
        with contextlib.suppress(ConnectionError):
            await reader.read()
            writer.close()
            await writer.wait_closed()
        is_over.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await is_over.wait()


def _job(port: int) -> Job:
    return Job(port, "/", "", {}, seconds=0.0, at_least=REQUESTS)


async def test_a_job_that_takes_longer_than_the_patience_is_waited_for_while_answers_come() -> None:
    async with _answering(REQUESTS, PATIENCE_S / 4) as port:
        result = await load(_job(port), PATIENCE_S)
    assert (result.requests, result.failed) == (REQUESTS, 0)
    assert result.seconds > PATIENCE_S


async def test_a_job_ends_with_a_failure_once_no_answer_comes() -> None:
    async with _answering(1, 0.0) as port:
        result = await load(_job(port), PATIENCE_S)
    assert (result.requests, result.failed, result.failure) == (1, 1, "answers did not come")
