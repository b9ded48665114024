"""Overload protection: begin requests at the pace of the event loop, and refuse them at once while too many arrive.

All requests that arrive in one turn of the loop would be begun in it: 2,000 at once make a turn of a second, in which
nothing else is answered, health included. So at most `MOST_A_TURN` are begun in a turn, and others wait, unparsed:

    calm        requests wait, however many   ── some have waited all the time for OVERLOADED_AFTER_S ──▶ overloaded
    overloaded  MOST_WAITING wait, further ones are refused at once   ── CALM_S without a refusal ──▶ calm

So a burst of requests is served to the last, and only clients that go on sending more than can be served are refused.
A request that came whole is refused without being parsed, which costs some microseconds. GET and HEAD requests never
wait.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable
from typing import Protocol

from llm_gateway.domain.uuid7 import new_id

MOST_A_TURN = 64
"""Requests begun in one turn of the loop, which then takes some 30 ms."""
MOST_WAITING = 2 * MOST_A_TURN
"""Requests that wait while the gateway is overloaded."""
MOST_BYTES = 16 * 1024 * 1024
"""First bytes of all requests that wait, as far as they came in one read. Beyond them, requests are begun at once."""
OVERLOADED_AFTER_S = 2.0
CALM_S = 1.0
SAFE = frozenset({b"GET ", b"HEAD"})
OVERLOADED, CALM = "overloaded: requests are refused", "overload is over"
DETAIL = "More requests arrive than the gateway can serve: send this one again in a second."
PROBLEM = {
    "type": "urn:llm-gateway:error:overloaded",
    "title": "Overloaded",
    "status": 503,
    "detail": DETAIL,
    "code": "overloaded",
    "request_id": "%s",
}
_BODY = json.dumps(PROBLEM, separators=(",", ":")).encode()
_RESPONSE = (
    b"HTTP/1.1 503 Service Unavailable\r\n%b\r\ncontent-type: application/problem+json\r\ncontent-length: "
    + str(len(_BODY) - len("%s") + len(new_id())).encode()
    + b"\r\nx-should-retry: true\r\nretry-after: 1\r\nretry-after-ms: 1000\r\nx-request-id: %b\r\n\r\n"
    + _BODY.replace(b"%s", b"%b")
)
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*(?=\r\n)", re.IGNORECASE)
_PLAIN = re.compile(rb"[A-Z]+ [!-~]+ HTTP/1\.1\r\n(?:[!#-'*+\-.0-9A-Z^_`a-z|~]+:[^\r\n\0]*\r\n)+")
"""A head in which every parser, also a proxy's that takes a bare LF for the end of a line, sees the same headers."""
_UNUSUAL = re.compile(
    rb"\r\n(?:(?:transfer-encoding|expect|upgrade):|connection:(?![ \t]*keep-alive[ \t]*\r\n)"
    rb"|content-length:(?![ \t]*\d{1,9}[ \t]*\r\n))",
    re.IGNORECASE,
)


class Arrival(Protocol):
    """The methods and attributes of a `ClientConnection` that the intake uses."""

    loop: asyncio.AbstractEventLoop

    @property
    def is_held(self) -> bool:
        """Whether its request waits to be begun."""

    def hold(self, data: bytes) -> None:
        """Keep the first bytes of a request until `begin_held`."""

    def begin_held(self) -> None:
        """Parse what was kept."""

    def refuse_unparsed(self, response: bytes) -> None:
        """Answer a whole request that was not parsed; the connection stays open."""

    def refuse(self, status: int) -> None:
        """Answer a request that has not arrived whole; the connection is closed."""


def is_whole(data: bytes) -> bool:
    """Return True if `data` is certainly one whole request, so that its end is known without a parser."""
    end = data.find(_END_OF_HEAD)
    head = data[: end + 2]
    lengths = _LENGTH.findall(head) if end >= 0 and _PLAIN.fullmatch(head) and not _UNUSUAL.search(head) else ()
    return len(lengths) == 1 and len(data) == end + 4 + int(lengths[0])


class Intake:
    """The requests of all connections that have arrived and were not begun.

    `log` takes a line for the beginning and the end of an overload, and one with the number of requests refused at each
    `look`. `date` returns the Date header.
    """

    def __init__(self, log: Callable[..., None], date: Callable[[], bytes]) -> None:
        self.is_overloaded = False
        self._log = log
        self._date = date
        self._waiting: deque[tuple[Arrival, int]] = deque()  # each with its part of `_bytes`
        self._bytes = 0
        self._began = 0
        self._waiting_since = 0.0
        self._refused = 0
        self._refused_at = 0.0

    def admits(self, connection: Arrival, data: bytes) -> bool:
        """Return True if a request, of which `data` has arrived, may be begun now. Otherwise it is held or refused."""
        if not self._began:
            connection.loop.call_soon(self._next_turn, connection.loop)
        self._began += 1
        if self._began <= MOST_A_TURN and not self._waiting:
            return True
        return data[:4] in SAFE or self._bytes + len(data) > MOST_BYTES or self._hold(connection, data)

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin the requests that have waited longest. All that arrived in the last turn was read before this."""
        self._began = 0
        try:
            while self._waiting and self._began < MOST_A_TURN:
                connection, size = self._waiting.popleft()
                self._bytes -= size
                if connection.is_held:  # else its client has left, or so much has come that it was begun
                    self._began += 1
                    connection.begin_held()
        finally:  # even if a request could not be begun: the others would wait for ever
            if self._began:
                loop.call_soon(self._next_turn, loop)

    def _hold(self, connection: Arrival, data: bytes) -> bool:
        now = connection.loop.time()
        if not self._waiting:
            self._waiting_since = now
        elif now - self._waiting_since > OVERLOADED_AFTER_S and not self.is_overloaded:
            self.is_overloaded = True
            self._log(OVERLOADED, level="warning", waiting=len(self._waiting))
        if self.is_overloaded and len(self._waiting) >= MOST_WAITING:
            self._refuse(connection, data, now)
        else:
            self._waiting.append((connection, len(data)))
            self._bytes += len(data)
            connection.hold(data)
        return False

    def _refuse(self, connection: Arrival, data: bytes, now: float) -> None:
        self._refused_at = now
        if is_whole(data):
            self._refused += 1
            request_id = new_id().encode()
            connection.refuse_unparsed(_RESPONSE % (self._date(), request_id, request_id))
        else:
            connection.refuse(503)

    def look(self, now: float) -> None:
        """Log what was refused since the last look, and whether the overload is over. `now` is the loop's time."""
        if self._refused:
            count, self._refused = self._refused, 0
            self._log(
                "request refused", level="warning", count=count, status=503, error_code="overloaded", detail=DETAIL
            )
        if self.is_overloaded and now - self._refused_at > CALM_S and not self._waiting:
            self.is_overloaded = False
            self._log(CALM, level="warning")
