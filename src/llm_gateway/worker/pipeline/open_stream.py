"""A streamed reply from one provider: read its events, and conclude the attempt behind it.

    the attempt reads: next ── content begins ──▶ relayed to the client: deliver ── reply complete ──▶ served
              │                                                │
              │ stream cut, malformed, or an error event       │ the same, or the client or the gateway gave it up
              ▼                                                ▼
    attempt failed, next candidate                            cut: the tokens received so far are billed

Once content has begun, no other provider is tried: the client may have received some of it.
"""

from __future__ import annotations

from collections.abc import Callable
from traceback import format_tb
from typing import NamedTuple

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.reply_assembler import ReplyAssembler
from llm_gateway.domain.upstream_call import Success, UpstreamCall
from llm_gateway.errors import ProviderFailed
from llm_gateway.protocols.contract import RawEvent, StreamReader
from llm_gateway.sse import Event
from llm_gateway.worker.pipeline.upstream_events import UpstreamEvents


class AttemptCallbacks(NamedTuple):
    """Callbacks that conclude the attempt behind a stream: `served` if it is complete, `cut` if it ended early.

    `cut` takes the cause and `is_ours` of `OpenStream.cut`, and returns the error for the client. Both take the stream
    as an argument, because a stream that held a reference to itself would outlive its request.
    """

    served: Callable[[OpenStream], Success]
    cut: Callable[[OpenStream, Exception | str, bool], ProviderFailed]


class OpenStream:
    """A provider's stream: the events read so far but not delivered (`held`), and the source of the others.

    `is_native`: the provider speaks the client's protocol, so its bytes can be passed on. `assembler` assembles the
    reply from the chunks read. `queued_ms` is the time that the request waited for a rate limit. Its owner ends it with
    one of two calls: `served` if it is complete, `cut` if it is not.
    """

    __slots__ = (
        "_call", "_callbacks", "_error", "_take", "assembler", "dropped", "events", "held", "is_native", "model",
        "provider", "queued_ms", "reader",
    )  # fmt: skip

    def __init__(
        self,
        events: UpstreamEvents,
        reader: StreamReader,
        candidate: Candidate,
        call: UpstreamCall,
        callbacks: AttemptCallbacks,
    ) -> None:
        self.events = events
        self.reader = reader
        self.provider, self.model = candidate.provider.name, candidate.model
        self.is_native, self.dropped = call.is_native, call.dropped
        self._call = call
        self._callbacks = callbacks
        self.queued_ms = 0
        self.assembler = ReplyAssembler()
        self.held: list[RawEvent] = []
        self._error: Exception | None = None
        self._take: Callable[[list[RawEvent]], bool]

    def served(self) -> Success:
        """Record the complete stream as the attempt's success."""
        return self._callbacks.served(self)

    def cut(self, cause: Exception | str, *, is_ours: bool) -> ProviderFailed:
        """Record that the stream ended early, and bill what was received. Returns the error for the client.

        `is_ours`: the client or the gateway gave it up, so that it does not count as the provider's failure.
        """
        return self._callbacks.cut(self, cause, is_ours)

    async def next(self, timeout_s: float) -> list[RawEvent]:
        """Return all events that have arrived, at least one; an empty list once the provider's stream is over.

        Raises:
            StreamCut: no event arrived for `timeout_s` seconds, or the connection broke.
            Malformed: an event does not follow the provider's protocol (protocols/contract.py).
            UpstreamError: an event reports that the provider failed. This and `Malformed` are raised by the next call
                if valid events arrived before the bad one: those are returned first.
        """
        self._check()
        raw_events: list[RawEvent] = []
        try:
            self._read(await self.events.next(timeout_s), raw_events)
        except Exception as error:  # edge: kept and raised by the next call, after the events before it
            if not raw_events:
                raise
            error.add_note("".join(format_tb(error.__traceback__)))
            self._error = error.with_traceback(None)  # a traceback's frames would keep this stream alive
        return raw_events

    async def deliver(self, take: Callable[[list[RawEvent]], bool], idle_s: float) -> bool:
        """Call `take` with events as they arrive, until it returns False. Returns whether more may arrive after that.

        Raises:
            StreamCut, Malformed, UpstreamError: as `next`, but right after `take` was called with the events before.
        """
        self._check()
        self._take = take
        try:
            return await self.events.deliver(self._take_events, idle_s)
        finally:
            del self._take  # breaks a reference cycle: the relay that it belongs to holds this stream

    def _check(self) -> None:
        """Raise the error that `next` kept, if there is one."""
        error, self._error = self._error, None
        if error is None:
            return
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def _take_events(self, events: list[Event]) -> bool:
        raw_events: list[RawEvent] = []
        try:
            self._read(events, raw_events)
        except Exception:  # edge: the client gets the events before the bad one first
            if raw_events:
                self._take(raw_events)
            raise
        return self._take(raw_events)

    def _with_own_names(self, events: list[Event]) -> list[Event]:
        """Return the events with the client's names of tools instead of those that the provider was sent."""
        restored = self._call.restored
        return [Event(event.name, restored(event.data), restored(event.raw)) for event in events]

    def _read(self, events: list[Event], raw_events: list[RawEvent]) -> None:
        read, assemble = self.reader.take, self.assembler.take
        for event in self._with_own_names(events) if self._call.renamed else events:
            chunks = read(event)
            for chunk in chunks:
                assemble(chunk)
            raw_events.append(RawEvent(event.raw, chunks))
