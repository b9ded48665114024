"""Refuse requests that were not parsed: the response is made once, and all refusals of a turn are written together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Protocol

from llm_gateway.domain.uuid7 import new_id

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
_UNTIL_BODY, _AFTER_ID = _BODY.split(b"%s")
_ID_LENGTH = len(new_id())
_COUNTED_DIGITS = 12
"""Last digits of a request's id, which are random in its version of UUID: a turn's ids count from a random number."""
_COUNTED = 16**_COUNTED_DIGITS
_HEAD = (
    b"HTTP/1.1 503 Service Unavailable\r\n%b\r\ncontent-type: application/problem+json\r\n"
    b"content-length: %d\r\nx-should-retry: true\r\nretry-after: 1\r\nretry-after-ms: 1000\r\n"
)
_REQUEST_ID = b"x-request-id: "
_CLOSE = b"connection: close\r\n"
_BETWEEN = b"\r\n\r\n" + _UNTIL_BODY


class Refusable(Protocol):
    """The connection of a request that is refused."""

    @property
    def is_last_response(self) -> bool:
        """Whether the connection closes after its refusal."""

    def refuse_unparsed(self, response: bytes, now: float) -> bool:
        """Answer a request that was not parsed. Returns False if nothing was written. `now` is the loop's time."""


class Refusals:
    """Refusals of one turn of the event loop, with the number of those that were not logged yet.

    `date` returns the Date header. `flush` writes what other requests are answered, which must come before.
    """

    def __init__(self, date: Callable[[], bytes], flush: Callable[[], None]) -> None:
        self.unlogged = 0
        self._date = date
        self._flush = flush
        self._refused: list[Refusable] = []
        self.add = self._refused.append
        """Refuse a connection's request at the end of the turn."""

    @property
    def are_left(self) -> bool:
        """Whether there are refusals to send."""
        return bool(self._refused)

    def send(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Write all refusals of the turn. Returns whether there were any.

        A connection that raises is passed over: the next call goes on with those that are left.
        """
        refused = self._refused
        if not refused:
            return False
        self._flush()
        first, now = new_id().encode(), loop.time()
        head = _HEAD % (self._date(), len(_BODY) - len("%s") + _ID_LENGTH)
        same, number = first[:-_COUNTED_DIGITS], int(first[-_COUNTED_DIGITS:], 16)
        while refused:
            connection = refused.pop()
            number += 1
            request_id = b"%b%012x" % (same, number % _COUNTED)
            close = _CLOSE if connection.is_last_response else b""
            parts = (head, close, _REQUEST_ID, request_id, _BETWEEN, request_id, _AFTER_ID)
            self.unlogged += connection.refuse_unparsed(b"".join(parts), now)
        return True
