"""A small HTTP balancer over several gateways: it asks each whether it is ready, and sends it requests while it is."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tests.faults.client import BROKEN, Answer, Client, http_request

LOOK_EVERY_S = 0.05
WITHIN_S = 20.0


class Balancer:
    """Listens on `port` and passes each request to the next of the ports that are ready.

    As proxies do, it tries another one if a connection is refused, and never if something was sent.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._turns = itertools.count()
        self.ready: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._look())
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self._looking.cancel()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(self._looking, *self._tasks, return_exceptions=True)

    async def sees(self, number: int) -> None:
        """Wait until so many gateways are ready."""
        async with asyncio.timeout(WITHIN_S):
            while len(self.ready) != number:  # noqa: ASYNC110 - the balancer looks from time to time
                await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        while True:
            for port in self._ports:
                answer = await _ask(port, http_request("GET", "/readyz"))
                (self.ready.add if answer is not None and answer.status == 200 else self.ready.discard)(port)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while not reader.at_eof():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                answer = await self._answer(head + await reader.readexactly(length))
                if answer is None:
                    return
                writer.write(_as_bytes(answer))
                await writer.drain()
        except BROKEN:
            return
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, request: bytes) -> Answer | None:
        for _ in self._ports:
            ready = sorted(self.ready) or [*self._ports]
            client = Client(ready[next(self._turns) % len(ready)])
            try:
                await client.connect()
            except OSError:
                continue
            return await _answer(client, request)
        return None


async def _ask(port: int, request: bytes) -> Answer | None:
    client = Client(port)
    try:
        await client.connect()
    except OSError:
        return None
    return await _answer(client, request)


async def _answer(client: Client, request: bytes) -> Answer | None:
    try:
        await client.send(request)
        return await client.read()
    except BROKEN:
        return None
    finally:
        client.close()


def _as_bytes(answer: Answer) -> bytes:
    fields = {**answer.headers, "connection": "keep-alive"}
    lines = [f"HTTP/1.1 {answer.status} Answer", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body
