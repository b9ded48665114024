"""Serialise interleaved tool-call deltas for protocols that require complete blocks."""

from __future__ import annotations

import msgspec

from llm_gateway.domain.conversation import Begin, Chunk, Counted, Finish, ToolBegin, ToolDelta
from llm_gateway.protocols.contract import PARSE_ERRORS

_decode = msgspec.json.Decoder().decode


class DeltaSerializer:
    """Holds back what comes in the middle of a tool call, as when parallel calls are told in turns.

    A call is taken for whole when its arguments are a JSON document; what never becomes one is whole at the end.
    """

    def __init__(self) -> None:
        self._call: int | None = None
        self._arguments: list[str] = []
        self._held: list[Chunk] = []

    def take(self, chunk: Chunk) -> list[Chunk]:
        """Return the chunks that may be written now."""
        if self._call is None and not isinstance(chunk, ToolBegin):
            return [chunk]
        if isinstance(chunk, Begin | Counted | Finish):
            return [chunk]
        if isinstance(chunk, ToolDelta) and chunk.call == self._call:
            self._arguments.append(chunk.arguments)
            return [chunk]
        if self._held or not self._is_whole():
            self._held.append(chunk)
            return []
        self._call, self._arguments = (chunk.call if isinstance(chunk, ToolBegin) else None), []
        return [chunk]

    def end(self) -> list[Chunk]:
        """What was held back, each call with all of its arguments."""
        held, self._held = self._held, []
        places: dict[int, int] = {}
        order = []
        for number, chunk in enumerate(held):
            if isinstance(chunk, ToolBegin):
                places[chunk.call] = number
            place = places.get(chunk.call, number) if isinstance(chunk, ToolBegin | ToolDelta) else number
            order.append((place, number, chunk))
        return [chunk for _, _, chunk in sorted(order, key=lambda one: one[:2])]

    def _is_whole(self) -> bool:
        if self._call is None:
            return True
        try:
            _decode("".join(self._arguments))
        except PARSE_ERRORS:
            return False
        return True
