"""A reply in a stream: sent as it comes, kept awake while it does not, read to its end if nobody listens."""

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
DRAIN_S = 30.0
MOST_DRAINED = 64
HEAD: Headers = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]

OnDisconnect: TypeAlias = Literal["drain", "abort"]


OnDefect: TypeAlias = Callable[[Exception], GatewayError]
"""Hears of a defect of ours; returns what the client is told."""


class EventWriter(Protocol):
    """Encodes a streamed reply for one API; `keep_alive` is what is written while no event comes."""

    content_type: bytes
    keep_alive: bytes

    def opened(self, came: Relay | Answer) -> Headers:
        """The reply is there. The headers that tell about it."""
        ...

    def kept(self, answer: Answer) -> bytes:
        """A reply that is whole already, with its end."""
        ...

    def take(self, raw_events: list[RawEvent]) -> bytes:
        """What comes, on the line."""
        ...

    def end(self, answer: Answer) -> bytes:
        """What ends a complete reply."""
        ...

    def error(self, error: GatewayError) -> bytes:
        """What ends a reply that failed in its middle."""
        ...


@runtime_checkable
class BodySink(Protocol):
    """An ASGI `send` that also takes body data without a coroutine for each piece (`server/exchange.py` has one)."""

    def take(self, data: bytes) -> bool:
        """Send a piece of the body at once; whether the client keeps up."""
        ...

    async def caught_up(self) -> None:
        """Return when it has caught up, or is gone."""
        ...


class DrainLimit:
    """Counts the streams that are read to their end after their client left; there is one count for all endpoints."""

    __slots__ = ("count", "on_disconnect")

    def __init__(self, on_disconnect: OnDisconnect) -> None:
        self.on_disconnect = on_disconnect
        self.count = 0


class StreamedResponse:
    """One streamed response."""

    __slots__ = (
        "_beat", "_body_sink", "_defect", "_drain_limit", "_has_begun", "_has_ended", "_headers", "_heartbeat_s",
        "_is_gone", "_is_open", "_keeps_up", "_loop", "_opening", "_patience", "_receive", "_relaying", "_send",
        "_sent_at", "_told", "_writer",
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
        self._told: Headers = []
        self._defect = defect
        self._heartbeat_s = heartbeat_s
        self._has_begun = False
        self._is_open = False  # the head has left
        self._has_ended = False
        self._keeps_up = True
        self._is_gone = False
        self._sent_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._patience: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[Relay | Answer] | None = None
        self._relaying: Relay | None = None
        self._beat: asyncio.TimerHandle

    async def run(self, opening: asyncio.Task[Relay | Answer]) -> None:
        """Send the reply that is being opened.

        Raises:
            GatewayError: it failed before anything was sent.
        """
        self._opening = opening
        del opening  # a task holds the exception it raised, whose traceback would hold it here
        watch = asyncio.ensure_future(_until_gone(self._receive))
        watch.add_done_callback(lambda done: None if done.cancelled() else self._client_is_gone())
        try:
            came = await self._opened()
            self._told = self._writer.opened(came)
            if isinstance(came, Answer):
                await self._write(self._writer.kept(came))
            else:
                await self._relay(came)
        except GatewayError as error:
            if not self._has_begun:
                raise
            await self._write(self._writer.error(error))
        except asyncio.CancelledError:
            if self._is_gone:
                return  # opening was given up, since nobody waits for it
            if not self._has_begun:
                raise
            await self._write(self._writer.error(Overloaded("The gateway is stopping.")))
        except Exception as error:  # edge: a defect of ours; who was told 200 already is told in the stream
            if not self._has_begun:
                raise
            await self._write(self._writer.error(self._defect(error)))
        finally:
            self._has_ended = True
            self._opening = self._relaying = None
            watch.cancel()
            if self._patience is not None:
                self._patience.cancel()
                self._drain_limit.count -= 1
        await self._body_sink.caught_up()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _opened(self) -> Relay | Answer:
        """Wait for the reply to begin; the first heartbeat sends the 200, what fails after it is told in the stream."""
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
                opening.result().drop()  # type: ignore[union-attr]  # it is one
            raise CancelledAndRecorded from None
        finally:
            del opening  # as in `run`

    async def ready(self) -> None:
        """As in `Sink`: when the client has read what was sent before."""
        if not self._has_begun:
            self._has_begun = True
            start = [(b"content-type", self._writer.content_type), *HEAD, *self._told, *self._headers]
            await self._send({"type": "http.response.start", "status": 200, "headers": start})
            self._is_open = True
        await self._body_sink.caught_up()
        self._keeps_up = True

    def take(self, raw_events: list[RawEvent]) -> bool:
        """As in `Sink`."""
        data = self._writer.take(raw_events)
        if not data or self._is_gone:
            return True
        self._sent_at = self._loop.time()
        self._keeps_up = self._body_sink.take(data)
        return self._keeps_up

    async def _relay(self, relay: Relay) -> None:
        self._relaying = relay
        if self._is_gone and self._patience is None:
            relay.abandon()
        self._beat = self._loop.call_later(self._heartbeat_s, self._keep_alive)
        try:
            await relay.run(self)
        finally:
            self._beat.cancel()
        end = b"" if relay.answer is None else self._writer.end(relay.answer)
        if end and not self._is_gone:
            await self._write(end)

    def _client_is_gone(self) -> None:
        """Read on to the end, since it is paid for; or not, where that was said or too many are read so already."""
        self._is_gone = True
        if self._has_ended:
            return
        drain_limit = self._drain_limit
        if drain_limit.on_disconnect == "abort" or drain_limit.count >= MOST_DRAINED:
            self._give_up()
        else:
            drain_limit.count += 1
            self._patience = self._loop.call_later(DRAIN_S, self._give_up)

    def _give_up(self) -> None:
        if self._relaying is not None:
            self._relaying.abandon()
        elif self._opening is not None:
            self._opening.cancel()

    def _keep_alive(self) -> None:
        """Say something when nothing was said for long: what stands between closes what looks dead."""
        quiet_s = self._loop.time() - self._sent_at
        if quiet_s >= self._heartbeat_s:
            if self._is_open and self._keeps_up and not self._is_gone:
                self._keeps_up = self._body_sink.take(self._writer.keep_alive)
            quiet_s = 0.0
        self._beat = self._loop.call_later(self._heartbeat_s - quiet_s, self._keep_alive)

    async def _write(self, data: bytes) -> None:
        await self.ready()
        self._sent_at = self._loop.time()
        self._keeps_up = self._body_sink.take(data)


def _body_sink_of(send: object) -> BodySink:
    return send if isinstance(send, BodySink) else _QueuedSend(cast(Send, send))


class _QueuedSend:
    """Push to a server that knows ASGI alone: the data leaves when `caught_up` is awaited."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: list[bytes] = []

    def take(self, data: bytes) -> bool:
        """As in `BodySink`."""
        self._waiting.append(data)
        return False

    async def caught_up(self) -> None:
        """As in `BodySink`."""
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
