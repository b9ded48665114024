"""Connection pool of one provider: send a request on an idle connection, or make a new one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote, urlsplit

from aiohappyeyeballs import start_connection

from llm_gateway.upstream.connection import MAX_STREAM_BYTES, Content, UpstreamConnection
from llm_gateway.upstream.response import Response, ResponseStream

CONNECT_S = 3.0
"""Seconds to resolve the host, connect, and complete the TLS handshake."""
IDLE_S = 50.0
"""Seconds after which an idle connection is closed: before a load balancer does so (AWS's by default after 60 s)."""
NEXT_ADDRESS_S = 0.25
"""Seconds until the host's next address is tried in parallel (RFC 8305, section 5)."""
KEEPALIVE_S = 30
"""Idle seconds before TCP keep-alive probes, so that NATs keep the connection while an answer takes minutes."""
OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})
UNRESERVED = "/%:@!$&'()*+,;=-._~"
_FIELD = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class RequestNotSent(Exception):
    """The request was not sent, because there is no connection or no credential for it.

    `is_ours`: this machine is at fault, or too little time was left, so that it does not count against the provider.
    """

    def __init__(self, message: str, *, is_ours: bool = False) -> None:
        super().__init__(message)
        self.is_ours = is_ours


class CancelledBeforeSend(asyncio.CancelledError):
    """A call was cancelled before any of its bytes were sent, so the provider cannot bill it."""


class UnsendableHeader(Exception):
    """A header's value holds characters that HTTP does not allow. The message does not quote it: it may be a key."""


def send_always() -> None:
    """Do nothing: the default of `before_send`."""


def tls_context() -> ssl.SSLContext:
    """Make the TLS context of https connections, with the system's certificates or SSL_CERT_FILE's. Reads files."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Pool:
    """The connections of one provider.

    Args:
        root: the absolute URL that paths are appended to.
        headers: sent with every request.
        tls: the context for https; required if `root` is an https URL.
        pinned: the IP address to connect to, in place of those that the host resolves to.
        max_body_bytes: limit of a response that is read whole.
        max_stream_bytes: limit of a streamed response.

    Raises:
        UnsendableHeader: the value of a header holds characters that HTTP does not allow.
    """

    def __init__(
        self,
        root: str,
        headers: dict[str, str],
        *,
        tls: ssl.SSLContext | None,
        pinned: str | None,
        max_body_bytes: int,
        max_stream_bytes: int = MAX_STREAM_BYTES,
    ) -> None:
        parts = urlsplit(root)
        self.root = root
        self.pinned = pinned
        self._loop = asyncio.get_running_loop()
        self._host = parts.hostname or ""
        self._tls = tls if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._base = quote(parts.path, safe=UNRESERVED) + (f"?{parts.query}" if parts.query else "")
        self._max_body_bytes = max_body_bytes
        self._max_stream_bytes = max_stream_bytes
        fields = {"host": parts.netloc, "user-agent": "llm-gateway", **headers}
        if not all(_FIELD.fullmatch(value) for value in fields.values()):
            raise UnsendableHeader(
                "The provider's api_key or base_url holds a character that HTTP headers do not allow: correct it"
            )
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode("latin-1")
        self._heads: dict[str, bytes] = {}
        self._idle: list[UpstreamConnection] = []
        self._streaming: dict[ResponseStream, UpstreamConnection] = {}
        self._is_closed = False

    def post(
        self,
        path: str,
        body: Content,
        timeout_s: float,
        fields: bytes = b"",
        before_send: Callable[[], None] = send_always,
    ) -> Coroutine[Any, Any, Response]:
        """POST `body`, and return the whole response. `fields` are additional header lines, each with its CRLF.

        A body in pieces is sent piece by piece, so that a large one does not stop the event loop.

        `before_send` is called once there is a connection; if it raises, nothing is sent.

        Raises:
            RequestNotSent: no connection could be made.
            CancelledBeforeSend: the call was cancelled while a connection was made.
            TimeoutError: the response was not complete within `timeout_s` seconds.
            IncompleteResponse: the connection broke, or the response is malformed or too large.
        """
        return self._exchange(self._request(path, body, fields), timeout_s, before_send)

    async def get(self, timeout_s: float, fields: bytes = b"") -> Response:
        """GET the root URL, and return the whole response. Raises as `post` does."""
        return await self._exchange(self._head("GET", "") + fields + b"\r\n", timeout_s, send_always)

    async def open(
        self,
        path: str,
        body: Content,
        timeout_s: float,
        fields: bytes = b"",
        before_send: Callable[[], None] = send_always,
    ) -> ResponseStream:
        """POST `body`, and return the response as a stream, once its head has arrived within `timeout_s` seconds.

        Call `release` when the stream was read to its end or is not needed any more. Raises as `post` does.
        """
        deadline = self._loop.time() + timeout_s
        connection = self._free() or await self._new(timeout_s)
        try:
            before_send()
            stream = connection.open(self._request(path, body, fields))
            await stream.head(deadline - self._loop.time())
        except BaseException:  # edge: the caller has no stream to close, so the connection is closed here
            connection.close()
            raise
        self._streaming[stream] = connection
        return stream

    def release(self, stream: ResponseStream) -> None:
        """Keep the connection of a stream that is over for the next request; close it if the stream is not over."""
        stream.close()
        connection = self._streaming.pop(stream)
        if connection.is_reusable:
            self._keep(connection)

    def _request(self, path: str, body: Content, fields: bytes) -> Content:
        head = self._heads.get(path)
        if head is None:
            head = self._heads[path] = self._head("POST", path)
        if isinstance(body, list):
            return [b"%b%bcontent-length: %d\r\n\r\n" % (head, fields, sum(map(len, body))), *body]
        return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, fields, len(body), body)

    def _head(self, method: str, path: str) -> bytes:
        return f"{method} {self._base}{path} HTTP/1.1\r\n".encode("ascii") + self._fields

    async def _exchange(self, request: Content, timeout_s: float, before_send: Callable[[], None]) -> Response:
        connection = self._free()
        if connection is None:
            started = self._loop.time()
            connection = await self._new(timeout_s)
            timeout_s -= self._loop.time() - started
        try:
            before_send()
            return await connection.exchange(request, timeout_s)
        finally:
            if connection.is_reusable:
                self._keep(connection)
            else:
                connection.close()  # also a new one on which nothing was sent

    def _free(self) -> UpstreamConnection | None:
        """Return the idle connection that was used last, None if none is idle. So superfluous ones reach `IDLE_S`."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                if self._loop.time() - connection.idle_since <= IDLE_S:
                    return connection
                connection.close()
        return None

    def _keep(self, connection: UpstreamConnection) -> None:
        if self._is_closed:
            connection.close()
        else:
            self._idle.append(connection)

    async def _new(self, timeout_s: float) -> UpstreamConnection:
        try:
            return await self._connect(timeout_s)
        except asyncio.CancelledError:
            raise CancelledBeforeSend from None

    async def _connect(self, timeout_s: float) -> UpstreamConnection:
        sock: socket.socket | None = None
        try:
            async with asyncio.timeout(min(CONNECT_S, timeout_s)):
                sock = await self._socket()
                _, connection = await self._loop.create_connection(
                    lambda: UpstreamConnection(self._max_body_bytes, self._max_stream_bytes),
                    sock=sock,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
        except TimeoutError:
            raise RequestNotSent("No connection: timed out", is_ours=timeout_s < CONNECT_S) from None
        except (OSError, RuntimeError) as error:  # uvloop raises both
            raise RequestNotSent(
                f"No connection: {_reason(error)}", is_ours=getattr(error, "errno", None) in OUT_OF_FILES
            ) from None
        else:
            sock = None
            return connection
        finally:
            if sock is not None:
                sock.close()

    async def _socket(self) -> socket.socket:
        addresses = await self._loop.getaddrinfo(self.pinned or self._host, self._port, type=socket.SOCK_STREAM)
        sock = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with contextlib.suppress(AttributeError):  # TCP_KEEPIDLE is missing on macOS
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        return sock

    def expire(self) -> None:
        """Close connections that were idle for longer than `IDLE_S`, and drop those that the provider closed."""
        oldest = self._loop.time() - IDLE_S
        for connection in self._idle:
            if connection.idle_since < oldest:
                connection.close()
        self._idle = [connection for connection in self._idle if connection.is_reusable]

    def close(self) -> None:
        """Close idle connections now, and busy ones once their response is complete."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close_soon(self) -> None:
        """Call `close` in the event loop's thread; may be called from any thread."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed, and its connections with it
            self._loop.call_soon_threadsafe(self.close)


def _reason(error: Exception) -> str:
    """Return the message of the operating system, the resolver or the TLS library, without error numbers."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError | socket.gaierror) and error.errno:
        return os.strerror(error.errno)
    return str(getattr(error, "strerror", None) or error)
