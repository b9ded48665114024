"""Whole replies of the Messages API."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.domain.conversation import (
    Choice,
    Completion,
    FinishReason,
    Foreign,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
)
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.anthropic_messages.usage import ReportedUsage, read_usage, write_usage
from llm_gateway.protocols.anthropic_messages.writing import JSON_TOOL
from llm_gateway.protocols.base import Head, Malformed, parse

FINISH_REASONS: dict[str, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
}
"""The others (end_turn, stop_sequence, pause_turn) stop."""
STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "tool_calls": "tool_use",
}


class _Block(msgspec.Struct, gc=False):
    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"")
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class _Reply(msgspec.Struct, gc=False):
    content: list[_Block]
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: ReportedUsage | None = None


_decoder = msgspec.json.Decoder(_Reply)


def read_reply(body: bytes) -> Completion:
    """The message in a provider's body. The call of our own JSON tool is the answer's text.

    Raises:
        Malformed: it holds no complete one.
    """
    found = parse(_decoder, body, "message")
    parts = [_read_block(block) for block in found.content]
    reason = FINISH_REASONS.get(found.stop_reason or "", "stop")
    if any(map(_is_json, parts)):
        parts = [_as_text(part) if _is_json(part) else part for part in parts if not isinstance(part, Text)]
        if reason == "tool_calls" and not any(isinstance(part, ToolCall) for part in parts):
            reason = "stop"
    if not parts and found.stop_reason is None:  # with a reason it is an answer: handling-stop-reasons
        raise Malformed("The answer has no content")
    usage = read_usage(found.usage, has_content=bool(parts))
    choice = Choice(parts=parts, finish_reason=reason, stop_sequence=found.stop_sequence)
    return Completion(
        choices=[choice],
        usage=Usage(output_tokens=sum(map(_length, parts)) // 4 + 1) if usage is None else usage,
        usage_estimated=usage is None,
        id=found.id,
        model=found.model,
    )


def _is_json(part: Part) -> bool:
    """Whether it is our own JSON tool's call: the answer itself, around which a model may have talked."""
    return isinstance(part, ToolCall) and part.name == JSON_TOOL


def _as_text(part: Part) -> Part:
    return Text(text=part.arguments) if isinstance(part, ToolCall) else part


def _read_block(block: _Block) -> Part:
    if block.type == "text":
        return Text(text=block.text or "")
    if block.type == "tool_use":
        try:
            arguments = bytes(block.input).decode() or "{}"
        except UnicodeDecodeError as error:
            raise Malformed(f"A tool's input is no text: {error}") from None
        return ToolCall(id=block.id or "", name=block.name or "", arguments=arguments)
    if block.type == "thinking":
        return Thinking(text=block.thinking or "", signature=block.signature)
    if block.type == "redacted_thinking":
        return Thinking(redacted=block.data or "")
    return Foreign(kind=block.type)


def _length(part: Part) -> int:
    """Characters, to guess tokens from."""
    if isinstance(part, ToolCall):
        return len(part.arguments)
    return len(part.text) if isinstance(part, Text | Thinking | Refusal) else 0


def write_reply(completion: Completion, head: Head) -> bytes:
    """The document of a message: the first of the choices."""
    choice = completion.choices[0] if completion.choices else Choice(parts=[])
    document = message_document(head, completion.model or head.model, completion.usage)
    document["content"] = [block for part in choice.parts if (block := _write_block(part)) is not None]
    document["stop_reason"], document["stop_sequence"] = stop_of(choice.finish_reason, choice.stop_sequence)
    return msgspec.json.encode(document)


def message_document(head: Head, model: str, usage: Usage) -> dict[str, Any]:
    """A message that says nothing yet."""
    return {
        "id": f"msg_{head.request_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": write_usage(usage),
    }


def stop_of(reason: FinishReason, sequence: str | None) -> tuple[str, str | None]:
    """`stop_reason` and `stop_sequence`."""
    if reason == "stop" and sequence is not None:
        return "stop_sequence", sequence
    return STOP_REASONS[reason], None


def _write_block(part: Part) -> dict[str, Any] | None:
    if isinstance(part, Text | Refusal):
        return {"type": "text", "text": part.text, "citations": None}
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": input_of(part.arguments)}
    if isinstance(part, Thinking):
        if part.redacted is not None:
            return {"type": "redacted_thinking", "data": part.redacted}
        return {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}
    return None


def input_of(arguments: str) -> dict[str, Any]:
    """A tool's input; what the model wrote wrong is handed on as text, for the tool to complain of."""
    try:
        given = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {"invalid_json": arguments}
    return given if isinstance(given, dict) else {"value": given}
