"""A `Server` in the test's event loop, and an HTTP client that sends and reads raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from llm_gateway.server import Limits, Server, bind

Message = dict[str, Any]
Handler = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

WAIT_S = 10.0

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


async def read_body(receive: Callable[[], Awaitable[Message]]) -> bytes | None:
    """Return the whole body; None if the client disconnected before its end."""
    body = b""
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += bytes(message["body"])
        if not message["more_body"]:
            return body


async def answer(send: Callable[[Message], Awaitable[None]], body: bytes, status: int = 200, *extra: Any) -> None:
    headers = [(b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Message, receive: Any, send: Any) -> None:
    """Answer with a JSON document that describes the request."""
    body = await read_body(receive)
    if body is None:
        return
    seen = {key: scope[key] for key in ("method", "path", "http_version")}
    seen |= {"query": scope["query_string"].decode(), "size": len(body), "body": body[:100].decode("latin-1")}
    seen["headers"] = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
    await answer(send, json.dumps(seen).encode())


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One TCP connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, data: bytes, *, method: str = "GET") -> Response:
        await self.send(data)
        return await self.response(method=method)

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(WAIT_S):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = text.split("\r\n")[:-2]
        return int(first.split()[1]), dict(line.split(": ", 1) for line in lines)

    async def response(self, *, method: str = "GET") -> Response:
        """Read the next response, framed as RFC 9112 6.3 requires."""
        status, headers = await self.head()
        async with asyncio.timeout(WAIT_S):
            if method == "HEAD" or status in (100, 204, 304):
                body = b""
            elif headers.get("transfer-encoding") == "chunked":
                body = await self._chunks()
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            else:
                body = await self.reader.read()
        return Response(status, headers, body)

    async def _chunks(self) -> bytes:
        body = bytearray()
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            assert await self.reader.readline() == b"\r\n"
        assert await self.reader.readline() == b"\r\n"
        return bytes(body)

    async def rest(self) -> bytes:
        """Read until the server closes."""
        async with asyncio.timeout(WAIT_S):
            return await self.reader.read()

    async def is_reset_or_closed(self) -> bool:
        try:
            return await self.rest() == b""
        except ConnectionResetError:
            return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@dataclass
class Running:
    """A running server, the events it logged, and its clients."""

    port: int
    server: Server
    events: list[tuple[str, Message]]
    clients: list[Client] = field(default_factory=list)

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    def logged(self) -> list[str]:
        return [event for event, fields in self.events if fields.get("level") == "error"]


def application(handler: Handler) -> Handler:
    """Return an application that calls the handler for requests, and completes the lifespan."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await handler(scope, receive, send)
            return
        for _ in range(2):
            message = await receive()
            await send({"type": f"{message['type']}.complete"})

    return app


@contextlib.asynccontextmanager
async def running(
    handler: Handler = echo, *, accept_s: float = 0.0, drain_s: float = 0.2, **limits: Any
) -> AsyncIterator[Running]:
    """Run a server with these limits, and stop it at the end."""
    events: list[tuple[str, Message]] = []
    server = Server(
        application(handler),
        accept_s=accept_s,
        drain_s=drain_s,
        on_stopping=lambda: None,
        log=lambda event, **fields: events.append((event, fields)),
        limits=Limits(**{"sweep_s": 0.02, "linger_s": 0.3, "connect_s": 0.0} | limits),
    )
    sock = bind("127.0.0.1", 0)
    await server.start(sock)
    serving = asyncio.create_task(server.run())
    now = Running(sock.getsockname()[1], server, events)
    try:
        yield now
    finally:
        for client in now.clients:
            await client.close()
        server.stop()
        await serving
        sock.close()


async def refused(client: Client, status: int, code: str) -> Response:
    """Assert that the next response is this problem document, and that the connection ends with it."""
    response = await client.response()
    assert response.status == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["connection"] == "close"
    assert response.headers["x-should-retry"] == ("true" if status in (408, 503) else "false")
    assert response.headers["x-request-id"] == response.json["request_id"]
    assert uuid.UUID(response.json["request_id"]).version == 7
    assert set(response.json) == {"type", "title", "status", "detail", "code", "request_id"}
    assert (response.json["status"], response.json["code"]) == (status, code)
    assert await client.rest() == b""
    return response


class Gated:
    """An application that echoes each request's path once `gate` is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.started = 0
        self.ends: list[str] = []

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        self.started += 1
        body = await read_body(receive)
        if body is None:
            self.ends.append("disconnected")
            return
        await self.gate.wait()
        await answer(send, scope["path"].encode())
        self.ends.append(scope["path"])
