"""Serialise interleaved tool-call deltas for protocols that require complete blocks.

OpenAI's parallel tool calls may interleave; in Anthropic's, Google's and the Responses protocol a call must be
complete before the next part begins. `DeltaSerializer` therefore holds back chunks while a call is incomplete:

                       ToolStart: pass                   ┌─ ToolDelta of this call: pass
                ┌───────────────────────────────────┐    │  ToolStart, arguments complete: pass
                │                                   ▼    ▼
    ┌──────────────────────┐                   ┌───────────┐
    │ no call              │                   │ open call │
    │ other chunk: pass    │                   └───────────┘
    └──────────────────────┘                      │     │
                ▲                                 │     │ other chunk or ToolStart, arguments incomplete: hold
                └─────────────────────────────────┘     ▼
                  other chunk, arguments complete:  ┌────────────────────────────────────────┐
                  pass                              │ holding                                │
                                                    │ ToolDelta of this call: pass           │
                                                    │ every other chunk: hold, until `end`   │
                                                    └────────────────────────────────────────┘

`ReplyStart`, `UsageUpdate` and `ChoiceEnd` pass in every state. `holding` lasts until the stream ends; `end` then
returns the chunks held back, sorted so that the arguments of each call follow its `ToolStart`.
"""

from __future__ import annotations

import msgspec

from llm_gateway.domain.conversation import ChoiceEnd, Chunk, ReplyStart, ToolDelta, ToolStart, UsageUpdate
from llm_gateway.protocols.contract import PARSE_ERRORS

_decode = msgspec.json.Decoder().decode


class DeltaSerializer:
    """A filter that delays chunks which arrive in the middle of another tool call. One for each choice of a stream.

    A call is complete when its arguments parse as JSON. A call whose arguments never parse is complete at `end`.
    """

    def __init__(self) -> None:
        self._call: int | None = None
        self._arguments: list[str] = []
        self._held: list[Chunk] = []

    def take(self, chunk: Chunk) -> list[Chunk]:
        """Return the chunks that may be written now: `chunk` alone, or none while it is held back."""
        if self._call is None and not isinstance(chunk, ToolStart):
            return [chunk]
        if isinstance(chunk, ReplyStart | UsageUpdate | ChoiceEnd):
            return [chunk]
        if isinstance(chunk, ToolDelta) and chunk.call == self._call:
            self._arguments.append(chunk.arguments)
            return [chunk]
        if self._held or not self._is_whole():
            self._held.append(chunk)
            return []
        self._call, self._arguments = (chunk.call if isinstance(chunk, ToolStart) else None), []
        return [chunk]

    def end(self) -> list[Chunk]:
        """Return the chunks that were held back, each call with all of its arguments."""
        held, self._held = self._held, []
        # Sort each ToolDelta to the position of its ToolStart, and keep the order of arrival otherwise.
        places: dict[int, int] = {}
        order = []
        for number, chunk in enumerate(held):
            if isinstance(chunk, ToolStart):
                places[chunk.call] = number
            place = places.get(chunk.call, number) if isinstance(chunk, ToolStart | ToolDelta) else number
            order.append((place, number, chunk))
        return [chunk for _, _, chunk in sorted(order, key=lambda entry: entry[:2])]

    def _is_whole(self) -> bool:
        if self._call is None:
            return True
        try:
            _decode("".join(self._arguments))
        except PARSE_ERRORS:
            return False
        return True
