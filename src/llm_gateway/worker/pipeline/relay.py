"""A committed stream on its way to its client: piece by piece to its end, and settled before its last piece leaves.

There is no going back to another provider. What ends too early ends with an error, never as if it were complete.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from llm_gateway.domain.messages import Answer
from llm_gateway.domain.plan import Served
from llm_gateway.errors import GatewayError, ProviderFailed
from llm_gateway.protocols.base import Malformed, Piece, UpstreamError
from llm_gateway.worker.pipeline.incoming import StreamCut
from llm_gateway.worker.pipeline.streams import Committed

BETWEEN_EVENTS_S = 120.0
MOST_HELD_BYTES = 256 * 1024
"""Of events that may be the last: what an event is larger by is not cut."""
CUT = "The stream ended before it was complete"


class Sink(Protocol):
    """Where pieces go."""

    async def ready(self) -> None:
        """Return when some may come."""
        ...

    def take(self, pieces: list[Piece]) -> bool:
        """Take them; whether more may come at once, without `ready`."""
        ...


class Relay:
    """The pieces of one stream, to be run once.

    `route` says why this provider answers (`Plan.route_to`). `settled` makes it durable, `failed` and `gone` record how
    else it ended. `answer` is there once it is complete.
    """

    __slots__ = (
        "_committed", "_failed", "_gone", "_is_abandoned", "_last", "_settled", "_take", "answer", "dropped",
        "is_native", "model", "provider", "route",
    )  # fmt: skip

    def __init__(
        self,
        committed: Committed,
        *,
        route: bytes = b"priority",
        settled: Callable[[Served], Awaitable[Answer]],
        failed: Callable[[GatewayError], Awaitable[None]],
        gone: Callable[[], None],
    ) -> None:
        self.provider, self.model, self.route = committed.provider, committed.model, route
        self.is_native, self.dropped = committed.is_native, committed.dropped
        self.answer: Answer | None = None
        self._committed = committed
        self._settled = settled
        self._failed = failed
        self._gone = gone
        self._is_abandoned = False
        self._last: list[Piece] = []
        self._take: Callable[[list[Piece]], bool]

    def abandon(self) -> None:
        """Nobody wants the rest: the provider's connection is closed at once, and nothing more comes."""
        self._is_abandoned = True
        self._committed.incoming.close()

    def drop(self) -> None:
        """It will never be run to its end: what came was bought."""
        self._committed.incoming.close()
        self._committed.cut("cancelled", is_ours=True)
        self._gone()

    async def run(self, sink: Sink) -> None:
        """Hand over what comes; the last pieces when everything is durable.

        Raises:
            ProviderFailed: the stream broke, stalled, or is none.
            JournalUnavailable: it is complete, and could not be made durable.
        """
        committed = self._committed
        try:
            last, committed.held = committed.held, []
            if not committed.reader.is_done:
                last = await self._pour(sink, last)
        except (StreamCut, Malformed, UpstreamError) as error:
            await self._cut(str(error))
            return
        except BaseException:  # edge: closed or cancelled in mid-stream; what came was bought
            self.drop()
            raise
        try:
            self.answer = await self._settled(committed.served())
        finally:
            committed.incoming.close()
        if last:
            await sink.ready()
            sink.take(last)

    async def _pour(self, sink: Sink, first: list[Piece]) -> list[Piece]:
        """Hand over everything but what ends the reply, which is returned: it leaves once the record is durable."""
        committed = self._committed
        reader = committed.reader
        self._take = sink.take
        try:
            await sink.ready()
            self._forward(first)
            while not reader.is_done:
                await sink.ready()
                if not await committed.pour(self._forward, BETWEEN_EVENTS_S):
                    break
        finally:
            del self._take  # the sink refers to this relay
        if not (reader.is_done or committed.assembly.is_finished):
            raise StreamCut("broken", CUT)
        return self._last

    def _forward(self, pieces: list[Piece]) -> bool:
        if self._committed.reader.is_done:
            self._last += pieces
            return False
        if self._may_be_last():
            self._last += pieces
            return True
        if self._last:
            pieces, self._last = self._last + pieces, []
        return self._take(pieces)

    def _may_be_last(self) -> bool:
        """Whether the reply may be whole, where only the connection's end tells. Holds back a limited size."""
        committed = self._committed
        if committed.reader.has_own_end or not committed.assembly.is_finished:
            return False
        return sum([len(piece.raw) for piece in self._last]) < MOST_HELD_BYTES

    async def _cut(self, message: str) -> None:
        self._committed.incoming.close()
        if self._is_abandoned:
            self._committed.cut("The client went away", is_ours=True)
            self._gone()
            return
        error = ProviderFailed(self._committed.cut(message, is_ours=False))
        try:
            await self._failed(error)
            raise error
        finally:
            del error  # its traceback holds this frame
