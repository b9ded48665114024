"""One HTTP/1.1 connection to a provider (RFC 9112): a request at a time, and its response.

The counterpart of `server/connection.py`.
"""

from __future__ import annotations

import asyncio

import httptools

from llm_gateway.upstream.response import IncompleteResponse, Response, ResponseStream, header, time_out

MAX_HEAD_BYTES = 256 * 1024
"""Limit for all that is not body: status line and headers, interim responses (1xx), one chunk's framing, trailers."""
LARGE_READ_BYTES = 64 * 1024
"""After a read of this size the connection lets others have the event loop before it reads on."""
MAX_STREAM_BYTES = 1024 * 1024 * 1024
"""Of a response that is read as it comes: a million tokens are some 300 MB of events, of which nothing is held."""
ENCODING, LENGTH, CODING = b"content-encoding", b"content-length", b"transfer-encoding"


class UpstreamConnection(asyncio.Protocol):
    """A connection to a provider; it takes one request at a time.

    It never raises for what the other side does: `exchange` does, to whoever waits for the response.
    """

    __slots__ = (
        "_body", "_has_head", "_headers", "_limit", "_loop", "_max_body_bytes", "_max_stream_bytes", "_parser",
        "_received", "_since_body", "_size", "_stream", "_transport", "_waiter", "idle_since", "is_reusable",
    )  # fmt: skip

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
        self._received = 0  # bytes of the whole response, its head and framing included
        self._since_body = 0  # those that came since the last byte of its body
        self._has_head = False
        self.is_reusable = False
        self.idle_since = 0.0

    async def exchange(self, request: bytes, timeout_s: float) -> Response:
        """Send a whole request, and return its whole response. Whoever is cancelled here takes the connection along.

        Raises:
            TimeoutError: the response was not whole after so many seconds.
            IncompleteResponse: it never will be.
        """
        waiter: asyncio.Future[Response] = self._loop.create_future()
        self._waiter = waiter
        if self._transport is None or self._transport.is_closing():
            raise IncompleteResponse("The connection broke: it was closed")
        self._begin(self._max_body_bytes)
        timer = self._loop.call_later(timeout_s, time_out, waiter)
        self._transport.write(request)
        try:
            return await waiter
        finally:
            timer.cancel()
            self._waiter = None
            del waiter  # a future holds the exception it raised here, whose traceback holds this frame
            if not self.is_reusable:
                self.close()

    def open(self, request: bytes) -> ResponseStream:
        """Send a whole request, and return its response as it comes, to be read to its end or closed.

        Raises:
            IncompleteResponse: the connection is gone.
        """
        if self._transport is None or self._transport.is_closing():
            raise IncompleteResponse("The connection broke: it was closed")
        self._begin(self._max_stream_bytes)
        self._stream = ResponseStream(self.close, self._transport)
        self._transport.write(request)
        return self._stream

    def _begin(self, limit: int) -> None:
        """Expect a response of at most `limit` bytes."""
        self.is_reusable = False
        self._size = self._received = self._since_body = 0
        self._has_head = False
        self._limit = limit

    def close(self) -> None:
        """Close it at once, whatever is under way."""
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
        """Asyncio's."""
        self._transport = transport  # type: ignore[assignment]  # a stream's

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's."""
        self._end(f"The connection broke: {exc}" if exc else "The connection broke: it was closed too early")
        self._parser = None  # breaks the circle
        self._transport = None

    def eof_received(self) -> None:
        """Asyncio's. The transport closes after this."""
        self._end("The connection broke: it was closed too early")

    def _end(self, complaint: str) -> None:
        """Nothing more will come: the end of a body whose length nobody said (RFC 9112, section 6.3), or too early."""
        if self._is_asked() and self._has_head and not (header(self._headers, LENGTH) or header(self._headers, CODING)):
            self._complete(is_reusable=False)
        else:
            self._fail(complaint)

    def data_received(self, data: bytes) -> None:
        """Asyncio's."""
        if self._parser is None or not self._is_asked():
            self.close()  # nothing was asked, or it is answered
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
        """Bound all that a provider sends, not the body alone: each of the rest could go on for ever."""
        if not self._is_asked():
            return
        if self._since_body > MAX_HEAD_BYTES:
            self._fail(f"The connection broke: the answer's framing is larger than {MAX_HEAD_BYTES} bytes")
        elif self._received > self._limit + MAX_HEAD_BYTES:
            self._fail(f"The answer is larger than {self._limit} bytes, framing included")

    def _pause(self) -> None:
        """Read on in the next turn of the event loop, which would else read a fast provider many times in this one."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        is_full = self._stream is not None and self._stream.is_full
        if not is_full and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def on_message_begin(self) -> None:
        """The parser's."""
        if not self._is_asked():
            self.close()  # an answer too many
        self._headers = []
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser's. Trailers are dropped, as none of them may be taken for a header (RFC 9110, section 6.5.1)."""
        if not self._has_head:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The parser's."""
        self._has_head = True
        encoding = header(self._headers, ENCODING)
        if encoding is not None and encoding.lower() != b"identity":
            self._fail(f"The answer is compressed ({encoding.decode('latin-1')[:20]}), which was not asked for")
        elif self._stream is not None and self._parser is not None and self._parser.get_status_code() >= 200:
            self._stream.begin(self._parser.get_status_code(), self._headers)

    def on_body(self, body: bytes) -> None:
        """The parser's."""
        self._since_body = 0
        self._size += len(body)
        if self._size > self._limit:
            self._fail(f"The answer is larger than {self._limit} bytes")
        elif self._stream is not None:
            self._stream.take(body)
        elif not self._is_asked():
            return  # it failed; what was read with that is dropped
        elif not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        """The parser's. What is only on the way to a response (1xx) is passed over (RFC 9110, section 15.2)."""
        parser = self._parser
        if parser is None:
            return
        if parser.get_status_code() >= 200:
            self._complete(is_reusable=parser.should_keep_alive())
        self._has_head = False

    def _is_asked(self) -> bool:
        """Whether a request waits for its response, or for more of it."""
        return self._stream is not None or (self._waiter is not None and not self._waiter.done())

    def _complete(self, *, is_reusable: bool) -> None:
        transport, parser = self._transport, self._parser
        if transport is None or parser is None or not self._is_asked():
            self.close()
            return
        # Whoever answers before it has read all of the request may not read the rest of it.
        self.is_reusable = is_reusable and not transport.get_write_buffer_size()
        self.idle_since = self._loop.time()
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.end()
        elif self._waiter is not None:
            self._waiter.set_result(Response(parser.get_status_code(), self._headers, bytes(self._body)))
            self._body = b""
