"""Hypothesis strategies for providers' replies, and functions that write them as each vendor does, whole and streamed.

The writers are independent of the gateway: written by hand from the vendors' documentation, linked at each vendor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

from llm_gateway.domain.conversation import Completion, FinishReason, Part, Refusal, Text, Thinking, ToolCall
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from tests.protocols.request_strategies import inputs, names, texts

Document = dict[str, Any]


class Counts(NamedTuple):
    """Tokens that a provider reports."""

    asked: int
    answered: int
    cached: int = 0
    reasoning: int = 0


class Reply(NamedTuple):
    """A provider's reply, independent of any API. `counts` None: the provider reports no usage."""

    parts: list[Part]
    reason: FinishReason
    counts: Counts | None


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    """Draw token counts from 0 to 10**8, with and without cached and reasoning tokens."""
    asked, answered = draw(st.sampled_from([1, 19, 10**8])), draw(st.sampled_from([0, 1, 10, 10**8]))
    return Counts(asked, answered, draw(st.sampled_from([0, asked])), draw(st.sampled_from([0, answered])))


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    """Draw a reply of up to four thoughts, texts, refusals and tool calls, or none."""
    kinds = draw(st.lists(st.sampled_from(["thought", "text", "text", "refusal", "call", "call"]), max_size=4))
    parts = [_part(draw, kind, number) for number, kind in enumerate(kinds)]
    reasons: list[FinishReason] = ["tool_calls", "length"] if "call" in kinds else ["stop", "length", "content_filter"]
    return Reply(parts, draw(st.sampled_from(reasons)), draw(st.none() | counts()))


def _part(draw: st.DrawFn, kind: str, number: int) -> Part:
    if kind == "call":
        arguments = msgspec.json.encode(draw(inputs)).decode()
        return ToolCall(id=f"call_{number}", name=draw(names), arguments=arguments)
    text = draw(texts)
    if kind == "thought":
        return Thinking(text=text, signature=draw(st.none() | st.just(f"seal{number}")))
    return Refusal(text=text) if kind == "refusal" else Text(text=text)


def told(completion: Completion) -> list[tuple[str, Any]]:
    """Return (kind, content) of the parts of the only choice; see `told_parts`."""
    return told_parts(completion.choices[0].parts)


def told_parts(parts: list[Part]) -> list[tuple[str, Any]]:
    """Return (kind, content) of the parts, in order; consecutive texts are joined, empty ones left out."""
    said: list[tuple[str, Any]] = []
    for kind, group in groupby(parts, key=_kind):
        if kind == "call":
            said += [
                (kind, (one.name, json.loads(one.arguments or "{}"))) for one in group if isinstance(one, ToolCall)
            ]
        elif text := "".join(one.text for one in group if isinstance(one, Text | Refusal | Thinking)):
            said.append((kind, text))
    return list(_merged(said))


def _merged(said: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    for kind, group in groupby(said, key=lambda one: one[0]):
        values = [value for _, value in group]
        yield from ((kind, value) for value in (values if kind == "call" else ["".join(values)]))


def _kind(part: Part) -> str:
    return {ToolCall: "call", Text: "text", Refusal: "refusal", Thinking: "thought"}[type(part)]


def usage_of(reported: Counts) -> Usage:
    """Return the canonical usage for these counts."""
    return Usage(
        input_tokens=reported.asked,
        output_tokens=reported.answered,
        cache_read_tokens=reported.cached,
        reasoning_tokens=reported.reasoning,
    )


def pieces(text: str, size: int) -> list[str]:
    """Split a text into deltas of `size` characters."""
    return [text[start : start + size] for start in range(0, len(text), size)]


class Vendor(NamedTuple):
    """A vendor's protocol and the functions that write a reply in it.

    `adapted` reduces a reply to what the protocol can express; `events(reply, size)` cuts texts into `size` characters.
    """

    protocol: Any
    adapted: Callable[[Reply], Reply]
    whole: Callable[[Reply], Document]
    events: Callable[[Reply, int], list[Document]]
    done: bytes
    error: Document


# OpenAI's chat completions: https://platform.openai.com/docs/api-reference/chat/object and …/chat-streaming,
# with DeepSeek's reasoning_content: https://api-docs.deepseek.com/guides/thinking_mode.

_CHAT_ORDER = ("thought", "text", "refusal", "call")


def _chat_adapted(reply: Reply) -> Reply:
    """Sort the parts: a message has one text of each kind, followed by the calls."""
    return reply._replace(parts=sorted(reply.parts, key=lambda part: _CHAT_ORDER.index(_kind(part))))


def _chat_whole(reply: Reply) -> Document:
    message: Document = {"role": "assistant", "content": None, "refusal": None}
    for part in reply.parts:
        if isinstance(part, ToolCall):
            message.setdefault("tool_calls", []).append(_chat_call(part))
        elif isinstance(part, Text | Refusal | Thinking):
            field = {"text": "content", "refusal": "refusal", "thought": "reasoning_content"}[_kind(part)]
            message[field] = (message.get(field) or "") + part.text
    choice = {"index": 0, "message": message, "finish_reason": reply.reason, "logprobs": None}
    usage = {} if reply.counts is None else {"usage": _chat_usage(reply.counts)}
    return {"id": "c", "object": "chat.completion", "created": 7, "model": "m", "choices": [choice], **usage}


def _chat_call(call: ToolCall) -> Document:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _chat_usage(reported: Counts) -> Document:
    return {
        "prompt_tokens": reported.asked,
        "completion_tokens": reported.answered,
        "total_tokens": reported.asked + reported.answered,
        "prompt_tokens_details": {"cached_tokens": reported.cached},
        "completion_tokens_details": {"reasoning_tokens": reported.reasoning},
    }


def _chat_events(reply: Reply, size: int) -> list[Document]:
    deltas: list[Document] = [{"role": "assistant", "content": ""}]
    number = -1
    for part in reply.parts:
        if isinstance(part, ToolCall):
            number += 1
            begun = _chat_call(part)
            begun["function"] = {"name": part.name, "arguments": ""}
            deltas.append({"tool_calls": [{"index": number, **begun}]})
            calls = [{"index": number, "function": {"arguments": piece}} for piece in pieces(part.arguments, size)]
            deltas += [{"tool_calls": [call]} for call in calls]
        elif isinstance(part, Text | Refusal | Thinking):
            field = {"text": "content", "refusal": "refusal", "thought": "reasoning_content"}[_kind(part)]
            deltas += [{field: piece} for piece in pieces(part.text, size)]
    common = {"id": "c", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    events: list[Document] = [
        {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    events.append({**common, "choices": [{"index": 0, "delta": {}, "finish_reason": reply.reason}]})
    return events if reply.counts is None else [*events, {**common, "choices": [], "usage": _chat_usage(reply.counts)}]


# Anthropic's Messages: https://platform.claude.com/docs/en/build-with-claude/streaming.

_STOPS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}


def _no_refusal(reply: Reply) -> Reply:
    """Turn refusals into texts: the protocol has no refusals."""
    said: list[Part] = [Text(text=part.text) if isinstance(part, Refusal) else part for part in reply.parts]
    return reply._replace(parts=said)


def _messages_whole(reply: Reply) -> Document:
    content = [_block(part) for part in reply.parts]
    usage = {} if reply.counts is None else {"usage": _messages_usage(reply.counts)}
    return {**_MESSAGE, "content": content, "stop_reason": _STOPS[reply.reason], **usage}


_MESSAGE: Document = {
    "id": "c", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
    "stop_sequence": None,
}  # fmt: skip


def _block(part: Part) -> Document:
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": json.loads(part.arguments)}
    if isinstance(part, Thinking):
        return {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}
    return {"type": "text", "text": part.text} if isinstance(part, Text) else {}


def _messages_usage(reported: Counts) -> Document:
    return {
        "input_tokens": reported.asked - reported.cached,
        "output_tokens": reported.answered,
        "cache_read_input_tokens": reported.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens_details": {"thinking_tokens": reported.reasoning},
    }


def _messages_events(reply: Reply, size: int) -> list[Document]:
    begun = {} if reply.counts is None else {"usage": {**_messages_usage(reply.counts), "output_tokens": 1}}
    events: list[Document] = [{"type": "message_start", "message": {**_MESSAGE, **begun}}, {"type": "ping"}]
    for index, part in enumerate(reply.parts):
        block, deltas = _block_deltas(part, size)
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": _STOPS[reply.reason], "stop_sequence": None}
    usage = {} if reply.counts is None else {"usage": _messages_usage(reply.counts)}
    return [*events, {"type": "message_delta", "delta": delta, **usage}, {"type": "message_stop"}]


def _block_deltas(part: Part, size: int) -> tuple[Document, list[Document]]:
    block = _block(part)
    if isinstance(part, ToolCall):
        given = [""] + ([] if part.arguments == "{}" else pieces(part.arguments, size))
        return block | {"input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in given]
    if isinstance(part, Thinking):
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(part.text, size)]
        seal = [{"type": "signature_delta", "signature": part.signature}] if part.signature else []
        return block | {"thinking": "", "signature": ""}, deltas + seal
    return block | {"text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces(block["text"], size)]


# OpenAI's Responses: https://platform.openai.com/docs/api-reference/responses-streaming.


def _responses_whole(reply: Reply) -> Document:
    incomplete = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reply.reason)
    return {
        **_RESPONSE,
        "status": "incomplete" if incomplete else "completed",
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "output": [_item(part, index) for index, part in enumerate(reply.parts)],
        "usage": None if reply.counts is None else _responses_usage(reply.counts),
    }


_RESPONSE: Document = {"id": "c", "object": "response", "created_at": 7, "model": "m", "output": [], "error": None}


def _responses_usage(reported: Counts) -> Document:
    return {
        "input_tokens": reported.asked,
        "input_tokens_details": {"cached_tokens": reported.cached},
        "output_tokens": reported.answered,
        "output_tokens_details": {"reasoning_tokens": reported.reasoning},
        "total_tokens": reported.asked + reported.answered,
    }


def _item(part: Part, index: int) -> Document:
    if isinstance(part, ToolCall):
        call = {"call_id": part.id, "name": part.name, "arguments": part.arguments}
        return {"type": "function_call", "id": f"fc_{index}", "status": "completed", **call}
    if isinstance(part, Thinking):
        summary = [{"type": "summary_text", "text": text} for text in _summaries(part.text)]
        return {"type": "reasoning", "id": f"rs_{index}", "summary": summary, "encrypted_content": part.signature}
    content = {"type": "refusal", "refusal": part.text} if isinstance(part, Refusal) else _output_text(part)
    return {"type": "message", "id": f"msg_{index}", "status": "completed", "role": "assistant", "content": [content]}


def _output_text(part: Part) -> Document:
    return {"type": "output_text", "text": part.text if isinstance(part, Text) else "", "annotations": []}


def _summaries(text: str) -> list[str]:
    """Split a thought into two summaries, so that readers must join them; an empty thought has none."""
    middle = len(text) // 2
    return [text[:middle], text[middle:]] if middle else [text] if text else []


def _responses_events(reply: Reply, size: int) -> list[Document]:
    events: list[Document] = [{"type": "response.created", "response": {**_RESPONSE, "status": "in_progress"}}]
    for index, part in enumerate(reply.parts):
        item = _item(part, index)
        place = {"output_index": index, "item_id": item["id"]}
        if isinstance(part, ToolCall):
            kind, texts_, begun = "function_call_arguments", [part.arguments], item | {"arguments": ""}
        elif isinstance(part, Thinking):
            kind, texts_, begun = "reasoning_summary_text", _summaries(part.text), item | {"summary": []}
            begun = begun | {"encrypted_content": None}
        else:
            kind = "refusal" if isinstance(part, Refusal) else "output_text"
            texts_, begun = [part.text] if isinstance(part, Text | Refusal) else [], item | {"content": []}
        events.append({"type": "response.output_item.added", "output_index": index, "item": begun})
        for number, text in enumerate(texts_):
            if kind == "reasoning_summary_text":
                part_of = {"summary_index": number, "part": {"type": "summary_text", "text": ""}}
                events.append({"type": "response.reasoning_summary_part.added", **place, **part_of})
            within = {"summary_index" if kind == "reasoning_summary_text" else "content_index": number}
            events += [{"type": f"response.{kind}.delta", **place, **within, "delta": p} for p in pieces(text, size)]
            events.append({"type": f"response.{kind}.done", **place, **within})
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    whole = _responses_whole(reply)
    return [*events, {"type": f"response.{whole['status']}", "response": whole}]


# Gemini: https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent.

_GEMINI_REASONS = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}


def _gemini_usage(reported: Counts) -> Document:
    """Write the usage without zero counts, as all of Google's JSON."""
    usage = {
        "promptTokenCount": reported.asked,
        "cachedContentTokenCount": reported.cached,
        "candidatesTokenCount": reported.answered - reported.reasoning,
        "thoughtsTokenCount": reported.reasoning,
    }
    return {name: count for name, count in usage.items() if count}


def _gemini_part(part: Part) -> Document:
    if isinstance(part, ToolCall):
        return {"functionCall": {"name": part.name, "args": json.loads(part.arguments)}}
    if isinstance(part, Thinking):
        return {"text": part.text, "thought": True}
    return {"text": part.text} if isinstance(part, Text) else {}


def _gemini_whole(reply: Reply) -> Document:
    content = {"role": "model", "parts": [_gemini_part(part) for part in reply.parts]}
    candidate = {"content": content, "finishReason": _GEMINI_REASONS[reply.reason], "index": 0}
    usage = {} if reply.counts is None else {"usageMetadata": _gemini_usage(reply.counts)}
    return {"candidates": [candidate], "modelVersion": "m", "responseId": "c", **usage}


def _gemini_events(reply: Reply, size: int) -> list[Document]:
    parts: list[Document] = []
    for part in reply.parts:
        written = _gemini_part(part)
        parts += (
            [written | {"text": piece} for piece in pieces(written["text"], size)] if "text" in written else [written]
        )
    is_whole = reply.counts is not None and reply.counts.answered > reply.counts.reasoning
    asked = {"usageMetadata": {"promptTokenCount": reply.counts.asked}} if reply.counts and is_whole else {}
    common = {"modelVersion": "m", "responseId": "c"}
    events: list[Document] = [
        {"candidates": [{"content": {"role": "model", "parts": [one]}, "index": 0}], **common, **asked} for one in parts
    ]
    return [*events, _gemini_whole(reply._replace(parts=[Text(text="")]))]


VENDORS = {
    "chat": Vendor(
        openai_chat, _chat_adapted, _chat_whole, _chat_events, b"[DONE]",
        {"error": {"message": "on fire", "type": "server_error", "code": 500}},
    ),
    "messages": Vendor(
        anthropic_messages, _no_refusal, _messages_whole, _messages_events, b"",
        {"type": "error", "error": {"type": "overloaded_error", "message": "on fire"}},
    ),
    "responses": Vendor(
        openai_responses, lambda reply: reply, _responses_whole, _responses_events, b"",
        {"type": "response.failed", "response": {"status": "failed", "error": {"message": "on fire"}}},
    ),
    "gemini": Vendor(
        gemini, _no_refusal, _gemini_whole, _gemini_events, b"",
        {"error": {"code": 503, "message": "on fire", "status": "UNAVAILABLE"}},
    ),
}  # fmt: skip


def sse(vendor: Vendor, events: list[Document], *, newline: str, is_ascii: bool) -> bytes:
    """Encode events as server-sent events, with keep-alive comments between them."""
    lines = []
    for event in events:
        name = f"event: {event['type']}{newline}" if "type" in event else ""
        is_escaped = is_ascii and "candidates" not in event  # Gemini's arguments are kept as they are spelled
        data = json.dumps(event) if is_escaped else msgspec.json.encode(event).decode()
        lines.append(f"{name}data: {data}{newline}{newline}")
    done = f"data: {vendor.done.decode()}{newline}{newline}" if vendor.done else ""
    return (f": keep-alive{newline}{newline}".join(["", *lines]) + done).encode()
