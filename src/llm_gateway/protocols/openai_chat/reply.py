"""Read a provider's whole chat completion into a `Completion`; write a `Completion` as a client's reply.

https://platform.openai.com/docs/api-reference/chat/object. The reader also accepts the variants of other vendors of
this API; comments name the vendor.
"""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_hex
from typing import Annotated, Any, TypeAlias

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
from llm_gateway.protocols.contract import Malformed, ReplyContext
from llm_gateway.protocols.lenient_decoding import Lenient, ReplyDecoder, invalid_becomes
from llm_gateway.protocols.openai_chat.reasoning_details import details_of, read_details, with_unsigned
from llm_gateway.protocols.openai_chat.tools import is_legacy
from llm_gateway.protocols.openai_chat.usage import ReportedUsage, read_units, read_usage, write_usage
from llm_gateway.protocols.reported_values import seconds, special_tier

FINISH_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "model_length": "length",  # Mistral: the context is full
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
"""Canonical finish reasons. Every other value means `stop` (Together's `eos`)."""
ABORTED = frozenset({"error", "insufficient_system_resource"})
"""Finish reasons of an answer that the vendor aborted: `error` by OpenRouter and Mistral, the other by DeepSeek."""
VENDOR_FIELDS = ("audio", "images", "function_call")
"""Fields of a message that no other protocol can express."""


FinishField: TypeAlias = Annotated[str | None, invalid_becomes("stop")]
"""A `finish_reason`. An invalid value counts as `stop`, since it still marks the answer's end."""


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class _Call(msgspec.Struct, gc=False):
    function: _Function | None = None
    type: Lenient[str] = None
    id: Lenient[str] = None
    extra_content: Lenient[dict[str, Any]] = None


class ContentPart(msgspec.Struct, gc=False):
    """An item of a `content` list, as Mistral's reasoning models return it: text or reasoning.

    https://docs.mistral.ai/capabilities/reasoning
    """

    text: str | None = None
    thinking: Lenient[list[ContentPart]] = None


class _Message(msgspec.Struct, gc=False):
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
    message: _Message
    finish_reason: FinishField = None
    logprobs: Lenient[dict[str, Any]] = None


class _Completion(msgspec.Struct, gc=False):
    choices: list[_Choice]
    id: Lenient[str] = None
    model: Lenient[str] = None
    created: Lenient[float] = None
    usage: Lenient[ReportedUsage] = None
    service_tier: Lenient[str] = None


_decoder = ReplyDecoder(_Completion, "chat completion")


def read_reply(body: bytes) -> Completion:
    """Parse the completion in a provider's response body.

    Raises:
        Malformed: the body is not a complete chat completion.
    """
    reply = _decoder.decode(body)
    if not reply.choices:
        raise Malformed("The answer has no choices")
    choices = [_read_choice(choice) for choice in reply.choices]
    usage = reply.usage
    counted = read_usage(usage, has_content=_have_parts(choices))
    return Completion(
        choices=choices,
        usage=estimated_output(choices) if counted is None else counted.usage,
        usage_estimated=counted is None or counted.is_estimated,
        id=reply.id,
        model=reply.model,
        created_s=seconds(reply.created),
        service_tier=special_tier(reply.service_tier),
        units=None if usage is None or usage.num_sources_used is None else read_units(usage),
    )


def _have_parts(choices: list[Choice]) -> bool:
    return bool(choices[0].parts) or any(choice.parts for choice in choices)


def finish_reason(reported: str | None) -> FinishReason:
    """Return the canonical finish reason for the provider's.

    Raises:
        Malformed: the provider aborted the answer.
    """
    if reported in ABORTED:
        raise Malformed(f"The provider aborted the answer (finish reason: {reported})")
    return FINISH_REASONS.get(reported or "stop", "stop")


def _read_choice(choice: _Choice) -> Choice:
    message = choice.message
    if type(message.content) is str and message.content and not _holds_more_than_text(message):
        reason = finish_reason(choice.finish_reason)
        return Choice(parts=[Text(text=message.content)], finish_reason=reason, logprobs=choice.logprobs)
    return _read_parts(choice, message)


def _holds_more_than_text(message: _Message) -> bool:
    """Return whether the message has any field besides `content`; few have."""
    return bool(
        message.tool_calls
        or message.reasoning_content
        or message.reasoning
        or message.reasoning_details
        or message.refusal
        or message.audio
        or message.images
        or message.function_call
    )


def _read_parts(choice: _Choice, message: _Message) -> Choice:
    thoughts, signatures = read_details(message.reasoning_details)
    thought = message.reasoning_content or message.reasoning or thought_of(message.content)
    parts: list[Part] = [*with_unsigned(thoughts, thought)]
    content = text_of(message.content)
    if content:
        parts.append(Text(text=content))
    if message.refusal:
        parts.append(Refusal(text=message.refusal))
    parts += [_read_call(call, signatures) for call in message.tool_calls or ()]
    if message.audio or message.images or message.function_call:
        parts += [VendorPart(kind=kind) for kind in VENDOR_FIELDS if getattr(message, kind)]
    reason = finish_reason(choice.finish_reason)
    if reason == "stop" and message.tool_calls and any(isinstance(part, ToolCall) for part in parts):
        reason = "tool_calls"  # OpenAI reports "stop" if `tool_choice` names a function
    has_content = content is not None or any(not isinstance(part, Thinking) for part in parts)
    if not has_content and not choice.finish_reason:  # with a finish reason it is an empty answer, which is valid
        raise Malformed("The answer has no content")
    return Choice(parts=parts, finish_reason=reason, logprobs=choice.logprobs)


def text_of(content: str | list[ContentPart] | None) -> str | None:
    """Return the text of a message's `content`; None if it has no text."""
    if isinstance(content, list):
        texts = [part.text for part in content if part.text is not None]
        return "".join(texts) if texts else None
    return content


def thought_of(content: str | list[ContentPart] | None) -> str:
    """Return the reasoning text in a message's `content` list."""
    if not isinstance(content, list):
        return ""
    return "".join([inner.text or "" for part in content for inner in part.thinking or ()])


def arguments_of(given: Any) -> str:
    """Return a tool call's arguments as JSON text; some vendors send the object instead of its text."""
    if given is None or isinstance(given, str):
        return given or ""
    return msgspec.json.encode(given).decode()


def generated_id() -> str:
    """Return an id for a tool call of a vendor that sends none. It must not repeat in later turns, and is random."""
    return f"call_{token_hex(12)}"


def _read_call(call: _Call, signatures: Mapping[str, str]) -> ToolCall | VendorPart:
    """Read a tool call. `signatures` are those of `reasoning_details`, by the ids of their calls."""
    if call.function is None or not call.function.name:
        return VendorPart(kind=call.type or "tool_call")
    google = (call.extra_content or {}).get("google")
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return ToolCall(
        id=call.id or generated_id(),
        name=call.function.name,
        arguments=arguments_of(call.function.arguments),
        signature=signature if isinstance(signature, str) else signatures.get(call.id or ""),
    )


def write_reply(completion: Completion, context: ReplyContext) -> bytes:
    """Encode a completion as the response body for a client."""
    legacy = is_legacy(context.document)
    return msgspec.json.encode(
        {
            "id": f"chatcmpl-{context.request_id}",
            "object": "chat.completion",
            "created": context.created_s,
            "model": completion.model or context.model,
            "choices": [_write_choice(choice, index, legacy=legacy) for index, choice in enumerate(completion.choices)],
            "usage": write_usage(completion.usage),
        }
    )


def _write_choice(choice: Choice, index: int, *, legacy: bool) -> dict[str, Any]:
    """Build a choice. `legacy`: the client declared `functions`, so a call is a `function_call`."""
    texts = [part.text for part in choice.parts if isinstance(part, Text)]
    refusals = [part.text for part in choice.parts if isinstance(part, Refusal)]
    thoughts = [part.text for part in choice.parts if isinstance(part, Thinking) and part.text]
    calls = [write_call(part) for part in choice.parts if isinstance(part, ToolCall)]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(texts) if texts or not (calls or refusals) else None,
        "refusal": "".join(refusals) or None,
    }
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if details := details_of(choice.parts):
        message["reasoning_details"] = details
    reason: str = choice.finish_reason
    if calls and legacy:  # there is room for one call only
        message["function_call"] = calls[0]["function"]
        reason = "function_call" if reason == "tool_calls" else reason
    elif calls:
        message["tool_calls"] = calls
    return {"index": index, "message": message, "finish_reason": reason, "logprobs": choice.logprobs}


def write_call(call: ToolCall) -> dict[str, Any]:
    """Build a tool call; Gemini's thought signature goes where Google's OpenAI-compatible API has it."""
    document: dict[str, Any] = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
    if call.signature is not None:  # https://ai.google.dev/gemini-api/docs/thought-signatures
        document["extra_content"] = {"google": {"thought_signature": call.signature}}
    return document
