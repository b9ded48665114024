"""A provider's HTTP server on loopback, whose behaviour a test sets: the other end of a `Transport`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from llm_gateway.domain.catalog import Provider, Target
from llm_gateway.domain.upstream_call import UpstreamCall
from tests.worker.pipeline.fakes import provider

CALL = UpstreamCall("/chat", b"{}")

Behaviour: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Upstream:
    """A server that reads a whole request, keeps it, and then runs `behaviour`."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.asked = asyncio.Event()
        self.behaviour: Behaviour = saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
        self.port = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:")
                self.requests.append((head, await reader.readexactly(length)))
                self.asked.set()
                await self.behaviour(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def provider(self, path: str = "", **changes: Any) -> Provider:
        url = f"http://127.0.0.1:{self.port}"
        return provider(**{"target": Target(f"{url}{path}", f"{url}/models", {"authorization": "Bearer k"}), **changes})


def saying(*parts: bytes, close: bool = False, pause_s: float = 0.0) -> Behaviour:
    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if close:
            raise ConnectionError

    return behave


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    taken: socket.socket = writer.get_extra_info("socket")
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()
    raise ConnectionError


def answering(status: str, headers: str = "", body: bytes = b"") -> Behaviour:
    return saying(f"HTTP/1.1 {status}\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body)
