"""One HTTP request and its response, as the ASGI application sees them: the `receive` and `send` of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from llm_gateway.server.shared_state import SharedState

App = Callable[[Any, Any, Any], Awaitable[None]]

CONNECTION, LENGTH, CODING = b"connection", b"content-length", b"transfer-encoding"
LF, CR, NUL = b"\n\r\0"
"""As integers: to look for `b"\\n"` in bytes takes several times as long as to look for 10."""
_REMEMBERED = 256
"""Sequences of header names that are remembered; an application has few."""


class ExchangeConnection(Protocol):
    """The methods and attributes of a `ClientConnection` that an exchange uses."""

    shared: SharedState
    transport: asyncio.Transport
    flow: FlowControl

    def read_on(self) -> None:
        """Resume reading: the application has consumed what was read of the body."""

    def answered(self, exchange: Exchange) -> None:
        """Go on to the next request; called once, when the response is written."""

    def abandon(self) -> None:
        """Close the connection; called when a response that has begun cannot be completed."""


class Exchange:
    """One request and its response. The exchange itself is ASGI's `send`, and a `BodySink` (endpoints/streaming.py).

    The head of the response is sent with the first body message, as ASGI requires: both go out in one write, and a
    response that fails before that can still become a 500.
    """

    __slots__ = (
        "arrived", "bodyless", "buffered", "chunked", "chunks", "complete", "connection", "disconnected", "ended",
        "expects_continue", "flow", "head", "keep_alive", "more_body", "outbox", "remaining", "scope", "started",
        "task", "transport", "written",
    )  # fmt: skip

    def __init__(
        self, connection: ExchangeConnection, scope: dict[str, Any], *, keep_alive: bool, expects_continue: bool
    ) -> None:
        self.connection = connection
        self.transport, self.flow, self.outbox = connection.transport, connection.flow, connection.shared.outbox
        self.scope = scope
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self.task: asyncio.Task[None] | None = None
        self.disconnected = False
        self.chunks: list[bytes] = []
        self.buffered = 0
        self.more_body = True
        self.ended = False  # the application has the body's last byte
        self.arrived: asyncio.Event | None = None
        self.started = False
        self.head = b""
        self.written = False
        self.bodyless = False
        self.chunked = False
        self.remaining: int | None = None
        self.complete = False

    async def run(self, app: App) -> None:
        """Call the application. Whatever it does, the client gets a complete response or a closed connection."""
        shared = self.connection.shared
        try:
            await app(self.scope, self.receive, self)
            if not (self.complete or self.disconnected):
                shared.log("response incomplete", level="error", path=self._logged_path())
                self._fail(500)
        except asyncio.CancelledError:
            self._fail(503)
        except Exception as error:  # edge: a defect of the application must not leave the client waiting
            shared.log("request failed", level="error", path=self._logged_path(), exc_info=error)
            self._fail(500)
        finally:
            shared.tasks.discard(self.task)

    def _logged_path(self) -> str:
        path: str = self.scope["path"]
        return path.partition("?")[0]  # an encoded question mark can hide a query with a key

    def _fail(self, status: int) -> None:
        if self.complete or self.disconnected:
            return
        self.keep_alive = False
        if self.written:
            self.disconnected = True
            self.connection.abandon()
            return
        scope = self.scope
        refusal = self.connection.shared.refusal(
            status,
            scope["headers"],
            method=scope["method"],
            path=scope["path"],
            client=scope.get("client"),
            with_body=scope["method"] != "HEAD",
        )
        self.outbox.post(self.transport, refusal)
        self._finish()

    def wake(self) -> None:
        """Wake `receive`: more of the body arrived, the body is complete, or the client is gone."""
        if self.arrived is not None:
            self.arrived.set()

    def drop(self) -> None:
        """Treat the client as gone: `receive` returns `http.disconnect`, and what the application sends is dropped."""
        self.disconnected = not self.complete
        self.wake()

    async def receive(self) -> dict[str, Any]:
        """Return the next piece of the request's body, or `http.disconnect` (ASGI's `receive`)."""
        if self.expects_continue and not (self.started or self.disconnected):
            self.expects_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while True:
            if self.disconnected or self.complete:
                return {"type": "http.disconnect"}
            if self.chunks or not (self.more_body or self.ended):
                body = b"".join(self.chunks)
                self.chunks.clear()
                self.buffered = 0
                self.ended = not self.more_body
                return {"type": "http.request", "body": body, "more_body": self.more_body}
            self.connection.read_on()
            if self.arrived is None:
                self.arrived = asyncio.Event()
            self.arrived.clear()
            await self.arrived.wait()

    async def __call__(self, message: dict[str, Any]) -> None:
        """Send the head or a piece of the body (ASGI's `send`). Waits while the client reads too slowly.

        Raises:
            RuntimeError: the application violates ASGI or HTTP.
        """
        flow = self.flow
        if flow.write_paused and not self.disconnected:
            await flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if self.complete or kind != ("http.response.body" if self.started else "http.response.start"):
            raise RuntimeError(f"Unexpected ASGI message {kind!r}.")
        if self.started:
            self._write(message.get("body", b""), more_body=message.get("more_body", False))
        else:
            self._start(message["status"], message.get("headers", ()))

    def take(self, body: bytes) -> bool:
        """Send a piece of the body without a coroutine; return False if the client reads too slowly.

        It equals sending a body message with `more_body`, and costs less for small pieces. After False, await
        `caught_up`.
        """
        if self.disconnected:
            return True
        self._write(body, more_body=True)
        return not self.flow.write_paused

    async def caught_up(self) -> None:
        """Return once the client has read most of what was written, or is gone."""
        flow = self.flow
        if flow.write_paused and not self.disconnected:
            await flow.drain()

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        headers = [*headers]
        place = _place_of_length(next(zip(*headers, strict=True), ()))  # the first of two columns: the names
        if place is None:
            headers = self._read_fields(headers)
        else:
            self.remaining = int(headers[place][1])
        lines = [STATUS_LINE[status][:-2], self.connection.shared.date, *map(b": ".join, headers)]
        self._frame(status, lines)
        text = b"".join(lines)
        if LF in text or CR in text or NUL in text:
            raise RuntimeError("A response header holds a line break or NUL.")
        self.started = True
        self.head = b"\r\n".join(lines) + b"\r\n\r\n"

    def _read_fields(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Read the fields about the body and the connection. Returns the headers to send, with names in lower case."""
        sent = []
        for name, value in headers:
            name = name.lower()  # noqa: PLW2901 - ASGI requires lower case, but not every application obeys
            if name == CONNECTION:
                self.keep_alive = self.keep_alive and b"close" not in value.lower()
                continue
            if name == LENGTH:
                self.remaining = int(value)
            elif name == CODING:
                self.chunked = True
            sent.append((name, value))
        return sent

    def _frame(self, status: int, lines: list[bytes]) -> None:
        """Choose how the end of the response is marked (RFC 9112 6.3), and whether the connection stays open."""
        self.bodyless = self.scope["method"] == "HEAD" or status in (204, 304)
        if not (self.bodyless or self.chunked) and self.remaining is None:
            if self.scope["http_version"] == "1.1":
                self.chunked = True
                lines.append(b"transfer-encoding: chunked")
            else:
                self.keep_alive = False  # HTTP/1.0 has no chunks: the body ends when the connection closes
        # A client that got no 100 (Continue) may or may not send the body now, so its next bytes are ambiguous.
        if self.connection.shared.stopping or (self.expects_continue and self.more_body):
            self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"connection: close")

    def _write(self, body: bytes, *, more_body: bool) -> None:
        body = self._framed(body, more_body=more_body)
        if self.head:
            body = self.head + body
            self.head = b""
        if body:
            self.written = True
            self.outbox.post(self.transport, body)
        if not more_body:
            self._finish()

    def _framed(self, body: bytes, *, more_body: bool) -> bytes:
        """Return a piece of the body with its chunk framing, and check it against Content-Length."""
        if self.bodyless:
            return b""
        if self.chunked:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            return body if more_body else body + b"0\r\n\r\n"
        if self.remaining is not None:
            self.remaining -= len(body)
            if self.remaining < 0 or (self.remaining and not more_body):
                raise RuntimeError("The response's body does not have its Content-Length.")
        return body

    def _finish(self) -> None:
        self.complete = True
        self.wake()
        self.connection.answered(self)


@lru_cache(maxsize=_REMEMBERED)
def _place_of_length(names: tuple[bytes, ...]) -> int | None:
    """Return the index of content-length in the names of a response's headers.

    None unless it is the only field that has to be read, and all names are in lower case.
    """
    is_plain = CONNECTION not in names and CODING not in names and b"".join(names).islower()
    return names.index(LENGTH) if is_plain and names.count(LENGTH) == 1 else None
