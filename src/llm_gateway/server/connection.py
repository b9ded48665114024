"""One client connection: parse HTTP/1.1 requests, answer them in order, and enforce limits of size and time.

`phase` is what the connection waits for, until `deadline` (times and sizes are those of `Limits`):

    IDLE    a request: 10 s after connecting, 75 s after a response   ── time is over ──▶ CLOSING
      │ first byte; HELD until its turn if too many requests arrive at once (`intake.py`), or refused from its bytes:
      │ REFUSED until the end of the turn, DROP until the rest of its body has come, 30 s, then IDLE
    HEAD    the rest of the request's head: 10 s                      ── time is over: 408 ──▶ CLOSING
      │ head complete: call the application, or queue the request behind the one being answered
    BODY    the rest of the body: 30 s, or 30 s for the next 4 MiB,   ── time is over: 408 ──▶ CLOSING
      │     without pauses of reading
      │ body complete
    ANSWER  the application's response: no limit here                 ── first byte of another request ──▶ HEAD
      ├── response written, keep-alive ──▶ answer the next queued request, or IDLE
      └── response written, `connection: close`, or cannot be completed ──▶ CLOSING

    HEAD, BODY ── malformed: 400; too large: 413 or 431; too many queued: 503 ──▶ CLOSING

    CLOSING parse no more requests; send the responses to earlier ones, then the refusal. Then either read and drop
            what the client sends for 2 s (`linger`), or close once it has the response (`abandon`).

A client that reads nothing of its responses for 30 s is disconnected in any phase.
"""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from collections import deque
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from llm_gateway.server.exchange import Exchange
from llm_gateway.server.held_connection import ANSWER, BODY, CLOSING, DROP, HEAD, IDLE, HeldConnection
from llm_gateway.server.polling import has_data
from llm_gateway.server.shared_state import Refused, SharedState
from llm_gateway.server.watched_connection import NEVER

HASH = ord(b"#")
OTHER_PROTOCOL = re.compile(rb"^[A-Z_]+ [^ ]+ (?:RTSP|ICE)/1\.0\r?$", re.MULTILINE)  # the parser takes these, too
FRAMING = frozenset({b"expect", b"transfer-encoding"})


class ClientConnection(HeldConnection):
    """A client's connection: uvicorn's HTTP protocol, with limits.

    In place of timers, it keeps two times (seconds on the event loop's clock) that `SharedState.sweep` compares:
    `deadline`, until which it waits for the client, and `stalled`, at which it looks whether the client reads.
    """

    cycle: Exchange | None  # type: ignore[assignment]  # the newest request
    pipeline: deque[Exchange]  # type: ignore[assignment]  # requests that wait behind `active`, oldest first

    def __init__(self, config: uvicorn.Config, shared: SharedState, app_state: dict[str, Any]) -> None:
        super().__init__(config, shared, app_state)
        self.active: Exchange | None = None  # the request being answered
        self.pending_refusal = b""  # sent once all earlier requests are answered
        self.held_at = 0.0  # when reading was paused
        self.received = 0  # bytes of the message being parsed, without those read together with the one before
        self.body_size = 0
        self.body_in_time = 0  # bytes of the body that came before its deadline was set last
        self.hosts = 0  # number of Host headers
        self.head = b""  # the read that is being parsed, after the earlier reads of an incomplete head
        self.coding = b""  # the transfer coding of the body being parsed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request, or answer 503 if there are too many connections (called by asyncio)."""
        super().connection_made(transport)  # type: ignore[arg-type]  # a stream's
        self.deadline = self.loop.time() + self.limits.head_s
        if len(self.connections) > self.limits.connections:
            self.shared.turned_away += 1
            self.phase = CLOSING
            transport.write(self.shared.refusal(503, (), client=self.client))  # type: ignore[attr-defined]  # a stream's
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the exchanges that the client is gone (called by asyncio)."""
        self.shared.remove(self)
        self.phase = CLOSING
        for exchange in (self.cycle, self.active, *self.pipeline):
            if exchange is not None:
                exchange.drop()
        self.flow.resume_writing()
        self.cycle = self.active = self.parser = None  # type: ignore[assignment]  # breaks reference cycles
        self.pipeline.clear()

    def eof_received(self) -> None:
        """Answer 400 to a request that was cut short (called by asyncio, which closes the transport after this)."""
        if self.phase in (HEAD, BODY) and self.active in (None, self.cycle):
            self.refuse(400)

    def parse(self, data: bytes) -> None:
        """Parse what the client sent."""
        self.received += len(data)
        self.head += data
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            cause = error.__context__
            self.refuse(cause.status if isinstance(cause, Refused) else 400)
            return
        if self.phase != HEAD:
            self.head = b""
        if self.phase != ANSWER:
            self._expect_more()

    def _expect_more(self) -> None:
        """Check the size of an incomplete request, and set the deadline for the rest of it."""
        limits = self.limits
        if self.phase == HEAD and self.received > limits.head_bytes:
            self.refuse(431)
        elif self.phase == BODY and self.received > 2 * limits.head_bytes + 8 * self.body_size:
            self.refuse(400)  # nearly all of it chunk extensions or trailers
        elif self.deadline == NEVER and self.phase in (HEAD, BODY):
            self.deadline = self.loop.time() + (limits.head_s if self.phase == HEAD else limits.body_s)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Parse the request again without its Upgrade header (RFC 9110 7.8); `rest` follows its head: the body."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self.refuse(400)
            return
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.received = 0
        self.parse(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def on_message_begin(self) -> None:
        """Start a request (called by the parser)."""
        self.phase = HEAD
        self.deadline = NEVER
        self.url = b""
        self.headers = []
        self.hosts = 0
        self.expect_100_continue = False
        self.coding = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header (called by the parser)."""
        if self.phase != HEAD:
            return  # a trailer, which must not be merged into the headers (RFC 9110 6.5.1)
        name = name.lower()
        if name == b"host":
            self.hosts += 1
        elif name in FRAMING:
            if name == b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"
            else:
                self.coding += value.lower()  # two lines are no coding that is accepted
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check the head, and start its exchange or queue it (called by the parser).

        Raises:
            Refused: the head is too large or malformed, or too many requests are queued.
        """
        if self.active is not None or self.received > self.limits.head_bytes:
            self._check_size()
        if self.parser.should_upgrade():
            return
        version = self.parser.get_http_version()
        modern = version == "1.1"
        if self.hosts != 1 and (modern or self.hosts):  # RFC 9112 3.2
            raise Refused(400)
        if not modern and (version != "1.0" or self.coding or OTHER_PROTOCOL.search(self.head)):  # RFC 9112 6.1
            raise Refused(400)
        if self.coding not in (b"", b"chunked"):  # a coding that is not decoded here (RFC 9112 6.1)
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
        self.body_in_time = 0
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
        if path[:1] != b"/" or HASH in self.url:
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
        """Pass a piece of the body to the exchange (called by the parser).

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
        """End the request's body (called by the parser)."""
        exchange = self.cycle
        if self.phase != BODY or exchange is None:
            return  # a request to upgrade, which `_decline_upgrade` parses again
        self.received = 0
        self.phase = ANSWER
        self.deadline = NEVER
        exchange.more_body = False
        if exchange.complete:
            self.idle()
        else:
            exchange.wake()

    def _begin(self, exchange: Exchange) -> None:
        self.active = exchange
        exchange.task = self.loop.create_task(exchange.run(self.app))
        self.tasks.add(exchange.task)

    def idle(self) -> None:
        """Wait for the next request."""
        self.phase = IDLE
        self.deadline = self.loop.time() + self.limits.keep_alive_s
        if self.shared.stopping:  # the head of the response had been sent before, without `connection: close`
            self.retire()

    def _hold_reading(self) -> None:
        if not self.flow.read_paused:
            self.held_at = self.loop.time()
            self.flow.pause_reading()

    def read_on(self) -> None:
        """Resume reading, unless requests are queued. Adds the time for which reading was paused to the deadline."""
        if self.flow.read_paused and not self.pipeline:
            self.deadline += self.loop.time() - self.held_at
            self.flow.resume_reading()

    def answered(self, exchange: Exchange) -> None:
        """Continue after the exchange's response: close, answer the next request, or wait for one."""
        self.active = None
        if self.transport.is_closing():
            return
        if not exchange.keep_alive:
            if exchange.more_body:  # closing now would reset the connection, as the client is still sending
                self.linger(b"")
            else:
                self.abandon()
        elif self.pipeline:
            self._begin(self.pipeline.popleft())
            self.read_on()
        elif self.pending_refusal:
            self.linger(self.pending_refusal)
        else:
            self.read_on()
            if self.phase == ANSWER:
                self.idle()

    def refuse(self, status: int) -> None:
        """Accept no more requests; send a response with `status` once all earlier requests are answered."""
        has_head = self.phase in (HEAD, BODY)
        self.phase = CLOSING
        self.deadline = NEVER
        exchange, can_answer = self.cycle, True
        if exchange is not None and exchange.more_body:  # the body of this request is refused
            if exchange in self.pipeline:
                self.pipeline.remove(exchange)
            elif exchange is self.active:
                self.active = None
            can_answer = not (exchange.complete or exchange.written)  # else its response has begun
            exchange.drop()
        refusal = self._refusal(status, has_head=has_head) if can_answer else b""
        if self.active is not None:
            self.pending_refusal = refusal
        else:
            self.linger(refusal)

    def _refusal(self, status: int, *, has_head: bool) -> bytes:
        """Return the response that refuses a request; `has_head`: some of its head was parsed, for the log."""
        if not (has_head and self.url):
            return self.shared.refusal(status, self.headers if has_head else (), client=self.client)
        method = self.parser.get_method().decode("ascii", "replace")
        path = self.url.partition(b"?")[0].decode("ascii", "replace")
        return self.shared.refusal(status, self.headers, method=method, path=path, client=self.client)

    def linger(self, response: bytes) -> None:
        """Send a last response, then read and drop data for `linger_s`.

        Closing at once would reset the connection, and the client could lose the response (RFC 9112 9.6).
        """
        self.phase = CLOSING
        self.deadline = self.loop.time() + self.limits.linger_s
        if not self.transport.is_closing():
            self.shared.outbox.empty()
            self.transport.write(response)
            self.transport.write_eof()
            self.flow.resume_reading()

    def abandon(self) -> None:
        """Close once the client has read what was written, or has stopped reading it."""
        self.phase = CLOSING
        self.deadline = NEVER
        self.shared.outbox.empty()
        self.watch()
        self.transport.close()

    def retire(self) -> None:
        """Close an idle connection soon, because the server stops. A request that arrives until then is answered."""
        if self.phase == IDLE:
            self.deadline = min(self.deadline, self.loop.time() + self.shared.stop_idle_s)
        elif self.phase == DROP and not self.is_refused:  # its response has left
            self.linger(b"")

    def expire(self, now: float) -> None:
        """Act on a `stalled` or `deadline` that is not later than `now` (seconds on the event loop's clock)."""
        if self.stalled <= now:
            if self.is_stalled(now):
                self.transport.abort()
        elif self.phase == CLOSING:
            self.transport.abort()
        elif self.phase == DROP:
            self.abandon()
        elif self.phase == IDLE:
            if not (self.shared.stopping and has_data(self.transport)):  # else a request has arrived
                self.abandon()
        elif not self.flow.read_paused:  # while reading is paused, the client waits for the gateway
            if self.phase == BODY and self.body_size - self.body_in_time >= self.limits.body_part_bytes:
                self.body_in_time = self.body_size
                self.deadline = now + self.limits.body_s
            else:
                self.refuse(408)
