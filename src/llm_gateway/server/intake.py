"""Overload protection: begin requests at the pace of the event loop, and refuse them at once while too many arrive.

All requests that arrive in one turn of the loop would be begun in it: 2,000 at once make a turn of a second, in which
nothing else is answered, health included. So at most `MOST_A_TURN` are begun in a turn, and others wait, unparsed:

    calm        requests wait, however many   ── some have waited all the time for OVERLOADED_AFTER_S ──▶ overloaded
    overloaded  MOST_WAITING wait, further ones are refused at once   ── CALM_S without a refusal ──▶ calm

So a burst of requests is served to the last, and only clients that go on sending more than can be served are refused.
A request whose end is certain is refused without being parsed, from its first bytes: what is missing of its body is
dropped when it comes. GET and HEAD requests never wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from llm_gateway.server.known_heads import SAFE, KnownHeads
from llm_gateway.server.overload_refusals import DETAIL, Refusable, Refusals

MOST_A_TURN = 64
"""Requests begun in one turn of the loop, which then takes some 30 ms."""
MOST_WAITING = 2 * MOST_A_TURN
"""Requests that wait while the gateway is overloaded."""
MOST_BYTES = 16 * 1024 * 1024
"""First bytes of all requests that wait, as far as they came in one read. Beyond them, requests are begun at once, or
refused while the gateway is overloaded."""
MOST_DROPPED_BYTES = 1024 * 1024
"""What is missing of a request that is refused on a connection that stays open."""
OVERLOADED_AFTER_S = 2.0
CALM_S = 1.0
OVERLOADED, CALM = "overloaded: requests are refused", "overload is over"


class Arrival(Refusable, Protocol):
    """The methods and attributes of a `ClientConnection` that the intake uses."""

    loop: asyncio.AbstractEventLoop

    @property
    def is_held(self) -> bool:
        """Whether its request waits to be begun."""

    def hold(self, data: bytes) -> None:
        """Keep the first bytes of a request until `begin_held`."""

    def begin_held(self) -> None:
        """Parse what was kept."""

    def await_refusal(self, missing: int) -> None:
        """Wait for the refusal at the end of the turn; drop the next `missing` bytes, the rest of the request."""

    @property
    def is_last_response(self) -> bool:
        """Whether the connection closes after its refusal."""

    def refuse_unparsed(self, response: bytes, now: float) -> bool:
        """Answer a request that was not parsed. Returns False if nothing was written."""

    def refuse(self, status: int) -> None:
        """Answer a request whose end is not known; the connection is closed."""


class Intake:
    """The requests of all connections that have arrived and were not begun.

    `log` takes a line for the beginning and the end of an overload, and one with the number of requests refused at each
    `look`. `date` returns the Date header. `flush` writes what other requests are answered.
    """

    def __init__(self, log: Callable[..., None], date: Callable[[], bytes], flush: Callable[[], None]) -> None:
        self.is_overloaded = False
        self._is_full = False  # as many wait as may while it is overloaded; until the next turn
        self._log = log
        self._heads = KnownHeads()
        self._refusals = Refusals(date, flush)
        self._refused_at = 0.0
        self._waiting: deque[tuple[Arrival, int]] = deque()  # each with its part of `_bytes`
        self._bytes = 0
        self._began = 0
        self._waiting_since = 0.0

    def admits(self, connection: Arrival, data: bytes) -> bool:
        """Return True if a request, of which `data` has arrived, may be begun now. Otherwise it is held or refused."""
        if not self._began:
            connection.loop.call_soon(self._next_turn, connection.loop)
        self._began += 1
        if self._is_full:
            if self._heads.missing(data) == 0:
                connection.await_refusal(0)
                self._refusals.add(connection)
                return False
        elif self._began <= MOST_A_TURN and not self._waiting:
            return True
        return data.startswith(SAFE) or self._hold(connection, data)

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin the requests that have waited longest. All that arrived in the last turn was read before this."""
        self._began = 0
        self._is_full = False
        try:
            if self._refusals.send(loop):
                self._refused_at = loop.time()
            while self._waiting and self._began < MOST_A_TURN:
                connection, size = self._waiting.popleft()
                self._bytes -= size
                if connection.is_held:  # else its client has left, or so much has come that it was begun
                    self._began += 1
                    connection.begin_held()
        finally:  # even if one could not be refused or begun: the others would wait for ever
            if self._began or self._waiting or self._refusals.are_left:
                loop.call_soon(self._next_turn, loop)

    def _hold(self, connection: Arrival, data: bytes) -> bool:
        """Hold or refuse a request. Returns True if it is to be begun, since too many bytes wait already."""
        now, waiting = connection.loop.time(), len(self._waiting)
        if not waiting:
            self._waiting_since = now
        elif now - self._waiting_since > OVERLOADED_AFTER_S and not self.is_overloaded:
            self.is_overloaded = True
            self._log(OVERLOADED, level="warning", waiting=waiting)
        has_room = self._bytes + len(data) <= MOST_BYTES
        if not self.is_overloaded:
            if not has_room:
                return True
        elif not has_room or waiting >= MOST_WAITING:
            self._is_full = self._is_full or waiting >= MOST_WAITING
            self._refuse(connection, data, now)
            return False
        self._waiting.append((connection, len(data)))
        self._bytes += len(data)
        connection.hold(data)
        return False

    def _refuse(self, connection: Arrival, data: bytes, now: float) -> None:
        missing = self._heads.missing(data)
        if 0 <= missing <= MOST_DROPPED_BYTES:
            connection.await_refusal(missing)
            self._refusals.add(connection)
        else:
            self._refused_at = now
            connection.refuse(503)

    def look(self, now: float) -> None:
        """Log what was refused since the last look, and whether the overload is over. `now` is the loop's time."""
        if count := self._refusals.unlogged:
            self._refusals.unlogged = 0
            self._log(
                "request refused", level="warning", count=count, status=503, error_code="overloaded", detail=DETAIL
            )
        if self.is_overloaded and now - self._refused_at > CALM_S and not self._waiting:
            self.is_overloaded = False
            self._heads.clear()
            self._log(CALM, level="warning")
