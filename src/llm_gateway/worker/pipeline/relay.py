"""Relay an open stream to its client event by event, and settle its usage record before the last event is sent.

    created ── run ──▶ relaying ── reply complete ──▶ settling ── record durable ──▶ last events sent, `answer` is set
       │                │   │                            └─────── record not durable ──▶ JournalUnavailable
       │                │   └── stream broke, stalled or is malformed ──▶ recorded by `failed`, ProviderFailed
       │                └────── abandon: the client is gone ──▶ provider's connection closed, recorded by `gone`
       └────── drop: never run ──▶ provider's connection closed, recorded by `gone`

A stream that ends too early ends with an error for the client, never as if it were complete.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from llm_gateway.domain.rate_limits import WindowState
from llm_gateway.domain.reply import Answer
from llm_gateway.domain.upstream_call import Success
from llm_gateway.errors import GatewayError
from llm_gateway.protocols.contract import Malformed, RawEvent, UpstreamError
from llm_gateway.worker.pipeline.open_stream import OpenStream
from llm_gateway.worker.pipeline.upstream_events import MAX_EVENT_GAP_S, StreamCut

MOST_HELD_BYTES = 256 * 1024
"""Limit of the events held back because each may be the last one; a single event larger than this is still whole."""
CUT = "The stream ended before it was complete"


class Sink(Protocol):
    """The receiver of a relay's events (`StreamedResponse` is one).

    A relay awaits `ready` before its first `take`, and again after each `take` that returned False.
    """

    async def ready(self) -> None:
        """Return once the client can take more events, or is gone."""
        ...

    def take(self, raw_events: list[RawEvent]) -> bool:
        """Send events without waiting; return False if `ready` must be awaited before more."""
        ...


class Relay:
    """The transfer of one open stream to its client. Call either `run` or `drop`, once.

    Args:
        stream: with content already received.
        settled: settle the usage record of a complete stream, and return once it is durable.
        failed: settle the usage record with the error of a provider that failed.
        gone: settle the usage record as cancelled.
        route: why this provider answers (`Plan.route_to`).

    `answer` is None until the stream is complete and its record durable. `window` is what is left of the provider's
    rate limits, for the client, and `budget` the headers that tell what was left of the budget when it began.
    """

    __slots__ = (
        "_failed", "_gone", "_is_abandoned", "_last", "_settled", "_stream", "_take", "answer", "budget", "dropped",
        "is_native", "model", "provider", "queued_ms", "route", "window",
    )  # fmt: skip

    def __init__(
        self,
        stream: OpenStream,
        *,
        route: bytes,
        settled: Callable[[Success], Awaitable[Answer]],
        failed: Callable[[GatewayError], Awaitable[None]],
        gone: Callable[[], None],
    ) -> None:
        self.provider, self.model, self.route = stream.provider, stream.model, route
        self.is_native, self.dropped, self.queued_ms = stream.is_native, stream.dropped, stream.queued_ms
        self.window: WindowState | None = None
        self.budget: Sequence[tuple[bytes, bytes]] = ()
        self.answer: Answer | None = None
        self._stream = stream
        self._settled = settled
        self._failed = failed
        self._gone = gone
        self._is_abandoned = False
        self._last: list[RawEvent] = []
        self._take: Callable[[list[RawEvent]], bool]

    def abandon(self) -> None:
        """Close the provider's connection while `run` is under way, which then records the request as cancelled."""
        self._is_abandoned = True
        self._stream.events.close()

    def drop(self) -> None:
        """Abandon a stream that will not be run to its end; record the tokens received so far as billed."""
        self._stream.events.close()
        self._stream.cut("cancelled", is_ours=True)
        self._gone()

    async def run(self, sink: Sink) -> None:
        """Pass events to `sink` as they arrive; the last ones once the usage record is durable.

        Raises:
            ProviderFailed: the stream broke, stalled, or is malformed.
            JournalUnavailable: the stream is complete, but its record could not be made durable.
        """
        stream = self._stream
        try:
            last, stream.held = stream.held, []
            if not stream.reader.is_done:  # else the reply was complete when its content was noticed
                last = await self._deliver(sink, last)
        except (StreamCut, Malformed, UpstreamError) as error:
            await self._cut(error)
            return
        except BaseException:  # edge: cancelled in mid-stream; the tokens received are billed
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
        """Pass on all events but those that end the reply. Returns them, to be sent once the record is durable."""
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
            del self._take  # breaks a reference cycle: the sink holds this relay
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
        """Return whether these events may end the reply, in a protocol where only the connection's end tells.

        At most `MOST_HELD_BYTES` are held back this way.
        """
        stream = self._stream
        if stream.reader.has_own_end or not stream.assembler.is_finished:
            return False
        return sum([len(raw_event.raw) for raw_event in self._last]) < MOST_HELD_BYTES

    async def _cut(self, cause: Exception) -> None:
        self._stream.events.close()
        if self._is_abandoned:
            self._stream.cut("The client disconnected", is_ours=True)
            self._gone()
            return
        error = self._stream.cut(cause, is_ours=False)
        try:
            await self._failed(error)
            raise error
        finally:
            del error, cause  # their tracebacks hold this frame
