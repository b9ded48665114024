"""Whole replies of the Responses API."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec

from llm_gateway.domain.conversation import (
    Choice,
    Completion,
    Counted,
    FinishReason,
    Foreign,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
)
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.contract import Malformed, ReplyContext
from llm_gateway.protocols.counts import MAX_COUNT, any_implausible, clamped, estimated_usage, seconds
from llm_gateway.protocols.lenient_decoding import INVALID_COUNT, Lenient, LenientCount, ReplyDecoder, invalid_becomes
from llm_gateway.protocols.openai_responses.sealed import seal


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: LenientCount = None
    cache_write_tokens: LenientCount = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: LenientCount = None


class ReportedUsage(msgspec.Struct, gc=False):
    """A `usage` object."""

    input_tokens: LenientCount = None
    output_tokens: LenientCount = None
    input_tokens_details: Annotated[_InputDetails | None, invalid_becomes({"cached_tokens": INVALID_COUNT})] = None
    output_tokens_details: Annotated[_OutputDetails | None, invalid_becomes({"reasoning_tokens": INVALID_COUNT})] = None


class _Part(msgspec.Struct, gc=False):
    type: Lenient[str] = None
    text: str | None = None
    refusal: str | None = None


ITEMS = frozenset({"message", "function_call", "reasoning"})
"""The types of items that are read; others are foreign."""


class _Item(msgspec.Struct, gc=False):
    reads: ClassVar = ITEMS

    type: str
    content: list[_Part] | None = None
    summary: Lenient[list[_Part]] = None
    encrypted_content: Lenient[str] = None
    call_id: Lenient[str] = None
    name: str | None = None
    arguments: str | None = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: Lenient[str] = None


class ResponseHead(msgspec.Struct, gc=False):
    """A `response` object without its output, which a stream tells in events of its own."""

    id: Lenient[str] = None
    model: Lenient[str] = None
    created_at: Lenient[float] = None
    status: Lenient[str] = None
    incomplete_details: Lenient[_Incomplete] = None
    usage: Lenient[ReportedUsage] = None
    error: Any = None


class _Response(ResponseHead, gc=False):
    output: list[_Item] | None = None


_decoder = ReplyDecoder(_Response, "response")


ENDED = frozenset({"completed", "incomplete"})
"""A response of such a status ended by itself; without any output it is an answer, too."""


def read_usage(reported: ReportedUsage | None, *, has_content: bool) -> Counted | None:
    """The canonical counts; None where the provider left them out, or what it says cannot be."""
    if reported is None or reported.input_tokens is None or reported.output_tokens is None:
        return None
    asked, answered = reported.input_tokens, reported.output_tokens
    if not (0 < asked <= MAX_COUNT and has_content <= answered <= MAX_COUNT):
        return None
    into = reported.input_tokens_details or _InputDetails()
    out = reported.output_tokens_details or _OutputDetails()
    usage = Usage(
        input_tokens=asked,
        output_tokens=answered,
        cache_read_tokens=clamped(asked, into.cached_tokens),
        cache_write_tokens=clamped(asked, into.cache_write_tokens),
        reasoning_tokens=clamped(answered, out.reasoning_tokens),
    )
    is_estimated = any_implausible(into.cached_tokens, into.cache_write_tokens, out.reasoning_tokens)
    return Counted(usage=usage, is_estimated=is_estimated)


def read_reply(body: bytes) -> Completion:
    """The response in a provider's body.

    Raises:
        Malformed: it holds no complete one.
    """
    found = _decoder.decode(body)
    if found.status == "failed" or (found.error and not found.output):
        error = found.error.get("message") if isinstance(found.error, dict) else found.error
        raise Malformed(f"The answer was broken off ({error})")
    parts = [part for item in found.output or () for part in _parts(item)]
    if not parts and found.status not in ENDED:
        raise Malformed("The answer has no content")
    counted = read_usage(found.usage, has_content=any(map(_says_something, parts)))
    return Completion(
        choices=[Choice(parts=parts, finish_reason=reason_of(found, parts))],
        usage=estimated_usage(sum(map(_length, parts))) if counted is None else counted.usage,
        usage_estimated=counted is None or counted.is_estimated,
        id=found.id,
        model=found.model,
        created_s=seconds(found.created_at),
    )


def reason_of(found: ResponseHead, parts: list[Part]) -> FinishReason:
    """Why a response ended."""
    if found.incomplete_details is not None and found.incomplete_details.reason == "content_filter":
        return "content_filter"
    if found.status == "incomplete":
        return "length"
    return "tool_calls" if any(isinstance(part, ToolCall) for part in parts) else "stop"


def _parts(item: _Item) -> list[Part]:
    if item.type == "message":
        return [
            Refusal(text=part.refusal) if part.refusal is not None else Text(text=part.text or "")
            for part in item.content or ()
        ]
    if item.type == "function_call":
        return [ToolCall(id=item.call_id or "", name=item.name or "", arguments=item.arguments or "")]
    if item.type == "reasoning":
        thoughts = "\n".join(part.text or "" for part in item.summary or item.content or ())
        return [Thinking(text=thoughts, redacted=item.encrypted_content)]
    return [Foreign(kind=item.type)]


def _says_something(part: Part) -> bool:
    return bool(part.text) if isinstance(part, Text | Refusal | Thinking) else True


def _length(part: Part) -> int:
    if isinstance(part, ToolCall):
        return len(part.arguments)
    return len(part.text) if isinstance(part, Text | Thinking | Refusal) else 0


def write_reply(completion: Completion, context: ReplyContext) -> bytes:
    """The document of a response: the first of the choices."""
    choice = completion.choices[0] if completion.choices else Choice(parts=[])
    output = _output_of(choice, context.request_id)
    return msgspec.json.encode(
        response_document(context, completion.model or context.model, output, choice.finish_reason, completion.usage)
    )


def _output_of(choice: Choice, request_id: str) -> list[dict[str, Any]]:
    """The items of an answer; its logprobs are the first text's, as in `chunks_of`."""
    output = [item_of(parts, request_id, index) for index, parts in enumerate(grouped(choice.parts))]
    logprobs = logprobs_of(choice.logprobs)
    contents = (part for item in output if item["type"] == "message" for part in item["content"])
    text = next((part for part in contents if part["type"] == "output_text"), None) if logprobs else None
    if text is not None:
        text["logprobs"] = logprobs
    return output


def grouped(parts: list[Part]) -> list[list[Part]]:
    """Texts and refusals that follow each other are one message; all else is an item of its own."""
    groups: list[list[Part]] = []
    for part in parts:
        is_said = isinstance(part, Text | Refusal)
        if is_said and groups and isinstance(groups[-1][-1], Text | Refusal):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def item_of(parts: list[Part], request_id: str, index: int) -> dict[str, Any]:
    """An output item."""
    part = parts[0]
    if isinstance(part, ToolCall):
        return call_item(part, request_id, index)
    if isinstance(part, Thinking):
        summary = [{"type": "summary_text", "text": part.text}] if part.text else []
        item: dict[str, Any] = {"type": "reasoning", "id": f"rs_{request_id}_{index}", "summary": summary}
        sealed = seal(part)
        return item if sealed is None else {**item, "encrypted_content": sealed}
    content = [content_of(one) for one in parts]
    return {
        "type": "message",
        "id": f"msg_{request_id}_{index}",
        "status": "completed",
        "role": "assistant",
        "content": content,
    }


def call_item(call: ToolCall, request_id: str, index: int, status: str = "completed") -> dict[str, Any]:
    """A function call as an output item."""
    return {
        "type": "function_call",
        "id": f"fc_{request_id}_{index}",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }


def content_of(part: Part) -> dict[str, Any]:
    """A part of a message."""
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.text}
    text = part.text if isinstance(part, Text) else ""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def logprobs_of(said: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A text's `logprobs`, from the document of chat completions: the same, but that `bytes` is never null.

    https://platform.openai.com/docs/api-reference/responses/object#responses-object-output. What a provider wrote in
    another shape is left out.
    """
    tokens = (said or {}).get("content")
    if not isinstance(tokens, list):
        return []
    return [
        {**token, "top_logprobs": [other for one in _likely(given) if (other := _logprob(one)) is not None]}
        for given in tokens
        if (token := _logprob(given)) is not None
    ]


def _logprob(given: Any) -> dict[str, Any] | None:
    if not isinstance(given, dict):
        return None
    token, logprob, spelled = given.get("token"), given.get("logprob"), given.get("bytes")
    if not isinstance(token, str) or not isinstance(logprob, int | float):
        return None
    return {"token": token, "logprob": logprob, "bytes": spelled if isinstance(spelled, list) else []}


def _likely(given: dict[str, Any]) -> list[Any]:
    tokens = given.get("top_logprobs")
    return tokens if isinstance(tokens, list) else []


def response_document(
    context: ReplyContext, model: str, output: list[dict[str, Any]], reason: FinishReason | None, usage: Usage | None
) -> dict[str, Any]:
    """A `response` object: the reply and, as the vendor does, what was asked. `reason` None: it is under way."""
    asked = context.document
    incomplete = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reason or "")
    status = "in_progress" if reason is None else "incomplete" if incomplete else "completed"
    return {
        "id": f"resp_{context.request_id}",
        "object": "response",
        "created_at": context.created_s,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "model": model,
        "output": output,
        "parallel_tool_calls": asked.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": asked.get("reasoning") or {"effort": None, "summary": None},
        "store": False,
        "temperature": asked.get("temperature"),
        "text": asked.get("text") or {"format": {"type": "text"}},
        "tool_choice": asked.get("tool_choice") or "auto",
        "tools": asked.get("tools") or [],
        "top_p": asked.get("top_p"),
        "truncation": "disabled",
        "usage": None if usage is None else write_usage(usage),
        "user": asked.get("user"),
        "metadata": asked.get("metadata") or {},
    }


def write_usage(usage: Usage) -> dict[str, Any]:
    """A `usage` object."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
