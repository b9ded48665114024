"""A committed stream on its way to its client: piece by piece to its end, and settled before its last piece leaves.

There is no going back to another provider. What ends too early ends with an error, never as if it were complete.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

from llm_gateway.domain.messages import Answer
from llm_gateway.domain.plan import Served, StreamCut
from llm_gateway.domain.streams import Committed, Piece
from llm_gateway.errors import GatewayError, ProviderFailed
from llm_gateway.protocols.base import Malformed, UpstreamError

BETWEEN_EVENTS_S = 120.0
CUT = "The stream ended before it was complete"


class Relay:
    """The pieces of one stream, to be iterated once, to the end or closed (`contextlib.aclosing`).

    `settled` makes it durable, `failed` and `gone` record how else it ended. `answer` is there once it is complete.
    """

    def __init__(
        self,
        committed: Committed,
        *,
        settled: Callable[[Served], Awaitable[Answer]],
        failed: Callable[[GatewayError], Awaitable[None]],
        gone: Callable[[], None],
    ) -> None:
        self.provider, self.model = committed.provider, committed.model
        self.is_native, self.dropped = committed.is_native, committed.dropped
        self.answer: Answer | None = None
        self._committed = committed
        self._settled = settled
        self._failed = failed
        self._gone = gone
        self._is_abandoned = False

    def abandon(self) -> None:
        """Nobody wants the rest: the provider's connection is closed at once, and who iterates gets no more."""
        self._is_abandoned = True
        self._committed.incoming.close()

    def drop(self) -> None:
        """Nobody will ever iterate: what came was bought."""
        self._committed.incoming.close()
        self._committed.cut("cancelled", is_ours=True)
        self._gone()

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        """What comes, all that has come at a time; the last piece when everything is durable.

        Raises:
            ProviderFailed: the stream broke, stalled, or is none.
            JournalUnavailable: it is complete, and could not be made durable.
        """
        committed = self._committed
        try:
            pieces, committed.held = committed.held, []
            while not committed.reader.is_done:
                if pieces:
                    yield pieces
                pieces = await committed.next(BETWEEN_EVENTS_S)
                if not pieces:
                    if not committed.assembly.is_finished:
                        raise StreamCut("broken", CUT)
                    break
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
        if pieces:
            yield pieces

    async def _cut(self, message: str) -> None:
        self._committed.incoming.close()
        if self._is_abandoned:
            self._committed.cut("The client went away", is_ours=True)
            self._gone()
            return
        error = ProviderFailed(self._committed.cut(message, is_ours=False))
        await self._failed(error)
        raise error
