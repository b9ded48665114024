"""Streamed responses: send a reply's events as they arrive, with heartbeats, and handle clients that disconnect.

A `StreamedResponse` waits for the upstream stream to open, relays it, and ends the response:

    opening ─── Relay ───▶ relaying ─── complete ───▶ final events, end of the body
       │ │                     └─────── error ──────▶ error event, end of the body
       │ └─── Answer, which is whole ───────────────▶ the whole answer as events, end of the body
       │
       └─ error ─┬─ a heartbeat has sent the 200 ───▶ error event, end of the body
                 ├─ nothing was sent, but the client
                 │  expects this error in a stream ─▶ error event, end of the body
                 └─ nothing was sent ───────────────▶ the exception is raised: the endpoint sends an error response

A heartbeat (`keep_alive`) is sent after each 15 s without an event; the first one sends the 200 and its headers.

A client that disconnects before a call is sent is not billed: its request ends (`domain/client_presence.py`). Later, it
is still billed for the tokens that are generated, so its stream is read to its end:

    connected ── disconnect ──▶ draining: read and drop events ── after 30 s ──▶ given up: cancel opening,
        └── disconnect, and `on_disconnect` is "abort" or 64 streams drain ────▶           or abandon the relay
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias, cast, runtime_checkable

from starlette.types import Receive, Send

from llm_gateway.domain.reply import Answer
from llm_gateway.error_format.responses import Headers
from llm_gateway.errors import GatewayError, Overloaded
from llm_gateway.protocols.contract import RawEvent
from llm_gateway.worker.pipeline.relay import Relay
from llm_gateway.worker.pipeline.usage_recorder import CancelledAndRecorded

HEARTBEAT_S = 15.0
"""Seconds without an event after which a heartbeat is sent: proxies close connections that look dead."""
DRAIN_S = 30.0
"""Seconds for which the stream of a disconnected client is read on."""
MOST_DRAINED = 64
"""Maximum number of streams of disconnected clients that are read at once."""
HEAD: Headers = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]

OnDisconnect: TypeAlias = Literal["drain", "abort"]
"""How to treat the stream of a client that disconnects: read it to its end, or close it at once."""


OnDefect: TypeAlias = Callable[[Exception], GatewayError]
"""Logs an unexpected exception, and returns the error to send to the client."""


class EventWriter(Protocol):
    r"""The encoding of a streamed reply in one API's events. Make one for each response; it may keep state.

    `content_type` is the response's; `keep_alive` is written as a heartbeat, also before `opened`. The calls of one
    response, in order:

        opened, kept                the reply was whole already: cached, or not streamed by its provider
        opened, take × n, end       a complete stream
        [opened, take × n,] error   a failure once the 200 was sent
        headers_of_error, error     a failure before, which this client gets as a stream, too
        opened, take × n            neither `end` nor `error`: the client is gone and the stream was given up

    No method waits or sends: it returns the bytes to send, which may be none. What `take` returns for a client that is
    gone is dropped. Example, which streams plain text:

        class TextWriter:
            content_type, keep_alive = b"text/plain", b"\n"

            def opened(self, came): return [(b"x-gateway-model", came.model.encode())]
            def kept(self, answer): return answer.reply.content.encode()
            def take(self, raw_events): return b"".join(text_of(raw_event.chunks) for raw_event in raw_events)
            def end(self, answer): return b""
            def headers_of_error(self, error): return None
            def error(self, error): return error.detail.encode()
    """

    content_type: bytes
    keep_alive: bytes

    def opened(self, came: Relay | Answer) -> Headers:
        """Return response headers that describe the reply. They are dropped if a heartbeat has sent the head.

        Called once, first, when the reply has begun; not if opening it failed.
        """
        ...

    def kept(self, answer: Answer) -> bytes:
        """Encode a whole answer as a complete stream, its end included.

        Called once, right after `opened`; no other call follows.
        """
        ...

    def take(self, raw_events: list[RawEvent]) -> bytes:
        """Encode the next events of the provider's stream. `raw_events` is not empty.

        Called for all events that one read of the provider's connection completed; the last ones come once the usage
        record is durable.
        """
        ...

    def end(self, answer: Answer) -> bytes:
        """Encode the end of a complete reply. Called last, with the settled answer: its usage and cost are final."""
        ...

    def headers_of_error(self, error: GatewayError) -> Headers | None:
        """Return the headers of a stream that consists of this error; None to send an error response instead.

        Called if nothing was sent. After headers, `error` is called.
        """
        ...

    def error(self, error: GatewayError) -> bytes:
        """Encode the end of a reply that failed after the 200 was sent.

        Called last, at most once, in place of `end`; before `opened` if opening failed after a heartbeat.
        """
        ...


@runtime_checkable
class BodySink(Protocol):
    r"""An ASGI `send` callable that also accepts body data without a coroutine per piece.

    `server/exchange.py` implements it; for other ASGI servers, `_QueuedSend` does. Order of the calls:

        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while data := next_piece():
            if not body_sink.take(data):
                await body_sink.caught_up()
        await body_sink.caught_up()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    """

    def take(self, data: bytes) -> bool:
        """Send `data` as the next piece of the body; return False if the client reads too slowly.

        Call it after `http.response.start` and before the message that ends the body. After False, await `caught_up`
        before more data; a single small piece in between, such as a heartbeat, is fine. Data for a client that is gone
        is dropped, and True returned.
        """
        ...

    async def caught_up(self) -> None:
        """Return once the client has read most of what was sent, or is gone. May be called at any time."""
        ...


class DrainLimit:
    """The number of streams that are read to their end after their client left, one count for all endpoints."""

    __slots__ = ("count", "on_disconnect")

    def __init__(self, on_disconnect: OnDisconnect) -> None:
        self.on_disconnect = on_disconnect
        self.count = 0


class StreamedResponse:
    """One streamed response; call `run` once. The module's docstring draws its states.

    Args:
        writer: encodes the events.
        receive: ASGI's, to notice that the client disconnects.
        send: ASGI's.
        drain_limit: of all endpoints.
        headers: sent with the 200, besides those of `writer`.
        defect: see `OnDefect`.
        heartbeat_s: seconds without an event after which a heartbeat is sent.
    """

    __slots__ = (
        "_body_sink", "_defect", "_drain_limit", "_drain_timer", "_has_begun", "_has_ended", "_headers", "_heartbeat",
        "_heartbeat_s", "_is_gone", "_is_open", "_keeps_up", "_loop", "_opening", "_receive", "_relaying",
        "_reply_headers", "_send", "_sent_at", "_writer",
    )  # fmt: skip

    def __init__(
        self,
        writer: EventWriter,
        receive: Receive,
        send: Send,
        drain_limit: DrainLimit,
        headers: Headers,
        defect: OnDefect,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._writer = writer
        self._receive = receive
        self._send = send
        self._body_sink = _body_sink_of(send)
        self._drain_limit = drain_limit
        self._headers = headers
        self._reply_headers: Headers = []
        self._defect = defect
        self._heartbeat_s = heartbeat_s
        self._has_begun = False
        self._is_open = False  # the head was sent
        self._has_ended = False
        self._keeps_up = True
        self._is_gone = False
        self._sent_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._drain_timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[Relay | Answer] | None = None
        self._relaying: Relay | None = None
        self._heartbeat: asyncio.TimerHandle

    async def run(self, opening: asyncio.Task[Relay | Answer]) -> None:
        """Wait for `opening`, and send its reply to the end.

        Raises:
            GatewayError: the reply failed before anything was sent.
        """
        self._opening = opening
        del opening  # breaks a reference cycle: the task's exception has a traceback that holds this frame
        watch = asyncio.ensure_future(_until_gone(self._receive))
        watch.add_done_callback(lambda done: None if done.cancelled() else self._client_is_gone())
        try:
            came = await self._opened()
            self._reply_headers = self._writer.opened(came)
            if isinstance(came, Answer):
                await self._write(self._writer.kept(came))
            else:
                await self._relay(came)
        except GatewayError as error:
            if not self._can_stream(error):
                raise
            await self._write(self._writer.error(error))
        except asyncio.CancelledError:
            if self._is_gone:
                return  # `_give_up` or the request's `ClientPresence` cancelled the opening
            if not self._has_begun:
                raise
            await self._write(self._writer.error(Overloaded("The gateway is stopping: send the request again.")))
        except Exception as error:  # edge: a defect of the gateway; after the 200, the stream has to report it
            if not self._has_begun:
                raise
            await self._write(self._writer.error(self._defect(error)))
        finally:
            self._has_ended = True
            self._opening = self._relaying = None
            watch.cancel()
            if self._drain_timer is not None:
                self._drain_timer.cancel()
                self._drain_limit.count -= 1
        await self._body_sink.caught_up()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _can_stream(self, error: GatewayError) -> bool:
        """Return whether the error is sent as an event: the stream has begun, or the client expects it in one."""
        if self._has_begun:
            return True
        headers = self._writer.headers_of_error(error)
        self._reply_headers = headers or []
        return headers is not None

    async def _opened(self) -> Relay | Answer:
        """Wait for the reply to begin, and send heartbeats meanwhile."""
        opening = self._opening
        assert opening is not None  # noqa: S101 - set by `run`
        try:
            while not (await asyncio.wait({opening}, timeout=self._heartbeat_s))[0]:
                await self._write(self._writer.keep_alive)
            return opening.result()
        except asyncio.CancelledError:
            opening.cancel()
            await asyncio.wait({opening})
            if not opening.cancelled() and opening.exception() is None and isinstance(opening.result(), Relay):
                opening.result().drop()  # type: ignore[union-attr]  # opened in the meantime, so its tokens are billed
            raise CancelledAndRecorded from None
        finally:
            del opening  # as in `run`

    async def ready(self) -> None:
        """Return once the client has read what was sent before (see `Sink`). Sends the head of the response first."""
        if not self._has_begun:
            self._has_begun = True
            start = [(b"content-type", self._writer.content_type), *HEAD, *self._reply_headers, *self._headers]
            await self._send({"type": "http.response.start", "status": 200, "headers": start})
            self._is_open = True
        await self._body_sink.caught_up()
        self._keeps_up = True

    def take(self, raw_events: list[RawEvent]) -> bool:
        """Encode and send events; return False if the client reads too slowly (see `Sink`)."""
        data = self._writer.take(raw_events)
        if not data or self._is_gone:
            return True
        self._sent_at = self._loop.time()
        self._keeps_up = self._body_sink.take(data)
        return self._keeps_up

    async def _relay(self, relay: Relay) -> None:
        self._relaying = relay
        if self._is_gone and self._drain_timer is None:
            relay.abandon()
        self._heartbeat = self._loop.call_later(self._heartbeat_s, self._keep_alive)
        try:
            await relay.run(self)
        finally:
            self._heartbeat.cancel()
        end = b"" if relay.answer is None else self._writer.end(relay.answer)
        if end and not self._is_gone:
            await self._write(end)

    def _client_is_gone(self) -> None:
        """Read the stream on, since its tokens are billed; give it up if configured so or too many drain already."""
        self._is_gone = True
        if self._has_ended:
            return
        drain_limit = self._drain_limit
        if drain_limit.on_disconnect == "abort" or drain_limit.count >= MOST_DRAINED:
            self._give_up()
        else:
            drain_limit.count += 1
            self._drain_timer = self._loop.call_later(DRAIN_S, self._give_up)

    def _give_up(self) -> None:
        if self._relaying is not None:
            self._relaying.abandon()
        elif self._opening is not None:
            self._opening.cancel()

    def _keep_alive(self) -> None:
        """Send a heartbeat if nothing was sent for `heartbeat_s`, and set the timer for the next look."""
        quiet_s = self._loop.time() - self._sent_at
        if quiet_s >= self._heartbeat_s:
            if self._is_open and self._keeps_up and not self._is_gone:
                self._keeps_up = self._body_sink.take(self._writer.keep_alive)
            quiet_s = 0.0
        self._heartbeat = self._loop.call_later(self._heartbeat_s - quiet_s, self._keep_alive)

    async def _write(self, data: bytes) -> None:
        await self.ready()
        self._sent_at = self._loop.time()
        self._keeps_up = self._body_sink.take(data)


def _body_sink_of(send: object) -> BodySink:
    return send if isinstance(send, BodySink) else _QueuedSend(cast(Send, send))


class _QueuedSend:
    """A `BodySink` for any ASGI server: data is queued, and sent when `caught_up` is awaited."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: list[bytes] = []

    def take(self, data: bytes) -> bool:
        """Queue `data`; return False, so that the caller awaits `caught_up`."""
        self._waiting.append(data)
        return False

    async def caught_up(self) -> None:
        """Send what is queued."""
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
