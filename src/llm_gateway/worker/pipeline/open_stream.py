"""A streamed reply whose content has begun: it is relayed to the client, and no other provider is tried any more."""

from __future__ import annotations

from collections.abc import Callable
from traceback import format_tb
from typing import NamedTuple

from llm_gateway.domain.assembly import Assembly
from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.plan import Call, Served
from llm_gateway.protocols.base import Piece, StreamReader
from llm_gateway.sse import Event
from llm_gateway.worker.pipeline.upstream_events import UpstreamEvents


class AttemptCallbacks(NamedTuple):
    """Callbacks that conclude the attempt behind a stream: `served` when it is complete, `cut` when it is not.

    `cut` takes the message and `is_ours` of `OpenStream.cut`, and returns the message without secrets. Both take the
    stream as an argument, because a stream that held a reference to itself would outlive its request.
    """

    served: Callable[[OpenStream], Served]
    cut: Callable[[OpenStream, str, bool], str]


class OpenStream:
    """A provider's stream whose content has begun: the pieces received so far (`held`) and the source of the rest.

    `is_native`: the provider speaks the client's protocol, so that its bytes may be passed on. `assembly` collects what
    was read. Whoever reads it ends it with one of two calls: `served` when it is complete, `cut` when it is not.
    """

    __slots__ = (
        "_callbacks", "_error", "_take", "assembly", "dropped", "events", "held", "is_native", "model", "provider",
        "reader",
    )  # fmt: skip

    def __init__(
        self,
        events: UpstreamEvents,
        reader: StreamReader,
        candidate: Candidate,
        call: Call,
        callbacks: AttemptCallbacks,
    ) -> None:
        self.events = events
        self.reader = reader
        self.provider, self.model = candidate.provider.name, candidate.model
        self.is_native, self.dropped = call.is_native, call.dropped
        self._callbacks = callbacks
        self.assembly = Assembly()
        self.held: list[Piece] = []
        self._error: Exception | None = None
        self._take: Callable[[list[Piece]], bool]

    def served(self) -> Served:
        """Record the complete stream as the attempt's success."""
        return self._callbacks.served(self)

    def cut(self, message: str, *, is_ours: bool) -> str:
        """Record that the stream ended early, with what was received as bought. Returns the message without secrets.

        `is_ours`: the client or the gateway gave it up, so it does not count as the provider's failure.
        """
        return self._callbacks.cut(self, message, is_ours)

    async def next(self, timeout_s: float) -> list[Piece]:
        """What comes next, all that has come; nothing when the provider's stream is over.

        Raises:
            StreamCut: nothing came for so many seconds, or nothing ever will.
            Malformed, UpstreamError: (protocols/base.py) what came is no reply, or says that the provider failed.
                What came with it before is returned first.
        """
        self._check()
        pieces: list[Piece] = []
        try:
            self._read(await self.events.next(timeout_s), pieces)
        except Exception as error:  # edge: it is raised when its turn comes
            if not pieces:
                raise
            error.add_note("".join(format_tb(error.__traceback__)))
            self._error = error.with_traceback(None)  # whose frames hold this stream
        return pieces

    async def pour(self, take: Callable[[list[Piece]], bool], idle_s: float) -> bool:
        """Call `take` with what comes, as it comes, until it returns False; whether more may come after that.

        Raises:
            StreamCut, Malformed, UpstreamError: as `next`.
        """
        self._check()
        self._take = take
        try:
            return await self.events.pour(self._pour, idle_s)
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

    def _pour(self, events: list[Event]) -> bool:
        pieces: list[Piece] = []
        try:
            self._read(events, pieces)
        except Exception:  # edge: what came before it is the client's
            if pieces:
                self._take(pieces)
            raise
        return self._take(pieces)

    def _read(self, events: list[Event], pieces: list[Piece]) -> None:
        feed, add = self.reader.feed, self.assembly.add
        for event in events:
            chunks = feed(event)
            for chunk in chunks:
                add(chunk)
            pieces.append(Piece(event.raw, chunks))
