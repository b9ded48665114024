"""Two servers in the test's event loop: the worker's, with gate and forwarder on TCP, and control's on its socket."""

from __future__ import annotations

import ast
import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_gateway.forwarding.control_server import ControlServer
from llm_gateway.forwarding.control_socket import ControlSocket
from llm_gateway.forwarding.forwarder import Forwarder, ForwardLimits
from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.gate.request_context import REQUEST_CONTEXT
from llm_gateway.server import Limits, Server, bind
from tests.server.harness import Client, Handler, Message, Response, answer, application, read_body

KEY = "dev-gateway-key"
KEYS = [("dév", KEY, frozenset({"admin", "read"})), ("reader", "reading-key", frozenset({"read"}))]

Event = tuple[str, Message]


async def describe(scope: Message, receive: Any, send: Any) -> None:
    """Answer with what an application sees of a request, as Python text."""
    body = await read_body(receive)
    if body is None:
        return
    context = scope[REQUEST_CONTEXT]
    keys = ("method", "path", "raw_path", "query_string", "scheme", "client", "server", "headers")
    seen = {key: scope[key] for key in keys} | {"body": body}
    seen |= {"caller": context.caller.name, "scopes": sorted(context.caller.scopes), "request_id": context.request_id}
    seen |= {"client_request_id": context.client_request_id, "echo": context.echo, "context": context.headers}
    await answer(send, repr(seen).encode())


@dataclass
class Worker:
    """The worker's side: its server's port, its forwarder, and what it logged."""

    port: int
    forwarder: Forwarder
    events: list[Event]
    alive: list[bool]
    handed_over: list[bool]
    clients: list[Client] = field(default_factory=list)

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def ask(self, method: str, path: str, body: bytes = b"", *fields: bytes, key: str | None = KEY) -> Response:
        """Send one request over a connection of its own."""
        client = await self.connect()
        return await client.ask(request(method, path, body, *fields, key=key), method=method)

    def logged(self) -> list[str]:
        return [event for event, _ in self.events]


def request(method: str, path: str, body: bytes = b"", *fields: bytes, key: str | None = KEY) -> bytes:
    lines = [f"{method} {path} HTTP/1.1".encode(), b"host: localhost", *fields]
    if key is not None:
        lines.append(b"x-service-key: " + key.encode())
    if body:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def with_lifespan(app: Any) -> Any:
    """Return an ASGI app that completes the lifespan, which `app` does not know."""
    return application(app)


def collector(events: list[Event]) -> Callable[..., None]:
    """Return a log that keeps the events."""
    return lambda event, **fields: events.append((event, fields))


@contextlib.asynccontextmanager
async def served(
    app: Any, log: Callable[..., None] = lambda *_, **__: None, **limits: Any
) -> AsyncIterator[tuple[int, Server]]:
    """Serve an application with TCP, and yield the port."""
    server = Server(
        with_lifespan(app),
        accept_s=0.0,
        drain_s=0.2,
        on_stopping=lambda: None,
        log=log,
        limits=Limits(**{"sweep_s": 0.02, "linger_s": 0.3, "connect_s": 0.0} | limits),
    )
    sock = bind("127.0.0.1", 0)
    await server.start(sock)
    serving = asyncio.create_task(server.run())
    try:
        yield sock.getsockname()[1], server
    finally:
        server.stop()
        await serving
        sock.close()


@contextlib.asynccontextmanager
async def worker(data_dir: Path, limits: ForwardLimits | None = None, **server_limits: Any) -> AsyncIterator[Worker]:
    """Run the worker's side."""
    events: list[Event] = []
    alive, handed_over = [True], [False]
    address = ControlSocket(data_dir)
    forwarder = Forwarder(
        address,
        is_alive=lambda: alive[0],
        is_handed_over=lambda: handed_over[0],
        log=collector(events),
        limits=limits,
    )
    gate = Gate(forwarder, Keyring(KEYS), local_only=True, log=collector(events))
    try:
        async with served(gate, collector(events), **server_limits) as (port, _):
            running = Worker(port, forwarder, events, alive, handed_over)
            try:
                yield running
            finally:
                for client in running.clients:
                    await client.close()
    finally:
        forwarder.close()
        address.close()


@dataclass
class Control:
    """Control's side: its server, and what it logged."""

    server: ControlServer
    socket: ControlSocket
    events: list[Event]

    def logged(self) -> list[str]:
        return [event for event, _ in self.events]


@contextlib.asynccontextmanager
async def control(data_dir: Path, app: Handler = describe) -> AsyncIterator[Control]:
    """Run control's side."""
    events: list[Event] = []
    address = ControlSocket(data_dir)
    server = ControlServer(with_lifespan(app), address, drain_s=0.2, log=collector(events))
    await server.start()
    serving = asyncio.create_task(server.run())
    try:
        yield Control(server, address, events)
    finally:
        server.stop()
        await serving
        address.close()


@contextlib.asynccontextmanager
async def both(data_dir: Path, app: Handler = describe, limits: ForwardLimits | None = None) -> AsyncIterator[Worker]:
    """Run both sides, and yield the worker's."""
    async with control(data_dir, app), worker(data_dir, limits) as running:
        yield running


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what the tests wait for sets no event
            await asyncio.sleep(0.005)


Send = Callable[[Message], Awaitable[None]]


async def never(scope: Message, receive: Any, send: Send) -> None:
    """Read the request, and never answer."""
    await read_body(receive)
    await asyncio.Event().wait()


def seen(response: Response) -> dict[str, Any]:
    """Decode the answer of `describe`."""
    assert response.status == 200, response
    found: dict[str, Any] = ast.literal_eval(response.body.decode())
    return found


def in_flight(running: Worker) -> int:
    return running.forwarder._count
