"""A reply on its way: from the first chunk of its content on it is the client's, and no other provider's."""

from __future__ import annotations

from collections.abc import Callable
from traceback import format_tb
from typing import Protocol

from llm_gateway.domain.assembly import Assembly
from llm_gateway.domain.plan import Incoming, Served
from llm_gateway.protocols.base import Piece, StreamReader
from llm_gateway.sse import Event


class Cut(Protocol):
    """Books a stream that ended in its middle. Returns the message as it may be shown."""

    def __call__(self, committed: Committed, message: str, *, is_ours: bool) -> str: ...


class Committed:
    """A stream that has begun to answer: what has come so far (`held`), and where the rest comes from.

    `is_native`: the provider speaks the client's protocol, so that its bytes may be passed on. `assembly` collects what
    was read. Its reader ends it with one of two calls: `served(committed)` when it is complete,
    `cut(committed, message, is_ours=…)` when it is not (`is_ours`: the client or the gateway gave it up). Both take the
    stream as an argument, because a stream that held a reference to itself would outlive its request.
    """

    __slots__ = (
        "_error", "_take", "assembly", "cut", "dropped", "held", "incoming", "is_native", "model", "provider", "reader",
        "served",
    )  # fmt: skip

    served: Callable[[Committed], Served]
    cut: Cut

    def __init__(self, incoming: Incoming, reader: StreamReader, *, is_native: bool, dropped: tuple[str, ...]) -> None:
        self.incoming = incoming
        self.reader = reader
        self.is_native = is_native
        self.dropped = dropped
        self.assembly = Assembly()
        self.held: list[Piece] = []
        self._error: Exception | None = None
        self._take: Callable[[list[Piece]], bool]
        self.provider = ""
        self.model = ""

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
            self._read(await self.incoming.next(timeout_s), pieces)
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
            return await self.incoming.pour(self._pour, idle_s)
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
