"""One client connection: parses requests, keeps their answers in order, bounds what it takes and how long it waits."""

from __future__ import annotations

import asyncio
import math
import select
import urllib.parse
from collections import deque
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llm_gateway.server.exchange import Exchange
from llm_gateway.server.shared_state import Refused, SharedState

NEVER = math.inf
HAS_ENDED: int | None = getattr(select, "POLLRDHUP", None)
"""Linux's event for it; elsewhere it is noticed with the next write."""
FRAMING = frozenset({b"expect", b"transfer-encoding"})

# What a connection waits for: a request, the rest of its head, the rest of its body, our answer, nothing any more.
IDLE, HEAD, BODY, WHOLE, PARTING = range(5)


class ClientConnection(HttpToolsProtocol):
    """A client's connection: uvicorn's HTTP protocol, with limits.

    Instead of timers it keeps two times (seconds on the loop's clock) that `SharedState.sweep` looks at: `deadline`
    for what it waits for, `stalled` for when to look whether the client reads.
    """

    cycle: Exchange | None  # type: ignore[assignment]  # the newest request
    pipeline: deque[Exchange]  # type: ignore[assignment]  # whole or not, they wait for their turn, oldest first

    def __init__(self, config: uvicorn.Config, shared: SharedState, app_state: dict[str, Any]) -> None:
        super().__init__(config, shared, app_state)
        self.shared = shared
        self.limits = shared.limits
        self.active: Exchange | None = None  # the request being answered
        self.farewell = b""  # the refusal that goes out when all before it is answered
        self.phase = IDLE
        self.deadline = NEVER
        self.stalled = NEVER
        self.unsent = 0
        self.read_at = 0.0
        self.held_at = 0.0
        self.received = 0  # bytes of the message being parsed, less what came in one piece with the one before
        self.body_size = 0
        self.hosts = 0
        self.coding = b""  # the transfer coding of the body being parsed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's."""
        super().connection_made(transport)  # type: ignore[arg-type]  # a stream's
        self.deadline = self.loop.time() + self.limits.head_s
        if len(self.connections) > self.limits.connections:
            self.shared.turned_away += 1
            self.phase = PARTING
            transport.write(self.shared.refusal(503, (), client=self.client))  # type: ignore[attr-defined]  # a stream's
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's."""
        self.connections.discard(self)
        self.phase = PARTING
        for exchange in (self.cycle, self.active, *self.pipeline):
            if exchange is not None:
                exchange.drop()
        self.flow.resume_writing()
        self.cycle = self.active = self.parser = None  # type: ignore[assignment]  # breaks the circle
        self.pipeline.clear()

    def eof_received(self) -> None:
        """Asyncio's. The transport closes after this; who ends in the middle of a request is told so first."""
        if self.phase in (HEAD, BODY) and self.active in (None, self.cycle):
            self.refuse(400)

    def pause_writing(self) -> None:
        """Asyncio's."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Asyncio's."""
        super().resume_writing()
        if self.phase != PARTING:
            self.stalled = NEVER

    def _watch(self) -> None:
        """Look from now on whether the client reads what is written."""
        now = self.loop.time()
        self.unsent = self.transport.get_write_buffer_size()
        self.read_at, self.stalled = now, now + self.limits.sweep_s

    def _is_stalled(self, now: float) -> bool:
        """Whether the client has read nothing for too long."""
        unsent = self.transport.get_write_buffer_size()
        if unsent < self.unsent:
            self.read_at = now
        self.unsent = unsent
        self.stalled = now + self.limits.sweep_s
        return now - self.read_at >= self.limits.stalled_s

    def has_left(self) -> bool:
        """Whether the client has ended its side while nothing is read of what it sends, so that nobody was told."""
        if not self.flow.read_paused or self.transport.is_closing() or HAS_ENDED is None:
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket"), HAS_ENDED)
        return bool(poll.poll(0))

    def data_received(self, data: bytes) -> None:
        """Asyncio's."""
        if self.phase == PARTING:
            return
        self.received += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            cause = error.__context__
            self.refuse(cause.status if isinstance(cause, Refused) else 400)
            return
        if self.phase != WHOLE:
            self._expect_more()

    def _expect_more(self) -> None:
        limits = self.limits
        if self.phase == HEAD and self.received > limits.head_bytes:
            self.refuse(431)
        elif self.phase == BODY and self.received > 2 * limits.head_bytes + 8 * self.body_size:
            self.refuse(400)  # nearly all of it chunk extensions or trailers
        elif self.deadline == NEVER and self.phase in (HEAD, BODY):
            self.deadline = self.loop.time() + (limits.head_s if self.phase == HEAD else limits.body_s)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Serve the request as if it had not asked (RFC 9110 7.8). The parser took its body for the new protocol's."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self.refuse(400)
            return
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.received = 0
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def on_message_begin(self) -> None:
        """The parser's."""
        self.phase = HEAD
        self.deadline = NEVER
        self.url = b""
        self.headers = []
        self.hosts = 0
        self.expect_100_continue = False
        self.coding = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser's."""
        if self.phase != HEAD:
            return  # a trailer: must not be taken for a header (RFC 9110 6.5.1)
        name = name.lower()
        if name == b"host":
            self.hosts += 1
        elif name in FRAMING:
            if name == b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"
            else:
                self.coding = value.lower()
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The parser's.

        Raises:
            Refused: the head is too large or malformed, or too many requests wait behind another.
        """
        if self.active is not None or self.received > self.limits.head_bytes:
            self._check_size()
        if self.parser.should_upgrade():
            return
        version = self.parser.get_http_version()
        modern = version == "1.1"
        if self.hosts != 1 and (modern or self.hosts):  # RFC 9112 3.2
            raise Refused(400)
        if not modern and (version != "1.0" or self.coding):  # RFC 9112 6.1
            raise Refused(400)
        if self.coding not in (b"", b"chunked"):  # we would take the coded bytes for the body (RFC 9112 6.1)
            raise Refused(400)
        self.cycle = exchange = Exchange(
            self,
            self._scope(version),
            keep_alive=modern and self.parser.should_keep_alive(),
            expects_continue=modern and self.expect_100_continue,  # RFC 9110 10.1.1
        )
        self.phase = BODY
        self.deadline = NEVER
        self.body_size = 0
        if self.active is None:
            self._begin(exchange)
        else:
            self._hold_reading()
            self.pipeline.append(exchange)

    def _check_size(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.head_bytes:
            raise Refused(431)
        if len(self.pipeline) >= self.limits.pipelined:
            raise Refused(503)

    def _scope(self, version: str) -> dict[str, Any]:
        path, _, query = self.url.partition(b"?")
        if path[:1] != b"/" or b"#" in self.url:
            target = httptools.parse_url(self.url)
            path, query = target.path or b"/", target.query or b""
        text = path.decode("ascii")
        return {
            "type": "http",
            "asgi": self.shared.asgi,
            "http_version": version,
            "method": self.parser.get_method().decode("ascii"),
            "scheme": self.scheme,
            "path": urllib.parse.unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self.headers,
            "client": self.client,
            "server": self.server,
            "state": self.app_state.copy(),
        }

    def on_body(self, body: bytes) -> None:
        """The parser's.

        Raises:
            Refused: the body is too large.
        """
        exchange = self.cycle
        if exchange is None:
            return
        self.body_size += len(body)
        if self.body_size > self.limits.body_bytes:
            raise Refused(413)
        if exchange.complete:
            return
        exchange.chunks.append(body)
        exchange.buffered += len(body)
        if exchange.buffered > HIGH_WATER_LIMIT:
            self._hold_reading()
        exchange.wake()

    def on_message_complete(self) -> None:
        """The parser's."""
        exchange = self.cycle
        if self.phase != BODY or exchange is None:
            return  # it wants an upgrade
        self.received = 0
        self.phase = WHOLE
        self.deadline = NEVER
        exchange.more_body = False
        if exchange.complete:
            self._idle()
        else:
            exchange.wake()

    def _begin(self, exchange: Exchange) -> None:
        self.active = exchange
        exchange.task = self.loop.create_task(exchange.run(self.app))
        self.tasks.add(exchange.task)

    def _idle(self) -> None:
        self.phase = IDLE
        self.deadline = self.loop.time() + self.limits.keep_alive_s

    def _hold_reading(self) -> None:
        if not self.flow.read_paused:
            self.held_at = self.loop.time()
            self.flow.pause_reading()

    def read_on(self) -> None:
        """Take more from the client, unless requests wait already. Its time stood still meanwhile."""
        if self.flow.read_paused and not self.pipeline:
            self.deadline += self.loop.time() - self.held_at
            self.flow.resume_reading()

    def answered(self, exchange: Exchange) -> None:
        """The exchange's response is written: next."""
        self.active = None
        if self.transport.is_closing():
            return
        if not exchange.keep_alive:
            if exchange.more_body:
                self.part(b"")
            else:
                self.abandon()
        elif self.pipeline:
            self._begin(self.pipeline.popleft())
            self.read_on()
        elif self.farewell:
            self.part(self.farewell)
        else:
            self.read_on()
            if self.phase == WHOLE:
                self._idle()

    def refuse(self, status: int) -> None:
        """Take nothing more from the client; it is told so when all that came before is answered."""
        has_head = self.phase in (HEAD, BODY)
        self.phase = PARTING
        self.deadline = NEVER
        exchange, is_told = self.cycle, True
        if exchange is not None and exchange.more_body:  # its body is at fault
            if exchange in self.pipeline:
                self.pipeline.remove(exchange)
            elif exchange is self.active:
                self.active = None
            is_told = not (exchange.complete or exchange.written)
            exchange.drop()
        last_words = self._refusal(status, has_head=has_head) if is_told else b""
        if self.active is not None:
            self.farewell = last_words
        else:
            self.part(last_words)

    def _refusal(self, status: int, *, has_head: bool) -> bytes:
        """The response that refuses what was read so far; `has_head`: of a request, not of what came between two."""
        if not (has_head and self.url):
            return self.shared.refusal(status, self.headers if has_head else (), client=self.client)
        method = self.parser.get_method().decode("ascii", "replace")
        path = self.url.partition(b"?")[0].decode("ascii", "replace")
        return self.shared.refusal(status, self.headers, method=method, path=path, client=self.client)

    def part(self, last_words: bytes) -> None:
        """Say the last words, then read on for a while: a reset would take them from the client (RFC 9112 9.6)."""
        self.phase = PARTING
        self.deadline = self.loop.time() + self.limits.linger_s
        if not self.transport.is_closing():
            self.shared.outbox.empty()
            self.transport.write(last_words)
            self.transport.write_eof()
            self.flow.resume_reading()

    def abandon(self) -> None:
        """Close as soon as what is written has gone out, or the client has stopped reading it."""
        self.phase = PARTING
        self.deadline = NEVER
        self.shared.outbox.empty()
        self._watch()
        self.transport.close()

    def retire(self) -> None:
        """The server takes no more connections: close unless a request is on its way; one just coming is answered."""
        if self.phase == IDLE:
            self.deadline = min(self.deadline, self.loop.time() + self.limits.linger_s / 4)

    def expire(self, now: float) -> None:
        """A time has passed (`now`: seconds on the loop's clock)."""
        if self.stalled <= now:
            if self._is_stalled(now):
                self.transport.abort()
        elif self.phase == PARTING:
            self.transport.abort()
        elif self.phase == IDLE:
            self.abandon()
        elif not self.flow.read_paused:  # else it is the client that waits
            self.refuse(408)
