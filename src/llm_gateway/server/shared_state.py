"""State that all connections of a server share: limits, time-outs, pending writes, refusals."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from llm_gateway.domain.uuid7 import new_id

Log = Callable[..., None]

REFUSALS = {
    400: ("bad_request", "Bad request", "This is not valid HTTP/1.1: check how the request is put together."),
    408: ("request_timeout", "Request timeout", "The request did not arrive in time: send it again, without pauses."),
    413: ("payload_too_large", "Payload too large", "The body is larger than the gateway takes: send less."),
    431: ("headers_too_large", "Headers too large", "The request line and headers are too large: send less of them."),
    500: ("internal_error", "Internal error", "The gateway failed to serve this: report the request id."),
    503: ("overloaded", "Overloaded", "The gateway is stopping or was asked too much at once: send it again."),
}
ECHOED = re.compile(rb"[\x21-\x7e]{1,128}")
"""A caller's own x-request-id that the gate would echo; anything else it ignores."""
MOST_POSTED_BYTES = 64 * 1024
LONGEST_PATH = 200
RETRY = {408: b"true", 503: b"true\r\nretry-after: 1\r\nretry-after-ms: 1000"}


@dataclass(frozen=True, slots=True)
class Limits:
    """How slow (seconds) and how large (bytes) a client may be."""

    head_s: float = 10.0
    body_s: float = 30.0
    keep_alive_s: float = 75.0
    stalled_s: float = 30.0  # it reads nothing of its answer
    linger_s: float = 2.0  # it goes on sending after a refusal
    sweep_s: float = 0.5
    connect_s: float = 0.1  # its handshake was under way when the server stopped accepting
    head_bytes: int = 32 * 1024
    body_bytes: int = 9 * 1024 * 1024  # more than the application reads and drops, so that its own 413 comes first
    pipelined: int = 32  # requests waiting behind the one being answered
    connections: int = 10_000  # at once; more are told to come again


class Refused(Exception):
    """A parser's callback found what is not taken; `status` is what the client is told."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Outbox:
    """What leaves at the end of the loop's turn, everything together.

    A write wakes the client's side up; alone each of them would find it asleep again, which costs more than the write.
    """

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Transport, list[bytes]] = {}
        self._size = 0

    def post(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write `data` soon; what was posted to a transport leaves in order.

        Much is written at once: a client that reads too slowly must be felt before more comes.
        """
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.empty)
        self._waiting.setdefault(transport, []).append(data)
        self._size += len(data)
        if self._size > MOST_POSTED_BYTES:
            self.empty()

    def empty(self) -> None:
        """Write everything now, as must be done before a transport is written to or closed by another way."""
        waiting = self._waiting
        if not waiting:
            return
        self._waiting, self._size = {}, 0
        for transport, pieces in waiting.items():
            if not transport.is_closing():
                transport.writelines(pieces)


class SharedState(ServerState):
    """Extends uvicorn's server state (connections, tasks) with limits, pending writes and time-outs."""

    def __init__(self, limits: Limits, log: Log) -> None:
        super().__init__()
        self.limits = limits
        self.log = log
        self.stopping = False
        self.asgi = {"version": "3.0", "spec_version": "2.3"}
        self.outbox = Outbox()
        self.turned_away = 0
        self.date = b""
        self.renew_date()

    def renew_date(self) -> None:
        """Renew the Date of responses (RFC 9110 6.6.1); good for a second."""
        self.date = b"date: " + formatdate(usegmt=True).encode()

    def sweep(self, now: float) -> None:
        """Close what is overdue at `now` (seconds on the loop's clock): one timer instead of several a request."""
        if self.turned_away:
            count, self.turned_away = self.turned_away, 0
            self.log("connections turned away", level="warning", count=count, limit=self.limits.connections)
        connections: set[Any] = self.connections
        for connection in [c for c in connections if c.deadline <= now or c.stalled <= now]:
            connection.expire(now)
        for connection in [c for c in connections if c.has_left()]:
            connection.transport.abort()

    def refusal(
        self,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        method: str | None = None,
        path: str | None = None,
        client: tuple[str, int] | None = None,
        with_body: bool = True,
    ) -> bytes:
        """Log a refusal, and return it as a whole response: RFC 9457 problem details, as the application's own errors.

        The connection ends with it. `headers`, `method` and `path` are those of the request, as far as they were read:
        a caller's own x-request-id is echoed.
        """
        code, title, detail = REFUSALS[status]
        request_id = new_id()
        own = dict(headers).get(b"x-request-id", b"")
        client_request_id = own.decode() if ECHOED.fullmatch(own) else None
        shown_id = client_request_id or request_id
        self.log(
            "request refused",
            level="info" if status < 500 else "warning",
            at_once=False,
            request_id=request_id,
            client_request_id=client_request_id,
            method=method,
            path=None if path is None else path[:LONGEST_PATH],
            status=status,
            error_code=code,
            detail=detail,
            key=None,
            client=client[0] if client else None,
        )
        problem = {
            "type": f"urn:llm-gateway:error:{code}",
            "title": title,
            "status": status,
            "detail": detail,
            "code": code,
            "request_id": shown_id,
        }
        body = json.dumps(problem, separators=(",", ":")).encode()
        head = (
            b"%b%b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
            b"x-should-retry: %b\r\nx-request-id: %b\r\nconnection: close\r\n\r\n"
        )
        fields = (STATUS_LINE[status], self.date, len(body), RETRY.get(status, b"false"), shown_id.encode())
        return head % fields + (body if with_body else b"")
