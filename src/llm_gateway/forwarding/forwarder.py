"""Worker's side of the management API: an ASGI app that sends requests to the control process and relays its responses.

One request:

    refused at once: control sends no heartbeat, or `LIMIT` requests are being forwarded
    waits: another control process takes over
    connect ──▶ send the head ──▶ wait for the response's head ──▶ relay the response's body ──▶ over
                     │                   │  control falls silent, dies or takes too long: 503
                     │                   │  a reused connection was closed meanwhile: once more over a new one
                     └──▶ a task sends the body, then waits for the client's disconnect, which closes the connection
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from llm_gateway.error_format.send_error import send_error
from llm_gateway.errors import GatewayError, ManagementUnavailable, Overloaded
from llm_gateway.forwarding.control_socket import ControlSocket
from llm_gateway.forwarding.headers import chunk, is_chunked, request_head, response_headers
from llm_gateway.gate.body import WITH_BODY
from llm_gateway.upstream.response import IncompleteResponse, ResponseStream
from llm_gateway.upstream.upload import UploadConnection

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110, 9.2.1), so that a request can be sent again without asking the client."""
NOT_RUNNING = "The gateway's management API is not running: send the request again in a second. Calls are served."
UNKNOWN_OUTCOME = (
    "The gateway's management API stopped before it answered, and may have carried out this request: look at what the "
    "request changes before you repeat it."
)


@dataclass(frozen=True, slots=True)
class ForwardLimits:
    """Limits of forwarded requests; times in seconds.

    The time for which a response waits for a client that reads slowly does not count: the worker's server limits it.
    """

    requests: int = 64  # forwarded at once
    answer_s: float = 120.0  # from the request's head to the response's head
    silent_s: float = 120.0  # without any part of the response's body
    idle: int = 8  # unused connections that are kept
    idle_s: float = 30.0  # for which an unused connection is kept; control's server keeps it longer
    watch_s: float = 0.1  # between two looks for control's heartbeat while requests wait for it
    hand_over_s: float = 2.0  # for which a request waits while another control process takes over
    hand_over_look_s: float = 0.01  # between two looks whether it has


class Forwarder:
    """ASGI app that forwards requests to the control process. Their scope must have a `RequestContext` (see `gate`).

    Args:
        control: the address of the control process.
        is_alive: returns whether control has sent a heartbeat lately. While it returns False, requests are refused
            without an attempt to connect, and those that wait for a response fail.
        is_handed_over: returns whether another control process takes over right now; requests wait for it.
        log: takes a line if a response breaks off.
        limits: see `ForwardLimits`.
    """

    def __init__(
        self,
        control: ControlSocket,
        *,
        is_alive: Callable[[], bool],
        log: Callable[..., None],
        is_handed_over: Callable[[], bool] = lambda: False,
        limits: ForwardLimits | None = None,
    ) -> None:
        self._control = control
        self._is_alive = is_alive
        self._is_handed_over = is_handed_over
        self._log = log
        self._limits = limits or ForwardLimits()
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._idle: list[UploadConnection] = []
        self._waiting: set[UploadConnection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one HTTP request, or answer it with an error in the format of its path."""
        try:
            self._check_count()
            self._count += 1
            try:
                await self._wait_for_control()
                await self._forward(ForwardedRequest(scope, receive, send))
            finally:
                self._count -= 1
        except GatewayError as error:
            await send_error(send, scope, error)

    def close(self) -> None:
        """Close idle connections now, and busy ones once their response is complete."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    async def _wait_for_control(self) -> None:
        """Wait while another control process takes over.

        Raises:
            ManagementUnavailable: control sends no heartbeat.
        """
        waits_until = self._loop.time() + self._limits.hand_over_s
        while self._is_handed_over() and self._loop.time() < waits_until:  # noqa: ASYNC110 - the time counts, too
            await asyncio.sleep(self._limits.hand_over_look_s)
        if not self._is_alive():
            raise ManagementUnavailable(NOT_RUNNING)

    def _check_count(self) -> None:
        if self._count >= self._limits.requests:
            raise Overloaded(
                f"{self._limits.requests} requests of the management API are being served, which is the limit: send "
                "this one again.",
                retry_after_s=1,
            )

    async def _forward(self, request: ForwardedRequest) -> None:
        reused = self._free() if request.method in SAFE else None
        connection = reused or await self._connect()
        try:
            try:
                stream = await self._ask(request, connection)
            except IncompleteResponse:
                if reused is None or request.is_gone:
                    raise
                await self._wait_for_control()
                connection = await self._connect()  # control closed the other one while it was idle
                stream = await self._ask(request, connection)
            await request.relay(stream, self._limits.silent_s)
        except (IncompleteResponse, TimeoutError) as error:
            if request.is_gone:
                return
            if not request.has_begun:
                raise self._failure(request.method, is_late=isinstance(error, TimeoutError)) from None
            problem = str(error) or "nothing arrived for too long"
            self._log("response of the management API broke off", level="warning", path=request.path, problem=problem)
            return  # without the end of the response, so that the server closes the client's connection
        finally:
            request.stop_reading()
            self._release(connection)
        await request.end()

    async def _ask(self, request: ForwardedRequest, connection: UploadConnection) -> ResponseStream:
        """Send a request, and return its response once its head has arrived.

        Raises:
            TimeoutError: it did not arrive in time.
            IncompleteResponse: the connection broke, or control sends no heartbeat any more.
        """
        stream = request.start(connection)
        self._waiting.add(connection)
        if self._timer is None:
            self._timer = self._loop.call_later(self._limits.watch_s, self._watch)
        try:
            await stream.head(self._limits.answer_s)
        finally:
            self._waiting.discard(connection)
        return stream

    def _watch(self) -> None:
        """Close the connections that wait for a response if control sends no heartbeat any more."""
        if self._waiting and not self._is_alive():
            for connection in self._waiting:
                connection.close()
        self._timer = self._loop.call_later(self._limits.watch_s, self._watch) if self._waiting else None

    def _failure(self, method: str, *, is_late: bool) -> ManagementUnavailable:
        """Return the error for a request that got no response; `is_late`: control took too long."""
        is_safe = method in SAFE
        if is_late:
            limit = f"{self._limits.answer_s:g} seconds"
            return ManagementUnavailable(
                f"The gateway's management API did not answer within {limit}: "
                + ("send the request again." if is_safe else "look at what the request changes before you repeat it."),
                retryable=is_safe,
            )
        return ManagementUnavailable(NOT_RUNNING if is_safe else UNKNOWN_OUTCOME, retryable=is_safe)

    def _free(self) -> UploadConnection | None:
        """Return the idle connection that was used last, None if none is idle."""
        oldest = self._loop.time() - self._limits.idle_s
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable and connection.idle_since >= oldest:
                return connection
            connection.close()
        return None

    def _release(self, connection: UploadConnection) -> None:
        self._idle = [each for each in self._idle if each.is_reusable]
        if connection.is_reusable and not self._is_closed and len(self._idle) < self._limits.idle:
            self._idle.append(connection)
        else:
            connection.close()

    async def _connect(self) -> UploadConnection:
        """Make a connection.

        Raises:
            ManagementUnavailable: control does not listen.
        """
        try:
            sock = self._control.connect()
        except OSError:
            raise ManagementUnavailable(NOT_RUNNING) from None
        try:
            _, connection = await self._loop.create_unix_connection(UploadConnection, sock=sock)
        except BaseException:  # edge: the socket has no owner yet
            sock.close()
            raise
        return connection


class ForwardedRequest:
    """One request that is being forwarded: sends its body, relays its response, and watches for a disconnect.

    `is_gone`: the client has disconnected. `has_begun`: the response's head was sent to the client.
    """

    __slots__ = ("_connection", "_reader", "_receive", "_scope", "_send", "_stream", "has_begun", "is_gone")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._connection: UploadConnection | None = None
        self._stream: ResponseStream | None = None
        self._reader: asyncio.Task[None] | None = None
        self.is_gone = False
        self.has_begun = False

    @property
    def method(self) -> str:
        """The request's method."""
        return str(self._scope["method"])

    @property
    def path(self) -> str:
        """The request's decoded path, without a query that an encoded question mark can hide."""
        return str(self._scope["path"]).partition("?")[0]

    def start(self, connection: UploadConnection) -> ResponseStream:
        """Send the head, and begin to send the body. Returns the stream of the response.

        Raises:
            IncompleteResponse: the connection is closed, or the client has disconnected.
        """
        if self.is_gone:  # between two tries, so that no connection was there to be closed
            raise IncompleteResponse("The client disconnected")
        self._connection = connection
        self._stream = stream = connection.start(request_head(self._scope), method=self.method)
        if self.method not in WITH_BODY:
            connection.finish()
        if self._reader is None:
            self._reader = asyncio.get_running_loop().create_task(self._read())
        return stream

    async def relay(self, stream: ResponseStream, silent_s: float) -> None:
        """Send the head and the body of the response to the client as they arrive, but not their end."""
        headers = response_headers(stream.status, stream.headers)
        self.has_begun = True
        await self._send({"type": "http.response.start", "status": stream.status, "headers": headers})
        while piece := await stream.read(silent_s):
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self) -> None:
        """End the response to the client."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def stop_reading(self) -> None:
        """Read nothing more of the client and of the response; a response that is not over ends its connection."""
        if self._stream is not None:
            self._stream.close()
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()

    async def _read(self) -> None:
        """Send the body, then wait until the client disconnects; close the connection if it does."""
        has_body = self.method in WITH_BODY
        is_framed = has_body and is_chunked(self._scope)
        while True:
            message = await self._receive()
            connection = self._connection
            if connection is None:
                return
            if message["type"] == "http.disconnect":
                self.is_gone = True
                connection.close()
                return
            if not has_body:
                continue
            piece, has_more = message.get("body", b""), message.get("more_body", False)
            if piece:
                await connection.send(chunk(piece) if is_framed else piece)
            if not has_more:
                if is_framed:
                    await connection.send(chunk(b""))
                connection.finish()
                has_body = False
