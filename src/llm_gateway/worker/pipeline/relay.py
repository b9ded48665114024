"""Relay an open stream to its client event by event, and settle it before its last event leaves.

There is no going back to another provider. What ends too early ends with an error, never as if it were complete.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from llm_gateway.domain.reply import Answer
from llm_gateway.domain.upstream_call import Success
from llm_gateway.errors import GatewayError, ProviderFailed
from llm_gateway.protocols.contract import Malformed, RawEvent, UpstreamError
from llm_gateway.worker.pipeline.open_stream import OpenStream
from llm_gateway.worker.pipeline.upstream_events import MAX_EVENT_GAP_S, StreamCut

MOST_HELD_BYTES = 256 * 1024
"""Of events that may be the last: what an event is larger by is not cut."""
CUT = "The stream ended before it was complete"


class Sink(Protocol):
    """Where pieces go."""

    async def ready(self) -> None:
        """Return when some may come."""
        ...

    def take(self, raw_events: list[RawEvent]) -> bool:
        """Take them; whether more may come at once, without `ready`."""
        ...


class Relay:
    """The pieces of one stream, to be run once.

    `route` says why this provider answers (`Plan.route_to`). `settled` makes it durable, `failed` and `gone` record how
    else it ended. `answer` is there once it is complete.
    """

    __slots__ = (
        "_failed", "_gone", "_is_abandoned", "_last", "_settled", "_stream", "_take", "answer", "dropped",
        "is_native", "model", "provider", "route",
    )  # fmt: skip

    def __init__(
        self,
        stream: OpenStream,
        *,
        route: bytes = b"priority",
        settled: Callable[[Success], Awaitable[Answer]],
        failed: Callable[[GatewayError], Awaitable[None]],
        gone: Callable[[], None],
    ) -> None:
        self.provider, self.model, self.route = stream.provider, stream.model, route
        self.is_native, self.dropped = stream.is_native, stream.dropped
        self.answer: Answer | None = None
        self._stream = stream
        self._settled = settled
        self._failed = failed
        self._gone = gone
        self._is_abandoned = False
        self._last: list[RawEvent] = []
        self._take: Callable[[list[RawEvent]], bool]

    def abandon(self) -> None:
        """Nobody wants the rest: the provider's connection is closed at once, and nothing more comes."""
        self._is_abandoned = True
        self._stream.events.close()

    def drop(self) -> None:
        """It will never be run to its end: what came was bought."""
        self._stream.events.close()
        self._stream.cut("cancelled", is_ours=True)
        self._gone()

    async def run(self, sink: Sink) -> None:
        """Hand over what comes; the last pieces when everything is durable.

        Raises:
            ProviderFailed: the stream broke, stalled, or is none.
            JournalUnavailable: it is complete, and could not be made durable.
        """
        stream = self._stream
        try:
            last, stream.held = stream.held, []
            if not stream.reader.is_done:
                last = await self._deliver(sink, last)
        except (StreamCut, Malformed, UpstreamError) as error:
            await self._cut(str(error))
            return
        except BaseException:  # edge: closed or cancelled in mid-stream; what came was bought
            self.drop()
            raise
        try:
            self.answer = await self._settled(stream.served())
        finally:
            stream.events.close()
        if last:
            await sink.ready()
            sink.take(last)

    async def _deliver(self, sink: Sink, first: list[RawEvent]) -> list[RawEvent]:
        """Hand over everything but what ends the reply, which is returned: it leaves once the record is durable."""
        stream = self._stream
        reader = stream.reader
        self._take = sink.take
        try:
            await sink.ready()
            self._take_raw_events(first)
            while not reader.is_done:
                await sink.ready()
                if not await stream.deliver(self._take_raw_events, MAX_EVENT_GAP_S):
                    break
        finally:
            del self._take  # the sink refers to this relay
        if not (reader.is_done or stream.assembler.is_finished):
            raise StreamCut("broken", CUT)
        return self._last

    def _take_raw_events(self, raw_events: list[RawEvent]) -> bool:
        if self._stream.reader.is_done:
            self._last += raw_events
            return False
        if self._may_be_last():
            self._last += raw_events
            return True
        if self._last:
            raw_events, self._last = self._last + raw_events, []
        return self._take(raw_events)

    def _may_be_last(self) -> bool:
        """Whether the reply may be whole, where only the connection's end tells. Holds back a limited size."""
        stream = self._stream
        if stream.reader.has_own_end or not stream.assembler.is_finished:
            return False
        return sum([len(raw_event.raw) for raw_event in self._last]) < MOST_HELD_BYTES

    async def _cut(self, message: str) -> None:
        self._stream.events.close()
        if self._is_abandoned:
            self._stream.cut("The client went away", is_ours=True)
            self._gone()
            return
        error = ProviderFailed(self._stream.cut(message, is_ours=False))
        try:
            await self._failed(error)
            raise error
        finally:
            del error  # its traceback holds this frame
