"""The scripted model in three vendors' dialects: read the conversation of a request, write a step as the reply.

Replies are as the vendors document them: OpenAI's chat completions and Responses, Anthropic's Messages, Google's
generateContent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.agents.script import Step, Turn
from tests.upstream import responses_api

Json = dict[str, Any]
USAGE = (120, 30)
"""Input and output tokens of every reply."""


SIGNATURE = "c2lnbmF0dXJl"
"""Signature of Gemini's calls: https://ai.google.dev/gemini-api/docs/thought-signatures (2026-11-27)."""


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or [] if isinstance(part, dict) and isinstance(part.get("text"), str)]


# OpenAI chat completions


def chat_turns(body: Json) -> list[Turn]:
    turns = []
    for message in body["messages"]:
        content, role = message.get("content"), message["role"]
        texts = _texts(content)
        pictures = sum(part.get("type") == "image_url" for part in content) if isinstance(content, list) else 0
        calls = [call["function"]["name"] for call in message.get("tool_calls") or []]
        if role == "tool":
            turns.append(Turn(role, [], [], [" ".join(texts)], pictures))
        else:
            turns.append(Turn(role, texts, calls, [], pictures))
    return turns


def chat_tools(body: Json) -> dict[str, Json]:
    return {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in body.get("tools") or []}


def chat_reply(body: Json, step: Step, number: int) -> bytes:
    message: Json = {"role": "assistant", "content": step.text or None, "refusal": None}
    if step.tool:
        function = {"name": step.tool, "arguments": json.dumps(step.arguments)}
        message["tool_calls"] = [{"id": f"call_{number}", "type": "function", "function": function}]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if step.tool else "stop", "logprobs": None}
    into, out = USAGE
    usage = {"prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out}
    head = {"id": f"chatcmpl-{number}", "object": "chat.completion", "created": 1_790_000_000, "model": body["model"]}
    return json.dumps({**head, "choices": [choice], "usage": usage}).encode()


def chat_events(body: Json, step: Step, number: int) -> Iterator[bytes]:
    head = {"id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "created": 1_790_000_000}
    head["model"] = body["model"]
    deltas: list[Json] = [{"role": "assistant", "content": "" if step.text else None}]
    if step.tool:
        arguments = json.dumps(step.arguments)
        call = {"index": 0, "id": f"call_{number}", "type": "function"}
        deltas.append({"tool_calls": [{**call, "function": {"name": step.tool, "arguments": ""}}]})
        deltas += [
            {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in (arguments[:7], arguments[7:])
        ]
    else:
        deltas += [{"content": step.text[:3]}, {"content": step.text[3:]}]
    for delta in deltas:
        yield _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    reason = "tool_calls" if step.tool else "stop"
    yield _event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        into, out = USAGE
        usage = {"prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out}
        yield _event({**head, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


# OpenAI Responses


def responses_turns(body: Json) -> list[Turn]:
    given = body["input"]
    turns = []
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        kind = item.get("type", "message")
        content = item.get("output") if kind.endswith("_output") else item.get("content")
        pictures = sum(part.get("type") == "input_image" for part in content) if isinstance(content, list) else 0
        if kind == "message":
            turns.append(Turn(item["role"], _texts(content), [], [], pictures))
        elif kind.endswith("_call"):
            turns.append(Turn("assistant", [], [item.get("name", kind)], []))
        elif kind.endswith("_output"):
            turns.append(Turn("tool", [], [], [" ".join(_texts(content))], pictures))
    return turns


def responses_tools(body: Json) -> dict[str, Json]:
    return {
        tool["name"]: tool.get("parameters") or {} for tool in body.get("tools") or [] if tool["type"] == "function"
    }


def _response(body: Json, step: Step, number: int) -> Json:
    into, out = USAGE
    text = {"type": "output_text", "text": step.text, "annotations": [], "logprobs": []}
    item: Json = {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": [text]}
    if step.tool:
        item = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}"}
        item |= {"name": step.tool, "arguments": json.dumps(step.arguments)}
    return {
        "id": f"resp_{number}", "object": "response", "created_at": 1_790_000_000, "model": body["model"],
        "status": "completed", "error": None, "incomplete_details": None, "instructions": body.get("instructions"),
        "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0, "top_p": 1.0, "store": False,
        "tool_choice": body.get("tool_choice", "auto"), "tools": body.get("tools") or [],
        "output": [{**item, "status": "completed"}],
        "usage": {
            "input_tokens": into, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": out, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": into + out,
        },
    }  # fmt: skip


def responses_reply(body: Json, step: Step, number: int) -> bytes:
    return json.dumps(_response(body, step, number)).encode()


def responses_events(body: Json, step: Step, number: int) -> Iterator[bytes]:
    yield responses_api.encoded_events(_response(body, step, number))


# Anthropic Messages


def messages_turns(body: Json) -> list[Turn]:
    turns = []
    for message in body["messages"]:
        blocks = message["content"]
        blocks = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else blocks
        results, pictures = [], 0
        for block in blocks:
            inner = block.get("content") if block["type"] == "tool_result" else None
            if block["type"] == "tool_result":
                results.append(" ".join(_texts(inner)))
            pictures += block["type"] in ("image", "document")
            pictures += (
                sum(part.get("type") in ("image", "document") for part in inner) if isinstance(inner, list) else 0
            )
        calls = [block["name"] for block in blocks if block["type"] == "tool_use"]
        turns.append(Turn(message["role"], _texts(blocks), calls, results, pictures))
    return turns


def messages_tools(body: Json) -> dict[str, Json]:
    return {tool["name"]: tool.get("input_schema") or {} for tool in body.get("tools") or []}


def messages_reply(body: Json, step: Step, number: int) -> bytes:
    content: Json = {"type": "text", "text": step.text}
    if step.tool:
        content = {"type": "tool_use", "id": f"toolu_{number:024}", "name": step.tool, "input": step.arguments}
    return json.dumps({**_message(body, number), "content": [content], "stop_reason": _stop(step)}).encode()


def _message(body: Json, number: int) -> Json:
    return {
        "id": f"msg_{number:024}", "type": "message", "role": "assistant", "model": body["model"], "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": USAGE[0], "output_tokens": USAGE[1]},
    }  # fmt: skip


def _stop(step: Step) -> str:
    return "tool_use" if step.tool else "end_turn"


def messages_events(body: Json, step: Step, number: int) -> Iterator[bytes]:
    block: Json = {"type": "text", "text": ""}
    pieces: list[Json] = [{"type": "text_delta", "text": text} for text in (step.text[:3], step.text[3:])]
    if step.tool:
        arguments = json.dumps(step.arguments)
        block = {"type": "tool_use", "id": f"toolu_{number:024}", "name": step.tool, "input": {}}
        pieces = [{"type": "input_json_delta", "partial_json": text} for text in ("", arguments[:7], arguments[7:])]
    events: list[Json] = [
        {"type": "message_start", "message": _message(body, number)},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": piece} for piece in pieces),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta", "delta": {"stop_reason": _stop(step), "stop_sequence": None},
            "usage": {"output_tokens": USAGE[1]},
        },
        {"type": "message_stop"},
    ]  # fmt: skip
    for event in events:
        yield f"event: {event['type']}\n".encode() + _event(event)


# Google's generateContent


def gemini_turns(body: Json) -> list[Turn]:
    turns = []
    for content in body["contents"]:
        parts = content["parts"]
        responses = [part["functionResponse"] for part in parts if "functionResponse" in part]
        inner = [part for response in responses for part in response.get("parts") or []]
        turns.append(
            Turn(
                content.get("role", "user"),
                [part["text"] for part in parts if "text" in part],
                [part["functionCall"]["name"] for part in parts if "functionCall" in part],
                [json.dumps(response["response"]) for response in responses],
                sum("inlineData" in part for part in [*parts, *inner]),
            )
        )
    return turns


def gemini_tools(body: Json) -> dict[str, Json]:
    return {
        function["name"]: function.get("parametersJsonSchema") or function.get("parameters") or {}
        for tool in body.get("tools") or []
        for function in tool.get("functionDeclarations") or []
    }


def gemini_reply(body: Json, step: Step, number: int) -> bytes:
    return json.dumps(_candidate(_part(step), "STOP", number)).encode()


def _part(step: Step) -> Json:
    if not step.tool:
        return {"text": step.text}
    return {"functionCall": {"name": step.tool, "args": step.arguments}, "thoughtSignature": SIGNATURE}


def _candidate(part: Json, reason: str | None, number: int) -> Json:
    into, out = USAGE
    candidate: Json = {"content": {"role": "model", "parts": [part]}, "index": 0}
    if reason:
        candidate["finishReason"] = reason
    usage = {"promptTokenCount": into, "candidatesTokenCount": out, "totalTokenCount": into + out}
    return {
        "candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini", "responseId": f"response{number}",
    }  # fmt: skip


def gemini_events(body: Json, step: Step, number: int) -> Iterator[bytes]:
    if not step.tool:
        yield _event(_candidate({"text": step.text[:3]}, None, number))
        step = Step(step.text[3:])
    yield _event(_candidate(_part(step), "STOP", number))


def _event(document: Json) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"
