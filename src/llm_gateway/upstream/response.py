"""What comes back from a provider: a whole response, or one as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

HIGH_WATER_BYTES = 16 * 1024
"""So much of a response is held for whoever reads it too slowly; what one read of the socket brings comes on top."""


CLOSED = "The connection broke: it was closed on this side"


class IncompleteResponse(Exception):
    """There is no whole response, though the request was sent; the message is a sentence without its full stop."""


class Response(NamedTuple):
    """A whole response; its headers as they came."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, named in lower case."""
        return header(self.headers, name)


class ResponseStream:
    """A response as it comes. What is not read yet is held, up to a mark from which on no more is taken.

    `status` and `headers` are there once `head` has returned. `close_connection` closes the one that it arrives on.
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
        self.is_full = False  # more is held than the mark, so the connection is not read on
        self._is_over = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], bool] | None = None
        self._idle_s = 0.0
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def head(self, timeout_s: float) -> None:
        """Return when the head of the response is here.

        Raises:
            TimeoutError: not within so many seconds.
            IncompleteResponse: it never will be.
        """
        if not self.status:
            await self._news(timeout_s)

    async def read(self, timeout_s: float) -> bytes:
        """All that has come since the last time, at least a byte of it; nothing when the response is over.

        Raises:
            TimeoutError: nothing came for so many seconds.
            IncompleteResponse: the rest never will.
        """
        if not (self._pieces or self._is_over):
            await self._news(timeout_s)
        pieces = self._pieces
        if not pieces:
            self._check()
            return b""
        return self._held_so_far()

    async def deliver(self, take: Callable[[bytes], bool], idle_s: float) -> bool:
        """Call `take` with all that comes, as it comes, until it returns False; whether more may come after that.

        A task that is woken for each piece costs more than all that is done with it. What `take` raises is raised here.

        Raises:
            TimeoutError: `progressed` was not called for so many seconds.
            IncompleteResponse: the rest never will come.
        """
        if self._pieces and not take(self._held_so_far()):
            return True
        self._take, self._idle_s = take, idle_s
        try:
            if not self._is_over:
                await self._news(idle_s)
        finally:
            self._take = None
        if self._pieces:
            return True  # what came while `take` wanted no more, be the response over or not
        self._check()
        return not self._is_over

    def progressed(self) -> None:
        """What is poured brought something: the time it may be silent begins anew."""
        self._deadline = self._loop.time() + self._idle_s

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, named in lower case."""
        return header(self.headers, name)

    def close(self) -> None:
        """Nobody wants the rest: the connection is closed with it, unless the response is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pieces, self._held = [], 0
        self._go_on()
        if not self._is_over:
            self.fail(IncompleteResponse(CLOSED))
            self._close_connection()
        elif self._error is not None:
            self._error = IncompleteResponse(CLOSED)  # the one before may hold a traceback, and with it this stream

    def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The connection's: the head has come."""
        self.status, self.headers = status, headers
        self._wake()

    def take(self, body: bytes) -> None:
        """The connection's: more of the body has come."""
        if self._is_over:
            return  # it failed, and the rest of what was read with that is worth nothing
        if self._take is not None:
            try:
                if not self._take(body):
                    self._take = None
                    self._wake()
            except Exception as error:  # edge: it is raised to whoever pours
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
        """The connection's: the response is whole."""
        self._is_over = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """The connection's: the rest never comes."""
        if not self._is_over:
            self._is_over, self._error = True, error
            self._wake()

    def _held_so_far(self) -> bytes:
        pieces = self._pieces
        self._pieces, self._held = [], 0
        self._go_on()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _go_on(self) -> None:
        if self.is_full:
            self.is_full = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _set_timer(self) -> None:
        """One timer for many waits: it looks when it fires whether the last of them has come to its end."""
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
        """Raise the error that ended the response; a second call raises another, without the first one's traceback."""
        error = self._error
        if error is None:
            return
        self._error = IncompleteResponse(str(error))
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    async def _news(self, timeout_s: float) -> None:
        self._check()
        loop = self._loop
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiter = waiter
        self._deadline = loop.time() + timeout_s
        if self._timer is None or self._timer.when() > self._deadline:
            self._set_timer()
        try:
            await waiter
        except BaseException:  # edge: nobody reads on
            self.close()
            raise
        finally:
            self._waiter = None
            del waiter  # a future holds the exception it raised here, whose traceback holds this frame
        if not self._pieces:
            self._check()


def time_out(waiter: asyncio.Future[Any]) -> None:
    """Fail a pending future with TimeoutError."""
    if not waiter.done():
        waiter.set_exception(TimeoutError())


def header(headers: list[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value of a header, named in lower case."""
    size = len(name)
    for given, value in headers:
        if len(given) == size and given.lower() == name:
            return value
    return None
