"""Turn the parsed server-sent events of a provider's Messages API stream into canonical chunks.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming. The states, the events that change them, and
in parentheses the chunks that `take` returns:

    start ── message_start ──▶ content ── message_delta ────────────▶ finished ── message_stop ──▶ done
             (ReplyStart,       ▲ │ │     (ChoiceEnd, UsageUpdate, BillingUpdate)                   ▲
              BillingUpdate)    │ │ │                                                               │
                                └─┘ └──── message_stop, no stop reason so far (ChoiceEnd) ──────────┘
                          content_block_*
                          (content chunks)

An `error` event raises `UpstreamError` in every state. `ping` and unknown events return nothing.

If the client requested JSON (`wants_json`), the answer is the input of the JSON tool, or the text if the model does not
call that tool. Until this is known, text is held back:

    holding ── content_block_start of the JSON tool (discards held text) ──▶ json: returns the tool's input as TextDelta
       │                                                                           and discards other text
       └────── message_delta or message_stop (returns held text) ──────────▶ text
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec

from llm_gateway.domain.conversation import (
    ChoiceEnd,
    Chunk,
    FinishReason,
    ReplyStart,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
    VendorPartDelta,
)
from llm_gateway.protocols.anthropic_messages.reply import BLOCKS, FINISH_REASONS
from llm_gateway.protocols.anthropic_messages.usage import ReportedUsage, read_billing, read_usage
from llm_gateway.protocols.contract import PARSE_ERRORS, UpstreamError
from llm_gateway.protocols.json_tool import JSON_TOOL
from llm_gateway.protocols.lenient_decoding import Lenient, LenientIndex, ReplyDecoder, invalid_becomes
from llm_gateway.sse import Event


class _Message(msgspec.Struct, gc=False):
    id: Lenient[str] = None
    model: Lenient[str] = None
    usage: Lenient[ReportedUsage] = None


class _Block(msgspec.Struct, gc=False):
    reads: ClassVar = BLOCKS

    type: str
    id: Lenient[str] = None
    name: str | None = None
    text: str | None = None
    thinking: Lenient[str] = None
    data: Lenient[str] = None
    input: msgspec.Raw = msgspec.Raw(b"")


class _Delta(msgspec.Struct, gc=False):
    reads: ClassVar = frozenset({"text_delta", "input_json_delta", "thinking_delta", "signature_delta"})

    type: Lenient[str] = None
    text: str | None = None
    partial_json: str | None = None
    thinking: Lenient[str] = None
    signature: Lenient[str] = None
    stop_reason: Annotated[str | None, invalid_becomes("end_turn")] = None
    stop_sequence: Lenient[str] = None


class _Event(msgspec.Struct, gc=False):
    reads: ClassVar = frozenset(
        {"message_start", "message_delta", "message_stop", "error"}
        | {"content_block_start", "content_block_delta", "content_block_stop"}
    )

    type: str
    index: LenientIndex = 0
    delta: _Delta | None = None
    message: Lenient[_Message] = None
    content_block: _Block | None = None
    usage: Lenient[ReportedUsage] = None
    error: Any = None


_decoder = ReplyDecoder(_Event, "message's event")
_decode = _decoder.strictly


class StreamReader:
    """A `StreamReader` for the Messages API. The input of a call of the JSON tool becomes the text of the answer.

    `wants_json`: the request contains the JSON tool. If the model calls it, text that precedes the call is discarded;
    otherwise the text is the answer.
    """

    has_own_end = True

    def __init__(self, *, wants_json: bool = False) -> None:
        self.is_done = False
        self._held: list[str] | None = [] if wants_json else None
        self._inputs: dict[int, msgspec.Raw] = {}
        self._usage = ReportedUsage()
        self._calls: dict[int, int] = {}
        self._json_block = -1
        self._has_content = False
        self._has_begun = False
        self._has_finished = False

    def take(self, event: Event) -> list[Chunk]:
        """Return the chunks of one event (see `protocols/contract.py`)."""
        try:
            payload = _decode(event.data)
        except PARSE_ERRORS:  # a field has an unexpected type: the lenient decoder ignores it, more slowly
            payload = _decoder.decode(event.data)
        kind = payload.type
        if kind == "content_block_delta":
            return [] if payload.delta is None else self._delta(payload.index, payload.delta)
        if kind == "content_block_start":
            return [] if payload.content_block is None else self._block(payload.index, payload.content_block)
        if kind == "content_block_stop":
            return self._stop(payload.index)
        if kind == "message_start":
            return self._message_start(payload.message or _Message())
        if kind == "message_delta":
            return self._message_delta(payload)
        if kind == "message_stop":
            self.is_done = True
            return self._message_stop()
        if kind == "error":
            error = payload.error if isinstance(payload.error, dict) else {"message": payload.error}
            raise UpstreamError(str(error.get("message") or "The provider failed"), str(error.get("type") or ""), error)
        return []

    def _message_start(self, message: _Message) -> list[Chunk]:
        self._has_begun = True
        if message.usage is not None:
            self._usage = message.usage
        start: list[Chunk] = [ReplyStart(id=message.id, model=message.model)]
        billing = read_billing(message.usage)
        return start if billing is None else [*start, billing]

    def _block(self, index: int, block: _Block) -> list[Chunk]:
        """Start a block: return the chunk that begins it, and its text if the event has some already."""
        if block.type == "tool_use":
            self._has_content = True
            self._inputs[index] = block.input
            if block.name == JSON_TOOL:
                self._json_block, self._held = index, None
                return []
            call = self._calls[index] = len(self._calls)
            return [ToolStart(call=call, id=block.id or f"toolu_{call}", name=block.name or "")]
        if block.type == "redacted_thinking":
            return [ThinkingDelta(redacted=block.data or "")]
        if block.type == "thinking":
            return self._think(block.thinking)
        if block.type == "text":
            return self._text(block.text or "")
        self._has_content = True
        return [VendorPartDelta(kind=block.type)]

    def _stop(self, index: int) -> list[Chunk]:
        """End a block. A tool call without `input_json_delta` events has its whole input in content_block_start."""
        given = self._inputs.pop(index, None)
        if given is None:
            return []
        arguments = bytes(given).decode("utf-8", "replace") or "{}"
        if index == self._json_block:
            return [TextDelta(text=arguments)]
        return [ToolDelta(call=self._calls[index], arguments=arguments)]

    def _text(self, text: str) -> list[Chunk]:
        if not text:
            return []
        self._has_content = True
        if self._held is not None:
            self._held.append(text)
        return [] if self._held is not None or self._json_block >= 0 else [TextDelta(text=text)]

    def _think(self, text: str | None) -> list[Chunk]:
        if not text:
            return []
        self._has_content = True
        return [ThinkingDelta(text=text)]

    def _delta(self, index: int, delta: _Delta) -> list[Chunk]:
        if delta.text:
            return self._text(delta.text)
        if delta.partial_json:
            self._inputs.pop(index, None)
            if index == self._json_block:
                return [TextDelta(text=delta.partial_json)]
            call = self._calls.get(index)
            if call is None:
                return []  # the input of a server-side tool, which Anthropic runs itself
            return [ToolDelta(call=call, arguments=delta.partial_json)]
        if delta.thinking:
            return self._think(delta.thinking)
        if delta.signature:
            return [ThinkingDelta(signature=delta.signature)]
        return []

    def _flush(self) -> list[Chunk]:
        """Return the text held back, and the input of tool calls without a content_block_stop."""
        chunks: list[Chunk] = [TextDelta(text="".join(self._held))] if self._held else []
        self._held = None
        for index in list(self._inputs):
            chunks += self._stop(index)
        return chunks

    def _message_stop(self) -> list[Chunk]:
        chunks = self._flush()
        if self._has_begun and not self._has_finished:  # complete, though without a stop reason
            chunks.append(ChoiceEnd(reason="tool_calls" if self._calls else "stop"))
        return chunks

    def _message_delta(self, payload: _Event) -> list[Chunk]:
        chunks = self._flush()
        delta = payload.delta
        if delta is not None and delta.stop_reason:
            self._has_finished = True
            reason: FinishReason = FINISH_REASONS.get(delta.stop_reason, "stop")
            if reason == "tool_calls" and self._json_block >= 0 and not self._calls:
                reason = "stop"
            chunks.append(ChoiceEnd(reason=reason, stop_sequence=delta.stop_sequence))
        if payload.usage is not None:
            self._usage = _merged(self._usage, payload.usage)
            counted = read_usage(self._usage, has_content=self._has_content)
            if counted is not None:
                chunks.append(counted)
            billing = read_billing(self._usage)
            if billing is not None:
                chunks.append(billing)
        return chunks


def _merged(before: ReportedUsage, now: ReportedUsage) -> ReportedUsage:
    """Merge two usage reports: counts are cumulative, and a later report can omit counts of an earlier one."""
    return ReportedUsage(
        **{
            name: getattr(before, name) if getattr(now, name) is None else getattr(now, name)
            for name in ReportedUsage.__struct_fields__
        }
    )
