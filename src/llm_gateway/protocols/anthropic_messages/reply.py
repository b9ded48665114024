"""Read a provider's whole Messages API reply into a completion; write a completion as a client's reply."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec

from llm_gateway.domain.conversation import (
    Choice,
    Completion,
    FinishReason,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    VendorPart,
)
from llm_gateway.domain.output_estimate import estimated_output
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.anthropic_messages.usage import ReportedUsage, read_billing, read_usage, write_usage
from llm_gateway.protocols.contract import Malformed, ReplyContext
from llm_gateway.protocols.encrypted_reasoning import is_marked
from llm_gateway.protocols.json_tool import JSON_TOOL
from llm_gateway.protocols.lenient_decoding import Lenient, ReplyDecoder, arguments_object, invalid_becomes

FINISH_REASONS: dict[str, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
}
"""`stop_reason` → finish reason. All others (end_turn, stop_sequence, pause_turn) mean `stop`."""
STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "tool_calls": "tool_use",
}
"""Finish reason → `stop_reason`."""

BLOCKS = frozenset({"text", "tool_use", "thinking", "redacted_thinking"})
"""Types of content blocks that are translated; blocks of other types become `VendorPart` parts."""


class _Block(msgspec.Struct, gc=False):
    reads: ClassVar = BLOCKS

    type: str
    text: str | None = None
    id: Lenient[str] = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"")
    thinking: Lenient[str] = None
    signature: Lenient[str] = None
    data: Lenient[str] = None


class _Reply(msgspec.Struct, gc=False):
    content: list[_Block] | None
    id: Lenient[str] = None
    model: Lenient[str] = None
    stop_reason: Annotated[str | None, invalid_becomes("end_turn")] = None
    stop_sequence: Lenient[str] = None
    usage: Lenient[ReportedUsage] = None


_decoder = ReplyDecoder(_Reply, "message")


def read_reply(body: bytes) -> Completion:
    """Read the message in a response body. A call of the JSON tool (`JSON_TOOL`) becomes the text of the answer.

    Raises:
        Malformed: the body is not a complete message.
    """
    reply = _decoder.decode(body)
    parts = [_read_block(block) for block in reply.content or ()]
    reason = FINISH_REASONS.get(reply.stop_reason or "", "stop")
    if any(map(_is_json, parts)):
        parts = [_as_text(part) if _is_json(part) else part for part in parts if not isinstance(part, Text)]
        if reason == "tool_calls" and not any(isinstance(part, ToolCall) for part in parts):
            reason = "stop"
    has_content = any(not isinstance(part, Thinking) and _is_content(part) for part in parts)
    # An empty answer with a stop reason is valid:
    # https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons
    if not has_content and not reply.stop_reason:
        raise Malformed("The answer has no content")
    counted = read_usage(reply.usage, has_content=any(map(_is_content, parts)))
    choices = [Choice(parts=parts, finish_reason=reason, stop_sequence=reply.stop_sequence)]
    billing = read_billing(reply.usage)
    return Completion(
        choices=choices,
        usage=estimated_output(choices) if counted is None else counted.usage,
        usage_estimated=counted is None or counted.is_estimated,
        id=reply.id,
        model=reply.model,
        service_tier=None if billing is None else billing.service_tier,
        units=None if billing is None else billing.units,
    )


def _is_json(part: Part) -> bool:
    """Return whether the part is a call of the JSON tool, so that text around it is not part of the answer."""
    return isinstance(part, ToolCall) and part.name == JSON_TOOL


def _as_text(part: Part) -> Part:
    return Text(text=part.arguments) if isinstance(part, ToolCall) else part


def _read_block(block: _Block) -> Part:
    if block.type == "text":
        return Text(text=block.text or "")
    if block.type == "tool_use":
        arguments = bytes(block.input).decode("utf-8", "replace") or "{}"
        return ToolCall(id=block.id or "", name=block.name or "", arguments=arguments)
    if block.type == "thinking":
        return Thinking(text=block.thinking or "", signature=block.signature)
    if block.type == "redacted_thinking":
        return Thinking(redacted=block.data or "")
    return VendorPart(kind=block.type)


def _is_content(part: Part) -> bool:
    return bool(part.text) if isinstance(part, Text | Thinking) else True


def write_reply(completion: Completion, context: ReplyContext) -> bytes:
    """Encode a reply as a message. The format has room for one choice, so only the first one is written."""
    choice = completion.choices[0] if completion.choices else Choice(parts=[])
    document = message_document(context, completion.model or context.model, completion.usage)
    hides = hides_encrypted_reasoning(context)
    document["content"] = [
        block for part in choice.parts if not (hides and _is_hidden(part)) for block in _write_blocks(part)
    ]
    document["stop_reason"], document["stop_sequence"] = stop_of(choice.finish_reason, choice.stop_sequence)
    return msgspec.json.encode(document)


def hides_encrypted_reasoning(context: ReplyContext) -> bool:
    """Return whether reasoning of another vendor that has no text is left out of this client's reply.

    Claude thinks only on request, so that many programs read `content[0].text`. Clients that request thinking look at
    the types of blocks, and send them back.
    """
    thinking = context.document.get("thinking")
    return not (isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive"))


def _is_hidden(part: Part) -> bool:
    return isinstance(part, Thinking) and not part.text and is_marked(part.redacted)


def message_document(context: ReplyContext, model: str, usage: Usage) -> dict[str, Any]:
    """Return the document of a message without content, as in a `message_start` event."""
    return {
        "id": f"msg_{context.request_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": write_usage(usage),
    }


def stop_of(reason: FinishReason, sequence: str | None) -> tuple[str, str | None]:
    """Return the values of `stop_reason` and `stop_sequence`."""
    if reason == "stop" and sequence is not None:
        return "stop_sequence", sequence
    return STOP_REASONS[reason], None


def _write_blocks(part: Part) -> list[dict[str, Any]]:
    """Return the content blocks of a part.

    The encrypted reasoning of a Responses API provider becomes the signature of its summary, since clients return a
    block unchanged.
    """
    if isinstance(part, Text | Refusal):
        return [{"type": "text", "text": part.text}]
    if isinstance(part, ToolCall):
        return [{"type": "tool_use", "id": part.id, "name": part.name, "input": arguments_object(part.arguments)}]
    if not isinstance(part, Thinking):
        return []
    if part.text and is_marked(part.redacted):
        return [{"type": "thinking", "thinking": part.text, "signature": part.redacted}]
    blocks: list[dict[str, Any]] = []
    if part.text or part.redacted is None:
        blocks.append({"type": "thinking", "thinking": part.text, "signature": part.signature or ""})
    if part.redacted is not None:
        blocks.append({"type": "redacted_thinking", "data": part.redacted})
    return blocks
