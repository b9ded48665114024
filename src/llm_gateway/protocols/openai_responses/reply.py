"""Read a provider's whole Responses API reply into a completion; write a completion as a client's reply.

https://platform.openai.com/docs/api-reference/responses/object
"""

from __future__ import annotations

from collections.abc import Iterable
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
    UsageUpdate,
    VendorPart,
)
from llm_gateway.domain.output_estimate import estimated_output
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.contract import Malformed, ReplyContext
from llm_gateway.protocols.encrypted_reasoning import encode_reasoning, format_of, mark_content, unmark_content
from llm_gateway.protocols.lenient_decoding import INVALID_COUNT, Lenient, LenientCount, ReplyDecoder, invalid_becomes
from llm_gateway.protocols.openai_responses.logprobs import read_logprobs, write_logprobs
from llm_gateway.protocols.openai_responses.tools import restorable_origins, restored_call
from llm_gateway.protocols.reported_values import (
    MAX_COUNT,
    any_implausible,
    are_plausible,
    clamped,
    seconds,
    special_tier,
)


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: LenientCount = None
    cache_write_tokens: LenientCount = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: LenientCount = None


class ReportedUsage(msgspec.Struct, gc=False):
    """A provider's `usage` object."""

    input_tokens: LenientCount = None
    output_tokens: LenientCount = None
    total_tokens: LenientCount = None
    input_tokens_details: Annotated[_InputDetails | None, invalid_becomes({"cached_tokens": INVALID_COUNT})] = None
    output_tokens_details: Annotated[_OutputDetails | None, invalid_becomes({"reasoning_tokens": INVALID_COUNT})] = None


class _Part(msgspec.Struct, gc=False):
    type: Lenient[str] = None
    text: str | None = None
    refusal: str | None = None
    logprobs: Lenient[list[Any]] = None


ITEMS = frozenset({"message", "function_call", "reasoning"})
"""Types of output items that other protocols can express; items of other types become `VendorPart` parts."""


UNITS = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
    "image_generation_call": "image_generation",
}
"""Types of output items that are billed apart from tokens, and the names of their units."""


class ToolAction(msgspec.Struct, gc=False):
    """Action of a web search call: `search`, `open_page` or `find_in_page`."""

    type: Lenient[str] = None


def unit_of(kind: str, action: ToolAction | None) -> str | None:
    """Return the unit that an output item is billed as, None if it is not. Of web search calls, searches are billed.

    https://developers.openai.com/api/docs/guides/tools-web-search
    """
    if kind == "web_search_call" and action is not None and action.type not in (None, "search"):
        return None
    return UNITS.get(kind)


SEARCHES = {"web_search_call": ("type", "action")}
"""Items that count as units, and the fields read of them."""


class _Item(msgspec.Struct, gc=False):
    reads: ClassVar = ITEMS | SEARCHES.keys()
    narrow: ClassVar = SEARCHES

    type: str
    action: Lenient[ToolAction] = None
    content: list[_Part] | None = None
    summary: Lenient[list[_Part]] = None
    encrypted_content: Lenient[str] = None
    call_id: Lenient[str] = None
    name: str | None = None
    arguments: str | None = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: Lenient[str] = None


class ResponseHead(msgspec.Struct, gc=False):
    """A `response` object without its output, which streams deliver in separate events."""

    id: Lenient[str] = None
    model: Lenient[str] = None
    created_at: Lenient[float] = None
    status: Lenient[str] = None
    incomplete_details: Lenient[_Incomplete] = None
    usage: Lenient[ReportedUsage] = None
    service_tier: Lenient[str] = None
    error: Any = None


class _Response(ResponseHead, gc=False):
    output: list[_Item] | None = None


_decoder = ReplyDecoder(_Response, "response")


ENDED = frozenset({"completed", "incomplete"})
"""Statuses of a response that is complete, even without any output."""


def read_usage(reported: ReportedUsage | None, *, has_content: bool) -> UsageUpdate | None:
    """Return the canonical counts; None if the provider's are missing or implausible.

    `has_content`: the answer is not empty, so it must have at least one output token.
    """
    if reported is None or reported.input_tokens is None or reported.output_tokens is None:
        return None
    input_tokens, output_tokens = reported.input_tokens, reported.output_tokens
    if not (0 < input_tokens <= MAX_COUNT and has_content <= output_tokens <= MAX_COUNT):  # also drops INVALID_COUNT
        return None
    input_details = reported.input_tokens_details or _InputDetails()
    output_details = reported.output_tokens_details or _OutputDetails()
    reasoning = output_details.reasoning_tokens
    if (  # counted beside the output, as xAI does in chat completions
        reasoning
        and are_plausible(output_tokens, reasoning)
        and reported.total_tokens == input_tokens + output_tokens + reasoning
    ):
        output_tokens += reasoning
    usage = Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=clamped(input_tokens, input_details.cached_tokens),
        cache_write_tokens=clamped(input_tokens, input_details.cache_write_tokens),
        reasoning_tokens=clamped(output_tokens, reasoning),
    )
    is_estimated = any_implausible(input_details.cached_tokens, input_details.cache_write_tokens, reasoning)
    return UsageUpdate(usage=usage, is_estimated=is_estimated)


def read_reply(body: bytes) -> Completion:
    """Parse the response in a provider's response body.

    Raises:
        Malformed: the body is not a complete response.
    """
    response = _decoder.decode(body)
    if response.status == "failed" or (response.error and not response.output):
        error = response.error.get("message") if isinstance(response.error, dict) else response.error
        raise Malformed(f"The provider aborted the answer (error: {error})")
    parts = [part for item in response.output or () for part in _parts(item)]
    if not parts and response.status not in ENDED:
        raise Malformed("The answer has no content")
    counted = read_usage(response.usage, has_content=any(map(_has_content, parts)))
    choices = [Choice(parts=parts, finish_reason=reason_of(response, parts), logprobs=_logprobs(response))]
    return Completion(
        choices=choices,
        usage=estimated_output(choices) if counted is None else counted.usage,
        usage_estimated=counted is None or counted.is_estimated,
        id=response.id,
        model=response.model,
        created_s=seconds(response.created_at),
        service_tier=special_tier(response.service_tier),
        units=_units(response.output or ()),
    )


def _units(items: Iterable[_Item]) -> dict[str, int] | None:
    units: dict[str, int] = {}
    for item in items:
        if item.type not in ITEMS and (unit := unit_of(item.type, item.action)) is not None:
            units[unit] = units.get(unit, 0) + 1
    return units or None


def reason_of(response: ResponseHead, parts: list[Part]) -> FinishReason:
    """Return the canonical finish reason of a response with these parts."""
    if response.incomplete_details is not None and response.incomplete_details.reason == "content_filter":
        return "content_filter"
    if response.status == "incomplete":
        return "length"
    return "tool_calls" if any(isinstance(part, ToolCall) for part in parts) else "stop"


def _logprobs(response: _Response) -> dict[str, Any] | None:
    """Return the logprobs of all texts, joined as those of a stream are."""
    contents = (part for item in response.output or () if item.type == "message" for part in item.content or ())
    return read_logprobs([token for part in contents if part.logprobs for token in part.logprobs])


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
        encrypted = item.encrypted_content
        return [Thinking(text=thoughts, redacted=mark_content(encrypted) if encrypted else None)]
    return [VendorPart(kind=item.type)]


def _has_content(part: Part) -> bool:
    return bool(part.text) if isinstance(part, Text | Refusal | Thinking) else True


def write_reply(completion: Completion, context: ReplyContext) -> bytes:
    """Encode a completion's first choice as the response body for a client; the protocol has no more choices."""
    choice = completion.choices[0] if completion.choices else Choice(parts=[])
    output = _output_of(choice, context)
    return msgspec.json.encode(
        response_document(context, completion.model or context.model, output, choice.finish_reason, completion.usage)
    )


def _output_of(choice: Choice, context: ReplyContext) -> list[dict[str, Any]]:
    """Build the output items of a choice; its logprobs go to the first text, as in `reply_assembler.chunks_of`.

    Calls are those of the client's own tools again (`tools.py`).
    """
    origins = restorable_origins(context.document.get("tools"))
    output: list[dict[str, Any]] = []
    for index, parts in enumerate(grouped(choice.parts)):
        item, part = item_of(parts, context.request_id, index), parts[0]
        output.append(restored_call(item, part, origins.get(part.name)) if isinstance(part, ToolCall) else item)
    logprobs = write_logprobs(choice.logprobs)
    contents = (part for item in output if item["type"] == "message" for part in item["content"])
    text = next((part for part in contents if part["type"] == "output_text"), None) if logprobs else None
    if text is not None:
        text["logprobs"] = logprobs
    return output


def grouped(parts: list[Part]) -> list[list[Part]]:
    """Group parts by output item: consecutive texts and refusals form one message, all other parts one item each."""
    groups: list[list[Part]] = []
    for part in parts:
        is_in_message = isinstance(part, Text | Refusal)
        if is_in_message and groups and isinstance(groups[-1][-1], Text | Refusal):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def item_of(parts: list[Part], request_id: str, index: int) -> dict[str, Any]:
    """Build the output item of a group of parts (`grouped`); `index` is its place in the output."""
    part = parts[0]
    if isinstance(part, ToolCall):
        return call_item(part, request_id, index)
    if isinstance(part, Thinking):
        summary = [{"type": "summary_text", "text": part.text}] if part.text else []
        item: dict[str, Any] = {"type": "reasoning", "id": f"rs_{request_id}_{index}", "summary": summary}
        encrypted = encode_reasoning(part)
        if encrypted is None:
            return item
        if format_of(encrypted) is None:  # the format must come back with the content, so its mark stays
            encrypted = unmark_content(encrypted)
        return {**item, "encrypted_content": encrypted}
    content = [content_of(part) for part in parts]
    return {
        "type": "message",
        "id": f"msg_{request_id}_{index}",
        "status": "completed",
        "role": "assistant",
        "content": content,
    }


def call_item(call: ToolCall, request_id: str, index: int, status: str = "completed") -> dict[str, Any]:
    """Build the output item of a function call."""
    return {
        "type": "function_call",
        "id": f"fc_{request_id}_{index}",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }


def content_of(part: Part) -> dict[str, Any]:
    """Build a content part of a message."""
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.text}
    text = part.text if isinstance(part, Text) else ""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def response_document(
    context: ReplyContext, model: str, output: list[dict[str, Any]], reason: FinishReason | None, usage: Usage | None
) -> dict[str, Any]:
    """Build a `response` object: the reply and, as OpenAI does, the request's settings.

    `reason` None: the response is in progress.
    """
    request = context.document
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
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "model": model,
        "output": output,
        "parallel_tool_calls": request.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": request.get("reasoning") or {"effort": None, "summary": None},
        "store": False,
        "temperature": request.get("temperature"),
        "text": request.get("text") or {"format": {"type": "text"}},
        "tool_choice": request.get("tool_choice") or "auto",
        "tools": request.get("tools") or [],
        "top_p": request.get("top_p"),
        "truncation": "disabled",
        "usage": None if usage is None else write_usage(usage),
        "user": request.get("user"),
        "metadata": request.get("metadata") or {},
    }


def write_usage(usage: Usage) -> dict[str, Any]:
    """Build a `usage` object for a client."""
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
