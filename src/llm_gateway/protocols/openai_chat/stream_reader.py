"""Turn the parsed server-sent events of a provider's chat completions stream into canonical chunks.

The labels are event: chunks.

    created ── first event: ReplyStart ──▶ begun ── last finish_reason: ChoiceEnd ▶ finished
       │                                     │                                      │
       │ [DONE]                              │ [DONE]: ChoiceEnd of the other       │ [DONE]
       │                                     │ choices                              │
       │                                     ▼                                      │
       └──────────────────────────────────▶ done ◀──────────────────────────────────┘

In `begun` and `finished`, deltas become TextDelta, ThinkingDelta, RefusalDelta, ToolStart, ToolDelta or
VendorPartDelta, and usage becomes UsageUpdate, without a change of state: usage follows the last finish reason, and
choices finish one by one. A service tier that is not the standard one becomes a BillingUpdate.

An `error` in an event raises UpstreamError in every state.
"""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.domain.conversation import (
    BillingUpdate,
    ChoiceEnd,
    Chunk,
    RefusalDelta,
    ReplyStart,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
    VendorPartDelta,
)
from llm_gateway.protocols.contract import PARSE_ERRORS, UpstreamError
from llm_gateway.protocols.lenient_decoding import Lenient, LenientIndex, ReplyDecoder
from llm_gateway.protocols.openai_chat.reasoning_details import ReasoningReader
from llm_gateway.protocols.openai_chat.reply import (
    VENDOR_FIELDS,
    ContentPart,
    FinishField,
    arguments_of,
    finish_reason,
    generated_id,
    text_of,
    thought_of,
)
from llm_gateway.protocols.openai_chat.usage import ReportedUsage, read_units, read_usage
from llm_gateway.protocols.reported_values import seconds, special_tier
from llm_gateway.sse import Event

DONE = b"[DONE]"
"""Data of the event that ends a stream."""


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class _Call(msgspec.Struct, gc=False):
    type: Lenient[str] = None
    index: Lenient[int] = None
    id: Lenient[str] = None
    function: _Function | None = None
    extra_content: Lenient[dict[str, Any]] = None


class _Delta(msgspec.Struct, gc=False):
    content: str | list[ContentPart] | None = None
    refusal: str | None = None
    reasoning_content: Lenient[str] = None
    reasoning: Lenient[str] = None
    reasoning_details: Any = None
    tool_calls: list[_Call] | None = None
    audio: Any = None
    images: Any = None
    function_call: Any = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: FinishField = None
    index: LenientIndex = 0
    logprobs: Lenient[dict[str, Any]] = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    id: Lenient[str] = None
    model: Lenient[str] = None
    created: Lenient[float] = None
    usage: Lenient[ReportedUsage] = None
    service_tier: Lenient[str] = None
    error: Any = None


_decoder = ReplyDecoder(_Chunk, "chat completion chunk")
_decode = _decoder.strictly


class StreamReader:
    """A `contract.StreamReader` of chat completion chunks.

    A tool call's delta belongs to the call with its `index`; without one, to the call with its `id`; without both, to
    the last call. A new `id` at an index begins a new call: Ollama and some bridges give all parallel calls index 0. It
    does not if the call there has no id yet and the delta has no name.
    A call begins with the delta that has its name, which some vendors send late; arguments before it are held.
    """

    has_own_end = True
    __slots__ = (
        "_begun", "_calls", "_count", "_finished", "_has_begun", "_has_content", "_ids", "_nameless", "_reasoning",
        "_thinking", "_tier", "is_done",
    )  # fmt: skip

    def __init__(self) -> None:
        self.is_done = False
        self._has_begun = False
        self._calls: dict[tuple[int, int | str], int] = {}  # (choice, index or id) -> number of the call
        self._count: dict[int, int] = {}  # choice -> number of calls
        self._ids: dict[tuple[int, int], str] = {}  # (choice, number of the call) -> id
        self._nameless: dict[tuple[int, int], list[_Call]] = {}  # the same -> deltas of a call without a name so far
        self._thinking: set[int] = set()  # choices with a thought that no signature has ended
        self._reasoning: ReasoningReader | None = None
        self._has_content = False
        self._begun: set[int] = set()  # choices
        self._finished: set[int] = set()
        self._tier = "default"

    def take(self, event: Event) -> list[Chunk]:
        """Return the chunks of an event; see `contract.StreamReader.take`."""
        data = event.data
        if data == DONE:
            self.is_done = True
            return self._missing_finishes() if self._has_begun else []
        try:
            payload = _decode(data)
        except PARSE_ERRORS:  # rare: replace invalid values beside the answer, or raise Malformed
            payload = _decoder.decode(data)
        if payload.error or event.name == b"error":
            raise _failed(payload.error)
        chunks: list[Chunk] = []
        if not self._has_begun:
            self._has_begun = True
            chunks.append(ReplyStart(id=payload.id, model=payload.model, created_s=seconds(payload.created)))
        for choice in payload.choices or ():
            self._begun.add(choice.index)
            if choice.delta is not None:
                self._delta(choice, choice.delta, chunks)
            if choice.finish_reason:
                self._finish(choice.index, choice.finish_reason, chunks)
        if payload.service_tier is not None and payload.service_tier != self._tier:
            self._tier = payload.service_tier
            chunks.append(BillingUpdate(service_tier=special_tier(self._tier)))
        if payload.usage is not None:
            self._take_usage(payload.usage, chunks)
        return chunks

    def _take_usage(self, usage: ReportedUsage, chunks: list[Chunk]) -> None:
        counted = read_usage(usage, has_content=self._has_content)
        if counted is not None:
            chunks.append(counted)
        if usage.num_sources_used:
            chunks.append(BillingUpdate(service_tier=special_tier(self._tier), units=read_units(usage)))

    def _finish(self, choice: int, reported: str, chunks: list[Chunk]) -> None:
        self._finished.add(choice)
        if self._nameless:
            self._end_nameless(choice, chunks)
        reason = finish_reason(reported)
        if reason == "stop" and choice in self._count:
            reason = "tool_calls"  # OpenAI reports "stop" if `tool_choice` names a function
        chunks.append(ChoiceEnd(reason=reason, choice=choice))

    def _missing_finishes(self) -> list[Chunk]:
        """Return the finishes of the choices of a complete reply for which the vendor sent no finish reason."""
        chunks: list[Chunk] = []
        for choice in sorted((self._begun or {0}) - self._finished):
            self._finish(choice, "stop", chunks)
        return chunks

    def _delta(self, choice: _Choice, delta: _Delta, chunks: list[Chunk]) -> None:
        content = delta.content
        thought = delta.reasoning_content or delta.reasoning
        if thought or delta.reasoning_details or content.__class__ is list:
            self._think(thought or thought_of(content), delta.reasoning_details, choice.index, chunks)
        if content:
            text = content if isinstance(content, str) else text_of(content)
            if text:
                self._has_content = True
                chunks.append(TextDelta(text=text, choice=choice.index, logprobs=choice.logprobs))
        if delta.tool_calls or delta.refusal:
            self._refuse_or_call(delta, choice.index, chunks)
        if delta.audio or delta.images or delta.function_call:
            self._has_content = True
            chunks += [
                VendorPartDelta(kind=kind, choice=choice.index) for kind in VENDOR_FIELDS if getattr(delta, kind)
            ]

    def _think(self, thought: str, details: Any, choice: int, chunks: list[Chunk]) -> None:
        """Append the reasoning of a delta; called before its text is appended, the order of a whole reply."""
        if not details:  # nearly always
            if thought:
                self._has_content = True
                self._thinking.add(choice)
                chunks.append(ThinkingDelta(text=thought, choice=choice))
            return
        if self._reasoning is None:
            self._reasoning = ReasoningReader(self._thinking)
        deltas = self._reasoning.take(thought, details, choice)
        self._has_content = self._has_content or any(delta.text for delta in deltas)
        chunks += deltas

    def _refuse_or_call(self, delta: _Delta, choice: int, chunks: list[Chunk]) -> None:
        self._has_content = True
        if delta.refusal:
            chunks.append(RefusalDelta(text=delta.refusal, choice=choice))
        for call in delta.tool_calls or ():
            self._call(call, choice, chunks)

    def _call(self, call: _Call, choice: int, chunks: list[Chunk]) -> None:
        number = self._number(call, choice)
        if number is None:  # the first delta of a call
            if call.function is None:
                chunks.append(VendorPartDelta(kind=call.type or "tool_call", choice=choice))
                return
            number = self._count.get(choice, 0)
            self._count[choice] = number + 1
            self._calls[choice, number if (key := _key(call)) is None else key] = number
            self._ids[choice, number] = call.id or ""
            self._nameless[choice, number] = []
        held = self._nameless.get((choice, number))
        if held is not None:
            held.append(call)
            if call.function is None or not call.function.name:
                return
            del self._nameless[choice, number]
            chunks.append(self._start(held, call.function.name, choice, number))
        chunks += [
            ToolDelta(call=number, arguments=arguments_of(part.function.arguments), choice=choice)
            for part in held or (call,)
            if part.function is not None and part.function.arguments
        ]

    def _number(self, call: _Call, choice: int) -> int | None:
        """Return the number of the call that a delta belongs to, None if it begins a new one."""
        key = _key(call)
        if key is None:
            last = self._count.get(choice, 0) - 1
            return last if last >= 0 else None
        number = self._calls.get((choice, key))
        if number is None and call.index is None:  # the index came with the call's first delta only
            last = self._count.get(choice, 0) - 1
            return last if call.id == self._ids.get((choice, last)) else None
        if number is None or not call.id or call.id == self._ids[choice, number]:
            return number
        has_name = call.function is not None and bool(call.function.name)
        if not self._ids[choice, number] and ((choice, number) in self._nameless or not has_name):  # the id comes late
            self._ids[choice, number] = call.id
            return number
        return None

    def _start(self, deltas: list[_Call], name: str, choice: int, number: int) -> ToolStart:
        google = next((found for delta in deltas if (found := (delta.extra_content or {}).get("google"))), None)
        signed = google.get("thought_signature") if isinstance(google, dict) else None
        call_id = self._ids[choice, number]
        signatures = {} if self._reasoning is None else self._reasoning.signatures
        return ToolStart(
            call=number,
            id=call_id or generated_id(),
            name=name,
            signature=signed if isinstance(signed, str) else signatures.get(call_id),
            choice=choice,
        )

    def _end_nameless(self, choice: int, chunks: list[Chunk]) -> None:
        """End the calls that never got a name: only the provider's own protocol can express them."""
        for of, number in list(self._nameless):
            if of == choice:
                del self._nameless[of, number]
                chunks.append(VendorPartDelta(kind="tool_call", choice=choice))


def _key(call: _Call) -> int | str | None:
    return call.index if call.index is not None else call.id


def _failed(error: Any) -> UpstreamError:
    if not isinstance(error, dict):
        return UpstreamError(f"The provider failed: {error}" if error else "The provider failed")
    return UpstreamError(str(error.get("message") or "The provider failed"), str(error.get("type") or ""), error)
