"""A provider's stream of the Messages API: https://platform.claude.com/docs/en/build-with-claude/streaming."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec

from llm_gateway.domain.conversation import (
    Begin,
    Chunk,
    Finish,
    FinishReason,
    ForeignDelta,
    TextDelta,
    ThinkingDelta,
    ToolBegin,
    ToolDelta,
)
from llm_gateway.protocols.anthropic_messages.reply import BLOCKS, FINISH_REASONS
from llm_gateway.protocols.anthropic_messages.request_writer import JSON_TOOL
from llm_gateway.protocols.anthropic_messages.usage import ReportedUsage, read_usage
from llm_gateway.protocols.contract import PARSE_ERRORS, UpstreamError
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
    """Reads events. The call of our own JSON tool is the answer's text.

    `wants_json`: it may be called, and what is said before it is none of the answer; without the call it is all of it.
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
        """As in `StreamReader`."""
        try:
            found = _decode(event.data)
        except PARSE_ERRORS:
            found = _decoder.decode(event.data)
        kind = found.type
        if kind == "content_block_delta":
            return [] if found.delta is None else self._delta(found.index, found.delta)
        if kind == "content_block_start":
            return [] if found.content_block is None else self._block(found.index, found.content_block)
        if kind == "content_block_stop":
            return self._stop(found.index)
        if kind == "message_start":
            return self._start(found.message or _Message())
        if kind == "message_delta":
            return self._end(found)
        if kind == "message_stop":
            self.is_done = True
            return self._last()
        if kind == "error":
            error = found.error if isinstance(found.error, dict) else {"message": found.error}
            raise UpstreamError(str(error.get("message") or "The provider failed"), str(error.get("type") or ""))
        return []

    def _start(self, message: _Message) -> list[Chunk]:
        self._has_begun = True
        if message.usage is not None:
            self._usage = message.usage
        return [Begin(id=message.id, model=message.model)]

    def _block(self, index: int, block: _Block) -> list[Chunk]:
        if block.type == "tool_use":
            self._has_content = True
            self._inputs[index] = block.input
            if block.name == JSON_TOOL:
                self._json_block, self._held = index, None
                return []
            call = self._calls[index] = len(self._calls)
            return [ToolBegin(call=call, id=block.id or f"toolu_{call}", name=block.name or "")]
        if block.type == "redacted_thinking":
            return [ThinkingDelta(redacted=block.data or "")]
        if block.type == "thinking":
            return self._think(block.thinking)
        if block.type == "text":
            return self._say(block.text or "")
        self._has_content = True
        return [ForeignDelta(kind=block.type)]

    def _stop(self, index: int) -> list[Chunk]:
        """A call whose input did not come in pieces has it all from the beginning."""
        given = self._inputs.pop(index, None)
        if given is None:
            return []
        arguments = bytes(given).decode("utf-8", "replace") or "{}"
        if index == self._json_block:
            return [TextDelta(text=arguments)]
        return [ToolDelta(call=self._calls[index], arguments=arguments)]

    def _say(self, text: str) -> list[Chunk]:
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
            return self._say(delta.text)
        if delta.partial_json:
            self._inputs.pop(index, None)
            if index == self._json_block:
                return [TextDelta(text=delta.partial_json)]
            call = self._calls.get(index)
            if call is None:
                return []  # a tool that the vendor runs itself
            return [ToolDelta(call=call, arguments=delta.partial_json)]
        if delta.thinking:
            return self._think(delta.thinking)
        if delta.signature:
            return [ThinkingDelta(signature=delta.signature)]
        return []

    def _rest(self) -> list[Chunk]:
        """What was held back, and the input of blocks that were not ended."""
        chunks: list[Chunk] = [TextDelta(text="".join(self._held))] if self._held else []
        self._held = None
        for index in list(self._inputs):
            chunks += self._stop(index)
        return chunks

    def _last(self) -> list[Chunk]:
        chunks = self._rest()
        if self._has_begun and not self._has_finished:  # it ended by itself, though it gives no reason
            chunks.append(Finish(reason="tool_calls" if self._calls else "stop"))
        return chunks

    def _end(self, found: _Event) -> list[Chunk]:
        chunks = self._rest()
        delta = found.delta
        if delta is not None and delta.stop_reason:
            self._has_finished = True
            reason: FinishReason = FINISH_REASONS.get(delta.stop_reason, "stop")
            if reason == "tool_calls" and self._json_block >= 0 and not self._calls:
                reason = "stop"
            chunks.append(Finish(reason=reason, stop_sequence=delta.stop_sequence))
        if found.usage is not None:
            self._usage = _later(self._usage, found.usage)
            counted = read_usage(self._usage, has_content=self._has_content)
            if counted is not None:
                chunks.append(counted)
        return chunks


def _later(before: ReportedUsage, now: ReportedUsage) -> ReportedUsage:
    """The counts of now, which are cumulative, and those of before that now does not repeat."""
    return ReportedUsage(
        **{
            name: getattr(before, name) if getattr(now, name) is None else getattr(now, name)
            for name in ReportedUsage.__struct_fields__
        }
    )
