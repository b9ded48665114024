"""One HTTP/1.1 connection to a provider (RFC 9112): send one request at a time and parse its response.

    connected ─┬─ exchange or open ──▶ head ── head complete ──▶ body ── complete ─┬─▶ idle (`is_reusable`)
    idle ──────┘                       │  ▲                                        └─▶ finished, if not reusable
                                       └──┘ interim response (1xx): skipped

    any state        ── close ──▶ closed
    head, body       ── time-out, cancellation, malformed, compressed or too large response ──▶ closed
    head, body       ── the provider closes ──▶ closed; the response is complete only if nothing else could end it
    connected, idle  ── data arrives, or the provider closes ──▶ closed

`server/connection.py` is the client's side of the gateway.
"""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import httptools

from llm_gateway.json_outline import Piece
from llm_gateway.upstream.response import IncompleteResponse, Response, ResponseStream, header, time_out

MAX_HEAD_BYTES = 256 * 1024
"""Limit for everything but the body: status line, headers, interim responses (1xx), one chunk's framing, trailers."""
LARGE_READ_BYTES = 64 * 1024
"""After a read of this size, the connection pauses reading for one turn of the event loop."""
MAX_STREAM_BYTES = 1024 * 1024 * 1024
"""Limit of a streamed response. A million tokens are about 300 MB of events; they are not kept in memory."""
LARGE_BODY_BYTES = 256 * 1024
"""A larger body of a response stays a bytearray: to copy 32 MiB would stop the event loop for 20 ms."""
Content: TypeAlias = bytes | list[Piece]
"""A request, or its body: whole, or in pieces that are sent one by one."""
ENCODING, LENGTH, CODING = b"content-encoding", b"content-length", b"transfer-encoding"


class UpstreamConnection(asyncio.Protocol):
    """A connection to a provider. Call `exchange` or `open`, one at a time; the module's docstring draws the states.

    What the provider does wrong is raised by `exchange`, or by the `ResponseStream` that `open` returned, and nowhere
    else. `is_reusable` is True while the connection is idle and can take another request; `idle_since` is the time of
    the event loop's clock at which it became idle.
    """

    __slots__ = (
        "_body", "_caught_up", "_has_head", "_headers", "_limit", "_loop", "_max_body_bytes", "_max_stream_bytes",
        "_parser", "_received", "_sending", "_since_body", "_size", "_stream", "_transport", "_unsent", "_waiter",
        "idle_since", "is_reusable",
    )  # fmt: skip
    takes_compressed = False
    """Whether compressed responses are accepted; their bodies are not decoded."""

    def __init__(self, max_body_bytes: int, max_stream_bytes: int = MAX_STREAM_BYTES) -> None:
        self._max_body_bytes = self._limit = max_body_bytes
        self._max_stream_bytes = max_stream_bytes
        self._stream: ResponseStream | None = None
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Response] | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: bytes | bytearray = b""
        self._size = 0  # bytes of the response's body
        self._received = 0  # bytes of the whole response, head and framing included
        self._since_body = 0  # bytes received since the last byte of the body
        self._has_head = False
        self._sending: asyncio.Task[None] | None = None
        self._unsent = 0  # pieces of the request that were not written yet
        self._caught_up: asyncio.Future[None] | None = None
        self.is_reusable = False
        self.idle_since = 0.0

    async def exchange(self, request: Content, timeout_s: float) -> Response:
        """Send a whole request, and return its whole response. Cancellation closes the connection.

        Raises:
            TimeoutError: the response was not complete after `timeout_s` seconds.
            IncompleteResponse: the connection broke, or the response is malformed or too large.
        """
        waiter: asyncio.Future[Response] = self._loop.create_future()
        self._waiter = waiter
        if self._transport is None or self._transport.is_closing():
            raise IncompleteResponse("The connection broke: it was closed before the request was sent")
        self._begin(self._max_body_bytes)
        timer = self._loop.call_later(timeout_s, time_out, waiter)
        self._write(request)
        try:
            return await waiter
        finally:
            timer.cancel()
            self._waiter = None
            del waiter  # breaks a reference cycle: the future's exception has a traceback that holds this frame
            if not self.is_reusable:
                self.close()

    def open(self, request: Content) -> ResponseStream:
        """Send a whole request, and return the stream of its response. Read the stream to its end, or close it.

        Raises:
            IncompleteResponse: the connection is closed.
        """
        if self._transport is None or self._transport.is_closing():
            raise IncompleteResponse("The connection broke: it was closed before the request was sent")
        self._begin(self._max_stream_bytes)
        self._stream = ResponseStream(self.close, self._transport)
        self._write(request)
        return self._stream

    def _write(self, request: Content) -> None:
        if self._transport is None:
            return
        if isinstance(request, bytes):
            self._transport.write(request)
        else:
            self._unsent = len(request)
            self._sending = self._loop.create_task(self._write_pieces(request))

    async def _write_pieces(self, pieces: list[Piece]) -> None:
        """Write the pieces of a request, each when the provider has read most of the earlier ones."""
        for piece in pieces:
            if self._transport is None or self._transport.is_closing():
                return
            self._transport.write(bytes(piece))
            self._unsent -= 1
            if self._caught_up is not None:
                await self._caught_up
            else:
                await asyncio.sleep(0)
        self._sending = None

    def pause_writing(self) -> None:
        """Hold back further pieces of a request: the provider reads too slowly (called by asyncio)."""
        self._caught_up = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let further pieces be sent (called by asyncio)."""
        waiting, self._caught_up = self._caught_up, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _begin(self, limit: int) -> None:
        """Reset the counters for a response with a body of at most `limit` bytes."""
        self.is_reusable = False
        self._size = self._received = self._since_body = self._unsent = 0
        self._has_head = False
        self._limit = limit

    def close(self) -> None:
        """Close the connection at once; a response under way fails."""
        self.is_reusable = False
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, message: str) -> None:
        self.is_reusable = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(IncompleteResponse(message))
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.fail(IncompleteResponse(message))
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (called by asyncio)."""
        self._transport = transport  # type: ignore[assignment]  # a stream's

    def connection_lost(self, exc: Exception | None) -> None:
        """End the response, if one is under way (called by asyncio)."""
        self._end(f"The connection broke: {exc}" if exc else "The connection broke: it was closed too early")
        self._parser = None  # breaks a reference cycle: the parser holds this connection
        self._transport = None
        self.resume_writing()

    def eof_received(self) -> None:
        """End the response, if one is under way (called by asyncio, which closes the transport after this)."""
        self._end("The connection broke: it was closed too early")

    def _end(self, message: str) -> None:
        """Handle the provider's close.

        It completes a response without Content-Length and Transfer-Encoding (RFC 9112, section 6.3), and fails any
        other with `message`.
        """
        has_own_end = header(self._headers, LENGTH) or header(self._headers, CODING)
        if self._is_waiting() and self._has_head and not has_own_end:
            self._complete(is_reusable=False)
        else:
            self._fail(message)

    def data_received(self, data: bytes) -> None:
        """Parse what the provider sent (called by asyncio)."""
        if self._parser is None or not self._is_waiting():
            self.close()  # data that answers no request
            return
        size = len(data)
        self._received += size
        self._since_body += size
        if not self._has_head and self._since_body > MAX_HEAD_BYTES:
            self._fail(f"The connection broke: the answer's head is larger than {MAX_HEAD_BYTES} bytes")
            return
        if size >= LARGE_READ_BYTES:
            self._pause()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("The connection broke: it was switched to another protocol")
        except httptools.HttpParserError as error:
            self._fail(f"The connection broke: {error}")
        else:
            self._check_size()

    def _check_size(self) -> None:
        """Fail the response if its headers, its framing or all of it are too large; each could go on without end."""
        is_framing_large = self._since_body > MAX_HEAD_BYTES
        if not (is_framing_large or self._received > self._limit + MAX_HEAD_BYTES) or not self._is_waiting():
            return
        if is_framing_large:
            self._fail(f"The connection broke: the answer's framing is larger than {MAX_HEAD_BYTES} bytes")
        else:
            self._fail(f"The provider's answer is larger than {self._limit} bytes, framing included")

    def _pause(self) -> None:
        """Pause reading until the next turn of the event loop, so that a fast provider does not starve the others."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        is_full = self._stream is not None and self._stream.is_full
        if not is_full and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def on_message_begin(self) -> None:
        """Start a response (called by the parser)."""
        if not self._is_waiting():
            self.close()  # a second response to one request
        self._headers = []
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header (called by the parser). Trailers must not be merged into headers (RFC 9110, section 6.5.1)."""
        if not self._has_head:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check the head, and start the stream if one is open (called by the parser)."""
        self._has_head = True
        encoding = b"" if self.takes_compressed else self._coding()
        if encoding:
            self._fail(f"The answer is compressed ({encoding.decode('latin-1')[:20]}), which is not supported")
        elif self._stream is not None and self._parser is not None and self._parser.get_status_code() >= 200:
            self._stream.begin(self._parser.get_status_code(), self._headers)

    def _coding(self) -> bytes:
        """Return the content coding of the response, of any of its Content-Encoding lines; empty if it has none."""
        size = len(ENCODING)
        for name, value in self._headers:
            if len(name) == size and name.lower() == ENCODING and value.lower() != b"identity":
                return value
        return b""

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body, or pass it to the stream (called by the parser)."""
        self._since_body = 0
        self._size += len(body)
        if self._size > self._limit:
            self._fail(f"The provider's answer is larger than {self._limit} bytes")
        elif self._stream is not None:
            self._stream.take(body)
        elif not self._is_waiting():
            return  # the response failed earlier in the same read
        elif not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        """Complete the response, or skip an interim one (1xx; RFC 9110, section 15.2). Called by the parser."""
        parser = self._parser
        if parser is None:
            return
        if parser.get_status_code() >= 200:
            self._complete(is_reusable=parser.should_keep_alive())
        self._has_head = False

    def _is_waiting(self) -> bool:
        """Return whether a request was sent and its response is not complete."""
        return self._stream is not None or (self._waiter is not None and not self._waiter.done())

    def _complete(self, *, is_reusable: bool) -> None:
        transport, parser = self._transport, self._parser
        if transport is None or parser is None or not self._is_waiting():
            self.close()
            return
        # A provider that answers before it has read all of the request may not read the rest of it.
        self.is_reusable = is_reusable and not (self._unsent or transport.get_write_buffer_size())
        self.idle_since = self._loop.time()
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.end()
        elif self._waiter is not None:
            body = self._body if len(self._body) > LARGE_BODY_BYTES else bytes(self._body)
            self._waiter.set_result(Response(parser.get_status_code(), self._headers, body))
            self._body = b""
