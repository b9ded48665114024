"""HTTP responses from a provider: a whole one (`Response`), or a stream read while it arrives (`ResponseStream`).

A stream's states, with the call of the connection that changes each:

    waiting for the head ── begin ──▶ open: take pieces of the body ── end ──▶ over
              └──────────── fail or close ─────┴── fail or close ────────────▶ over, and reading raises

While open, unread pieces are buffered (`read`) or passed to a callback at once (`deliver`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

HIGH_WATER_BYTES = 16 * 1024
"""Pause reading the socket once more than this many unread bytes are buffered; the last read comes on top."""


CLOSED = "The connection broke: it was closed on this side"


class IncompleteResponse(Exception):
    """The request was sent, but no complete response arrived; the message is a sentence without its full stop."""


class Response(NamedTuple):
    """A whole response. `headers` are in the order and spelling received."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | bytearray

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header; `name` is in lower case."""
        return header(self.headers, name)


class ResponseStream:
    """A response that is read while it arrives. Unread data is buffered, up to `HIGH_WATER_BYTES`.

    Await `head` first: then `status` and `headers` are set. Read with `read` or `deliver` until the end, or `close`.
    `begin`, `take`, `end` and `fail` are for the connection. `close_connection` closes the connection it arrives on.
    """

    __slots__ = (
        "_close_connection", "_deadline", "_error", "_held", "_idle_s", "_is_over", "_loop", "_pieces", "_take",
        "_timer", "_transport", "_waiter", "headers", "is_full", "status",
    )  # fmt: skip

    def __init__(self, close_connection: Callable[[], None], transport: asyncio.Transport) -> None:
        self._close_connection = close_connection
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._held = 0
        self.is_full = False  # more than HIGH_WATER_BYTES are buffered, so reading the socket is paused
        self._is_over = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], bool] | None = None
        self._idle_s = 0.0
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def head(self, timeout_s: float) -> None:
        """Return once the head of the response has arrived.

        Raises:
            TimeoutError: it did not arrive within `timeout_s` seconds.
            IncompleteResponse: the connection broke, or the response is malformed.
        """
        if not self.status:
            await self._wait(timeout_s)

    async def read(self, timeout_s: float) -> bytes:
        """Return the data that arrived since the last call, at least one byte; b"" once the response is over.

        Raises:
            TimeoutError: nothing arrived for `timeout_s` seconds.
            IncompleteResponse: the connection broke before the response was complete.
        """
        if not (self._pieces or self._is_over):
            await self._wait(timeout_s)
        pieces = self._pieces
        if not pieces:
            self._check()
            return b""
        return self._take_buffered()

    async def deliver(self, take: Callable[[bytes], bool], idle_s: float) -> bool:
        """Call `take` with data as it arrives, until it returns False. Returns whether more may arrive after that.

        `take` is called from the socket's callback, since waking a task for each piece costs more than handling it.
        What `take` raises is raised here.

        Raises:
            TimeoutError: `progressed` was not called for `idle_s` seconds.
            IncompleteResponse: the connection broke before the response was complete.
        """
        if self._pieces and not take(self._take_buffered()):
            return True
        self._take, self._idle_s = take, idle_s
        try:
            if not self._is_over:
                await self._wait(idle_s)
        finally:
            self._take = None
        if self._pieces:
            return True  # data arrived after `take` returned False; the response may be over by now
        self._check()
        return not self._is_over

    def progressed(self) -> None:
        """Reset the idle timer of `deliver`; call it when delivered data completed at least one event."""
        self._deadline = self._loop.time() + self._idle_s

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header; `name` is in lower case."""
        return header(self.headers, name)

    def close(self) -> None:
        """Stop reading, and drop buffered data; the connection is closed as well unless the response is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pieces, self._held = [], 0
        self._resume()
        if not self._is_over:
            self.fail(IncompleteResponse(CLOSED))
            self._close_connection()
        elif self._error is not None:
            # Breaks a reference cycle: the earlier error may have a traceback that holds this stream.
            self._error = IncompleteResponse(CLOSED)

    def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Set status and headers (called by the connection)."""
        self.status, self.headers = status, headers
        self._wake()

    def take(self, body: bytes) -> None:
        """Buffer or deliver a piece of the body (called by the connection)."""
        if self._is_over:
            return  # the response failed earlier in the same read
        if self._take is not None:
            try:
                if not self._take(body):
                    self._take = None
                    self._wake()
            except Exception as error:  # edge: raised by `deliver`, not in the socket's callback
                self._take = None
                self.fail(error)
                self._close_connection()
            return
        self._pieces.append(body)
        self._held += len(body)
        if self._held > HIGH_WATER_BYTES and not self.is_full:
            self.is_full = True
            self._transport.pause_reading()
        self._wake()

    def end(self) -> None:
        """End the response, which is complete (called by the connection)."""
        self._is_over = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """End the response with an error that reading raises (called by the connection)."""
        if not self._is_over:
            self._is_over, self._error = True, error
            self._wake()

    def _take_buffered(self) -> bytes:
        pieces = self._pieces
        self._pieces, self._held = [], 0
        self._resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _resume(self) -> None:
        if self.is_full:
            self.is_full = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _set_timer(self) -> None:
        """Set the one timer of all waits; when it fires, `_check_time` looks whether the latest wait is over."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._check_time)

    def _check_time(self) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            time_out(self._waiter)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _check(self) -> None:
        """Raise the error that ended the response, if any; each call raises a new one, without earlier tracebacks."""
        error = self._error
        if error is None:
            return
        self._error = IncompleteResponse(str(error))
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    async def _wait(self, timeout_s: float) -> None:
        """Return when data arrives, the response ends, or `take` returned False.

        Raises:
            TimeoutError: the deadline passed (`progressed` moves it).
            IncompleteResponse: the response failed.
        """
        self._check()
        loop = self._loop
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiter = waiter
        self._deadline = loop.time() + timeout_s
        if self._timer is None or self._timer.when() > self._deadline:
            self._set_timer()
        try:
            await waiter
        except BaseException:  # edge: timed out or cancelled; the response is not read any further
            self.close()
            raise
        finally:
            self._waiter = None
            del waiter  # breaks a reference cycle: the future's exception has a traceback that holds this frame
        if not self._pieces:
            self._check()


def time_out(waiter: asyncio.Future[Any]) -> None:
    """Fail a pending future with TimeoutError."""
    if not waiter.done():
        waiter.set_exception(TimeoutError())


def header(headers: list[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the first value of a header; `name` is in lower case."""
    size = len(name)
    for given, value in headers:
        if len(given) == size and given.lower() == name:
            return value
    return None
