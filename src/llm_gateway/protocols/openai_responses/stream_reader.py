"""Turn the parsed server-sent events of a provider's Responses API stream into canonical chunks.

The labels are event: chunks. Events that are not listed are ignored.

    created ── response.created: ReplyStart ──▶ begun ◀─┐  output_item.added: ToolStart or VendorPartDelta
                                                │   │   │  output_item.done: ThinkingDelta, ToolDelta (see `_done`),
                                                │   │   │  BillingUpdate (a search, …)
                                                │   └───┘  *.delta: TextDelta, RefusalDelta, ThinkingDelta, ToolDelta
                                                │
                                                │ response.completed, response.incomplete: ChoiceEnd, UsageUpdate,
                                                │ BillingUpdate if the tier is not the standard one
                                                │ [DONE], sent by some vendors instead: ChoiceEnd
                                                ▼
                                               done

`error` and `response.failed` raise UpstreamError in every state.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from llm_gateway.domain.conversation import (
    BillingUpdate,
    ChoiceEnd,
    Chunk,
    Part,
    RefusalDelta,
    ReplyStart,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    VendorPartDelta,
)
from llm_gateway.protocols.contract import PARSE_ERRORS, UpstreamError
from llm_gateway.protocols.encrypted_reasoning import mark_content
from llm_gateway.protocols.lenient_decoding import Lenient, LenientIndex, ReplyDecoder
from llm_gateway.protocols.openai_responses.logprobs import read_logprobs
from llm_gateway.protocols.openai_responses.reply import (
    ITEMS,
    SEARCHES,
    ResponseHead,
    ToolAction,
    read_usage,
    reason_of,
    unit_of,
)
from llm_gateway.protocols.reported_values import seconds, special_tier
from llm_gateway.sse import Event

ENDS = frozenset({"response.completed", "response.incomplete"})
"""Types of the last event of a complete stream."""
FAILURES = frozenset({"error", "response.failed"})
"""Types of the last event of a stream in which the provider failed."""
DELTAS = frozenset(
    {"response.output_text.delta", "response.function_call_arguments.delta", "response.refusal.delta"}
    | {"response.reasoning_summary_text.delta", "response.reasoning_text.delta"}
)
"""Types of events whose `delta` is a piece of the answer."""
OTHERS = frozenset(
    {"response.created", "response.output_item.added", "response.output_item.done"}
    | {"response.reasoning_summary_part.added"}
)
"""Types of all other events that are read."""


class _Item(msgspec.Struct, gc=False):
    reads: ClassVar = ITEMS | SEARCHES.keys()
    narrow: ClassVar = SEARCHES

    type: str
    action: Lenient[ToolAction] = None
    call_id: Lenient[str] = None
    name: str | None = None
    arguments: str | None = None
    encrypted_content: Lenient[str] = None


class _Event(msgspec.Struct, gc=False):
    reads: ClassVar = ENDS | FAILURES | DELTAS | OTHERS

    type: str
    delta: str | dict[str, Any] | None = None
    output_index: LenientIndex = 0
    summary_index: LenientIndex = 0
    logprobs: Lenient[list[Any]] = None
    item: _Item | None = None
    response: Lenient[ResponseHead] = None
    message: Lenient[str] = None
    code: Lenient[str] = None
    error: Any = None


_decoder = ReplyDecoder(_Event, "response event")
_decode = _decoder.strictly


class StreamReader:
    """A `contract.StreamReader` of Responses events."""

    has_own_end = True

    def __init__(self) -> None:
        self.is_done = False
        self._calls: dict[int, int] = {}  # output_index -> number of the call
        self._with_arguments: set[int] = set()  # numbers of the calls of which arguments came
        self._units: dict[str, int] = {}
        self._requested_tier: str | None = None
        self._has_begun = False
        self._has_content = False

    def take(self, event: Event) -> list[Chunk]:
        """Return the chunks of an event; see `contract.StreamReader.take`."""
        if event.data == b"[DONE]":  # the end marker of chat completions, which some vendors send here, too
            is_first, self.is_done = not self.is_done, True
            return [self._finish(ResponseHead())] if is_first and self._has_begun else []
        try:
            payload = _decode(event.data)
        except PARSE_ERRORS:  # rare: replace invalid values beside the answer, or raise Malformed
            payload = _decoder.decode(event.data)
        kind = payload.type
        if isinstance(payload.delta, str):
            return self._delta(payload, payload.delta)
        if kind == "response.created":
            self._has_begun = True
            return self._begin(payload.response or ResponseHead())
        if kind == "response.output_item.added":
            return self._added(payload)
        if kind == "response.output_item.done":
            return self._done(payload)
        if kind == "response.reasoning_summary_part.added":
            return [ThinkingDelta(text="\n")] if payload.summary_index else []  # between parts, as in a whole reply
        if kind in ENDS:
            return self._end(payload.response or ResponseHead())
        if kind in FAILURES:
            raise _failed(payload)
        return []

    def _begin(self, response: ResponseHead) -> list[Chunk]:
        """Start the reply. Its tier is the requested one so far: the best guess, should the stream be cut."""
        chunks: list[Chunk] = [ReplyStart(id=response.id, model=response.model, created_s=seconds(response.created_at))]
        tier = special_tier(response.service_tier)
        if tier is not None:
            self._requested_tier = tier
            chunks.append(BillingUpdate(service_tier=tier))
        return chunks

    def _delta(self, payload: _Event, delta: str) -> list[Chunk]:
        kind, call = payload.type, self._calls.get(payload.output_index)
        self._has_content = True
        if kind == "response.output_text.delta":
            return [TextDelta(text=delta, logprobs=read_logprobs(payload.logprobs) if payload.logprobs else None)]
        if kind == "response.function_call_arguments.delta" and call is not None:
            self._with_arguments.add(call)
            return [ToolDelta(call=call, arguments=delta)]
        if kind == "response.refusal.delta":
            return [RefusalDelta(text=delta)]
        if kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            return [ThinkingDelta(text=delta)]
        return []

    def _added(self, payload: _Event) -> list[Chunk]:
        item = payload.item
        if item is None or item.type in ("message", "reasoning"):
            return []
        self._has_content = True
        if item.type != "function_call":
            return [VendorPartDelta(kind=item.type)]
        call = self._calls[payload.output_index] = len(self._calls)
        return [ToolStart(call=call, id=item.call_id or f"call_{call}", name=item.name or "")]

    def _done(self, payload: _Event) -> list[Chunk]:
        """Return what only the complete item has: encrypted reasoning, arguments of a call without deltas, a unit."""
        item, call = payload.item, self._calls.get(payload.output_index)
        if item is None:
            return []
        if item.encrypted_content and item.type == "reasoning":
            return [ThinkingDelta(redacted=mark_content(item.encrypted_content))]
        if call is not None and call not in self._with_arguments and item.arguments:
            self._with_arguments.add(call)
            return [ToolDelta(call=call, arguments=item.arguments)]
        unit = unit_of(item.type, item.action)
        if unit is None:
            return []
        self._units[unit] = self._units.get(unit, 0) + 1
        return [BillingUpdate(service_tier=self._requested_tier, units=dict(self._units))]

    def _finish(self, response: ResponseHead) -> ChoiceEnd:
        # `reason_of` needs to know only whether there is a call.
        calls: list[Part] = [ToolCall(id="", name="", arguments="")] if self._calls else []
        return ChoiceEnd(reason=reason_of(response, calls))

    def _end(self, response: ResponseHead) -> list[Chunk]:
        self.is_done = True
        chunks: list[Chunk] = [self._finish(response)]
        counted = read_usage(response.usage, has_content=self._has_content)
        if counted is not None:
            chunks.append(counted)
        tier = special_tier(response.service_tier)
        if tier != self._requested_tier:
            chunks.append(BillingUpdate(service_tier=tier, units=self._units or None))
        return chunks


def _failed(payload: _Event) -> UpstreamError:
    error = payload.error or (payload.response.error if payload.response is not None else None) or {}
    if not isinstance(error, dict):
        error = {"message": error}
    message = payload.message or error.get("message") or "The provider failed"
    code = payload.code or error.get("code")
    return UpstreamError(str(message), str(code or ""), {**error, "message": str(message), "code": code})
