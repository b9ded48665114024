"""Write a client's Messages API stream: turn canonical chunks into server-sent events.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming. A message is a sequence of content blocks, at
most one of them open. The states (`_has_begun`, `_open`), with the events written:

    start ── message_start ──▶ between blocks ── content_block_start ──▶ in a block ──┐ content_block_delta
                                │  ▲                                       │   ▲──────┘
                                │  └───────── content_block_stop ──────────┘
                                └── end(): message_delta, message_stop ──▶ ended

The first content and `end` write message_start; `end` also writes the content_block_stop of an open block. A block
stays open while chunks of its kind follow (text and refusals are one kind). A chunk of another kind, a new tool call
and a signature end it. Interleaved tool calls are first put in sequence (`delta_serializer.py`). `ReplyStart`,
`UsageUpdate` and `ChoiceEnd` write nothing at once: their data goes into message_start and message_delta.
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
    UsageUpdate,
    VendorPartDelta,
)
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.anthropic_messages.errors import STREAM_STATUSES, error_document
from llm_gateway.protocols.anthropic_messages.reply import hides_encrypted_reasoning, message_document, stop_of
from llm_gateway.protocols.anthropic_messages.usage import write_usage
from llm_gateway.protocols.contract import EventStream, ReplyContext
from llm_gateway.protocols.delta_serializer import DeltaSerializer
from llm_gateway.protocols.encrypted_reasoning import is_marked
from llm_gateway.sse import encode_event


class StreamWriter(EventStream):
    """A `StreamWriter` for the Messages API. Writes the first choice of a stream; the format has no room for others."""

    def __init__(self, context: ReplyContext) -> None:
        self._context = context
        self._model = context.model
        self._choice: int | None = None
        self._has_begun = False
        self._index = -1
        self._open = ""
        self._call = -1
        self._usage = Usage()
        self._finish = ChoiceEnd()
        self._hides_encrypted = hides_encrypted_reasoning(context)
        self._delta_serializer = DeltaSerializer()

    def write(self, chunk: Chunk) -> bytes:
        """Return the events for one chunk (see `protocols/contract.py`)."""
        if isinstance(chunk, BillingUpdate):
            return b""
        if not isinstance(chunk, ReplyStart | UsageUpdate):
            if self._choice is None:
                self._choice = chunk.choice
            elif chunk.choice != self._choice:
                return b""
        return b"".join([self._write(each) for each in self._delta_serializer.take(chunk)])

    def _write(self, chunk: Chunk) -> bytes:
        if isinstance(chunk, TextDelta | RefusalDelta):
            if not chunk.text:
                return b""
            opening = self._block("text", {"type": "text", "text": ""})
            return opening + self._delta({"type": "text_delta", "text": chunk.text})
        if isinstance(chunk, ReplyStart):
            self._model = chunk.model or self._model
        elif isinstance(chunk, UsageUpdate):
            self._usage = chunk.usage
        elif isinstance(chunk, ChoiceEnd):
            self._finish = chunk
        elif isinstance(chunk, ThinkingDelta):
            return self._thinking(chunk)
        elif not isinstance(chunk, VendorPartDelta | BillingUpdate):
            return self._tool(chunk)
        return b""

    def end(self) -> bytes:
        """Return the rest of a complete stream: held chunks, then message_delta and message_stop."""
        held = b"".join([self._write(each) for each in self._delta_serializer.end()])
        reason, sequence = stop_of(self._finish.reason, self._finish.stop_sequence)
        delta = {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": sequence},
            "usage": write_usage(self._usage),
        }
        return held + self._begin() + self._close() + _event(delta) + _event({"type": "message_stop"})

    def error(self, message: str, code: str) -> bytes:
        """Return an `error` event, which ends a stream that failed."""
        return _event(error_document(message, code, STREAM_STATUSES.get(code, 500)))

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        message = message_document(self._context, self._model, self._usage)
        return _event({"type": "message_start", "message": message})

    def _block(self, kind: str, block: dict[str, Any]) -> bytes:
        """Start a block of this kind, ending the open one first; write nothing if one of this kind is open."""
        if self._open == kind:
            return b""
        opening = self._begin() + self._close()
        self._index += 1
        self._open = kind
        return opening + _event({"type": "content_block_start", "index": self._index, "content_block": block})

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _event({"type": "content_block_stop", "index": self._index})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _thinking(self, chunk: ThinkingDelta) -> bytes:
        if is_marked(chunk.redacted) and self._open == "thinking":
            return self._delta({"type": "signature_delta", "signature": chunk.redacted}) + self._close()
        if is_marked(chunk.redacted) and not chunk.text and self._hides_encrypted:
            return b""
        if chunk.redacted is not None:
            block = {"type": "redacted_thinking", "data": chunk.redacted}
            return self._close() + self._block("redacted", block) + self._close()
        written = self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        if chunk.text:
            written += self._delta({"type": "thinking_delta", "thinking": chunk.text})
        if chunk.signature is not None:
            written += self._delta({"type": "signature_delta", "signature": chunk.signature}) + self._close()
        return written

    def _tool(self, chunk: ToolStart | ToolDelta) -> bytes:
        if isinstance(chunk, ToolStart):
            self._call = chunk.call
            block = {"type": "tool_use", "id": chunk.id, "name": chunk.name, "input": {}}
            return self._close() + self._block(f"tool {chunk.call}", block)
        if chunk.call != self._call or not chunk.arguments:
            return b""
        return self._delta({"type": "input_json_delta", "partial_json": chunk.arguments})


def _event(document: dict[str, Any]) -> bytes:
    return encode_event(msgspec.json.encode(document), document["type"].encode())
