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
from llm_gateway.host_memory.workers import CONNECTIONS, WorkerPlace
from llm_gateway.server.intake import Intake

Log = Callable[..., None]

REFUSALS = {
    400: ("bad_request", "Bad request", "The request is not valid HTTP/1.1: check its request line and headers."),
    408: ("request_timeout", "Request timeout", "The request did not arrive in time: send it again, without pauses."),
    413: ("payload_too_large", "Payload too large", "The body is larger than the gateway accepts: send less."),
    431: ("headers_too_large", "Headers too large", "The request line and headers are too large: send less of them."),
    500: ("internal_error", "Internal error", "The gateway failed to serve this: report the request id."),
    503: ("overloaded", "Overloaded", "The gateway is stopping or has too many requests: send this one again."),
}
"""By status: `code`, `title` and `detail` of a refusal's problem details."""
ECHOED = re.compile(rb"[\x21-\x7e]{1,128}")
"""Values of a client's x-request-id that are echoed, as in `gate/`; others are ignored."""
MOST_POSTED_BYTES = 64 * 1024
"""Bytes from which pending writes of all connections are written at once."""
LONGEST_PATH = 200
"""Characters of a request's path in the log."""
RETRY = {408: b"true", 503: b"true\r\nretry-after: 1\r\nretry-after-ms: 1000"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for clients: times in seconds, sizes in bytes."""

    head_s: float = 10.0  # to send the request line and headers
    body_s: float = 30.0  # to send the body, or the next `body_part_bytes` of it: 32 MiB over a line of 1.1 Mbit/s
    keep_alive_s: float = 75.0  # between a response and the next request
    stalled_s: float = 30.0  # without reading anything of a response
    linger_s: float = 2.0  # in which data that follows a refused request is read and dropped
    sweep_s: float = 0.5  # between two looks for overdue connections
    stop_idle_s: float = 0.5  # for which an idle connection is kept when the server stops
    retired_idle_s: float = 5.0  # the same when it retires: a client that uses it meanwhile sees no difference
    connect_s: float = 0.1  # for TCP handshakes that are under way when the server stops accepting
    head_bytes: int = 32 * 1024
    body_part_bytes: int = 4 * 1024 * 1024
    body_bytes: int = 9 * 1024 * 1024  # more than the application reads and drops, so that its own 413 comes first
    pipelined: int = 32  # requests queued behind the one being answered
    connections: int = 10_000  # at once; further ones get a 503


class Refused(Exception):
    """A request that is refused with `status`; the parser's callbacks raise it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Outbox:
    """Pending writes of all connections, sent together at the end of the event loop's turn.

    A write wakes the client's process. Writes spread over the turn would each find it asleep again, and waking costs
    more than writing.
    """

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Transport, list[bytes]] = {}
        self._size = 0

    def post(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write `data` at the end of this turn; data for one transport is written in order.

        Everything is written at once if more than `MOST_POSTED_BYTES` are pending, so that a client that reads too
        slowly fills its write buffer and pauses its application before more is produced.
        """
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.empty)
        self._waiting.setdefault(transport, []).append(data)
        self._size += len(data)
        if self._size > MOST_POSTED_BYTES:
            self.empty()

    def empty(self) -> None:
        """Write everything now. Call it before a transport is written to or closed in any other way."""
        waiting = self._waiting
        if not waiting:
            return
        self._waiting, self._size = {}, 0
        for transport, pieces in waiting.items():
            if not transport.is_closing():
                transport.writelines(pieces)


class SharedState(ServerState):
    """uvicorn's server state (connections, tasks), with limits, pending writes and time-outs.

    `place` is where the worker tells the others of the host how many connections it has; None if it is alone.
    """

    def __init__(self, limits: Limits, log: Log, place: WorkerPlace | None = None) -> None:
        super().__init__()
        self.place = place
        self.opening = 0
        """Connections that were accepted and are not among `connections` yet."""
        self.limits = limits
        self.log = log
        self.stopping = False
        self.stop_idle_s = limits.stop_idle_s
        self.asgi = {"version": "3.0", "spec_version": "2.3"}
        self.outbox = Outbox()
        self.intake = Intake(log, lambda: self.date, self.outbox.empty)
        self.turned_away = 0
        self.date = b""
        self.renew_date()

    def renew_date(self) -> None:
        """Renew the Date header of responses (RFC 9110 6.6.1); call it every second."""
        self.date = b"date: " + formatdate(usegmt=True).encode()

    def open_connections(self) -> int:
        """Return the number of connections that this worker has accepted and that are open."""
        return len(self.connections) + self.opening

    def count_connections(self) -> None:
        """Tell the other workers of the host how many connections there are."""
        if self.place is not None:
            self.place.hold(CONNECTIONS, self.open_connections())

    def remove(self, connection: Any) -> None:
        """Forget a connection that is lost."""
        self.connections.discard(connection)
        self.count_connections()

    def sweep(self, now: float) -> None:
        """Close connections that are overdue at `now` (seconds on the event loop's clock).

        One timer calls this for all connections, which is cheaper than several timers per request.
        """
        self.intake.look(now)
        if self.turned_away:
            count, self.turned_away = self.turned_away, 0
            self.log(
                "connections refused: raise the limit of open files",
                level="warning",
                count=count,
                limit=self.limits.connections,
            )
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
        """Log a refusal, and return its whole response: problem details (RFC 9457), like the application's errors.

        It closes the connection. `headers`, `method` and `path` are the request's, as far as they were parsed; an
        x-request-id among them is echoed.
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
