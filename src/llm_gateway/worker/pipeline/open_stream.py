"""A streamed reply whose content has begun: it is relayed to the client, and no other provider is tried any more."""

from __future__ import annotations

from collections.abc import Callable
from traceback import format_tb
from typing import NamedTuple

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.reply_assembler import ReplyAssembler
from llm_gateway.domain.upstream_call import Success, UpstreamCall
from llm_gateway.protocols.contract import RawEvent, StreamReader
from llm_gateway.sse import Event
from llm_gateway.worker.pipeline.upstream_events import UpstreamEvents


class AttemptCallbacks(NamedTuple):
    """Callbacks that conclude the attempt behind a stream: `served` when it is complete, `cut` when it is not.

    `cut` takes the message and `is_ours` of `OpenStream.cut`, and returns the message without secrets. Both take the
    stream as an argument, because a stream that held a reference to itself would outlive its request.
    """

    served: Callable[[OpenStream], Success]
    cut: Callable[[OpenStream, str, bool], str]


class OpenStream:
    """A provider's stream whose content has begun: the pieces received so far (`held`) and the source of the rest.

    `is_native`: the provider speaks the client's protocol, so that its bytes may be passed on. `assembler` collects
    what was read. Whoever reads it ends it with one of two calls: `served` when it is complete, `cut` when it is not.
    """

    __slots__ = (
        "_callbacks", "_error", "_take", "assembler", "dropped", "events", "held", "is_native", "model", "provider",
        "reader",
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
        self._callbacks = callbacks
        self.assembler = ReplyAssembler()
        self.held: list[RawEvent] = []
        self._error: Exception | None = None
        self._take: Callable[[list[RawEvent]], bool]

    def served(self) -> Success:
        """Record the complete stream as the attempt's success."""
        return self._callbacks.served(self)

    def cut(self, message: str, *, is_ours: bool) -> str:
        """Record that the stream ended early, with what was received as bought. Returns the message without secrets.

        `is_ours`: the client or the gateway gave it up, so it does not count as the provider's failure.
        """
        return self._callbacks.cut(self, message, is_ours)

    async def next(self, timeout_s: float) -> list[RawEvent]:
        """What comes next, all that has come; nothing when the provider's stream is over.

        Raises:
            StreamCut: nothing came for so many seconds, or nothing ever will.
            Malformed, UpstreamError: (protocols/contract.py) what came is no reply, or says that the provider failed.
                What came with it before is returned first.
        """
        self._check()
        raw_events: list[RawEvent] = []
        try:
            self._read(await self.events.next(timeout_s), raw_events)
        except Exception as error:  # edge: it is raised when its turn comes
            if not raw_events:
                raise
            error.add_note("".join(format_tb(error.__traceback__)))
            self._error = error.with_traceback(None)  # whose frames hold this stream
        return raw_events

    async def deliver(self, take: Callable[[list[RawEvent]], bool], idle_s: float) -> bool:
        """Call `take` with what comes, as it comes, until it returns False; whether more may come after that.

        Raises:
            StreamCut, Malformed, UpstreamError: as `next`.
        """
        self._check()
        self._take = take
        try:
            return await self.events.deliver(self._take_events, idle_s)
        finally:
            del self._take  # breaks the circle

    def _check(self) -> None:
        """Raise the error that waits for its turn."""
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
        except Exception:  # edge: what came before it is the client's
            if raw_events:
                self._take(raw_events)
            raise
        return self._take(raw_events)

    def _read(self, events: list[Event], raw_events: list[RawEvent]) -> None:
        read, assemble = self.reader.take, self.assembler.take
        for event in events:
            chunks = read(event)
            for chunk in chunks:
                assemble(chunk)
            raw_events.append(RawEvent(event.raw, chunks))
