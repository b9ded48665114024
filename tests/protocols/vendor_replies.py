"""Sample replies from the vendors' documentation, whole and streamed, with all fields, and functions to alter them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from llm_gateway.domain.conversation import Completion, Refusal, Text
from llm_gateway.domain.reply_assembler import ReplyAssembler
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.sse import Event
from tests.providers.documents import ANTHROPIC, GEMINI, OPENAI

Path = tuple[str | int, ...]

RESPONSE: dict[str, Any] = {
    "id": "resp_1", "object": "response", "created_at": 1741476542, "status": "completed", "error": None,
    "incomplete_details": None, "model": "gpt-4.1-2025-04-14", "service_tier": "default",
    "output": [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}], "status": None},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
         "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}]},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "name": "x", "arguments": "x", "content": [],
         "summary": [], "call_id": "x", "encrypted_content": "x"},
    ],
    "usage": {
        "input_tokens": 19, "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 1}, "output_tokens": 10,
        "output_tokens_details": {"reasoning_tokens": 4}, "total_tokens": 29,
    },
}  # fmt: skip


class Dialect(NamedTuple):
    """A vendor's protocol: its readers, a whole reply, and the events of a stream with the same text.

    `content` names the fields that hold the answer itself; `done` is the data of the stream's end marker, if it has
    one; `usage` names the field with the counts, `totals` and `details` are the paths of the counts in it.
    """

    read: Callable[[bytes], Completion]
    reader: Callable[[], Any]
    whole: dict[str, Any]
    stream: list[dict[str, Any]]
    done: bytes
    content: frozenset[str]
    usage: str
    totals: tuple[Path, ...]
    details: tuple[Path, ...]


_CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "service_tier": "default"}
_SAID = OPENAI["choices"][0]["message"]["content"]
_THOUGHT = {"thought": True, "text": "Hm", "thoughtSignature": "s"}
_GEMINI_EVENT = {name: GEMINI[name] for name in ("modelVersion", "responseId", "usageMetadata")}

DIALECTS = {
    "chat": Dialect(
        openai_chat.read_reply,
        openai_chat.StreamReader,
        OPENAI,
        [
            {**_CHUNK, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
                                    "finish_reason": None}]},
            {**_CHUNK, "choices": [{"index": 0, "delta": {"content": _SAID, "reasoning_content": "Hm"},
                                    "logprobs": {"content": [], "refusal": None}, "finish_reason": None}]},
            {**_CHUNK, "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]},
            {**_CHUNK, "choices": [], "usage": OPENAI["usage"]},
        ],
        b"[DONE]",
        frozenset({"choices", "message", "delta", "content", "refusal"}),
        "usage",
        (("prompt_tokens",), ("completion_tokens",)),
        (
            ("prompt_tokens_details", "cached_tokens"), ("prompt_tokens_details", "audio_tokens"),
            ("completion_tokens_details", "reasoning_tokens"), ("prompt_tokens_details",),
            ("completion_tokens_details",),
        ),
    ),
    "messages": Dialect(
        anthropic_messages.read_reply,
        anthropic_messages.StreamReader,
        ANTHROPIC,
        [
            {"type": "message_start", "message": {**ANTHROPIC, "content": [], "stop_reason": None}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "",
                                                                          "signature": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "Eos"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "ping", "delta": 1, "message": 2, "content_block": 3},
            {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 1,
             "delta": {"type": "text_delta", "text": "Hi! My name is Claude."}},
            {"type": "content_block_stop", "index": 1},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
             "usage": ANTHROPIC["usage"]},
            {"type": "message_stop"},
        ],
        b"",
        frozenset({"type", "content", "text", "delta", "content_block"}),
        "usage",
        (("input_tokens",), ("output_tokens",), ("cache_read_input_tokens",), ("cache_creation_input_tokens",)),
        (
            ("cache_creation", "ephemeral_1h_input_tokens"), ("output_tokens_details", "thinking_tokens"),
            ("cache_creation",), ("output_tokens_details",),
        ),
    ),
    "responses": Dialect(
        openai_responses.read_reply,
        openai_responses.StreamReader,
        RESPONSE,
        [
            {"type": "response.created", "sequence_number": 0, "response": {**RESPONSE, "status": "in_progress",
                                                                            "output": [], "usage": None}},
            {"type": "response.output_item.added", "output_index": 0,
             "item": {"type": "message", "id": "msg_1", "status": "in_progress", "content": []}},
            {"type": "response.new_kind", "delta": 1, "item": 2, "message": 3, "response": 4},
            {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "item_id": "msg_1",
             "delta": "Hello", "logprobs": []},
            {"type": "response.output_item.done", "output_index": 0, "item": RESPONSE["output"][2]},
            {"type": "response.completed", "response": RESPONSE},
        ],
        b"",
        frozenset({"type", "output", "content", "text", "delta", "item", "refusal"}),
        "usage",
        (("input_tokens",), ("output_tokens",)),
        (
            ("input_tokens_details", "cached_tokens"), ("input_tokens_details", "cache_write_tokens"),
            ("output_tokens_details", "reasoning_tokens"), ("input_tokens_details",), ("output_tokens_details",),
        ),
    ),
    "gemini": Dialect(
        gemini.read_reply,
        gemini.StreamReader,
        GEMINI,
        [
            {**_GEMINI_EVENT, "candidates": [{"content": {"role": "model", "parts": [_THOUGHT]}, "index": 0}]},
            {**_GEMINI_EVENT, "candidates": [{"content": {"parts": [{"text": "Hello! How can I help?"}]}, "index": 0,
                                              "avgLogprobs": -0.1}]},
            {**_GEMINI_EVENT, "candidates": [{"content": {"role": "model", "parts": [{"text": ""}]}, "index": 0,
                                              "finishReason": "STOP", "safetyRatings": []}]},
        ],
        b"",
        frozenset({"candidates", "content", "parts", "text", "thought"}),
        "usageMetadata",
        (
            ("promptTokenCount",), ("candidatesTokenCount",), ("thoughtsTokenCount",), ("toolUsePromptTokenCount",),
        ),
        (
            ("cachedContentTokenCount",), ("promptTokensDetails",), ("candidatesTokensDetails",),
            ("promptTokensDetails", 1, "tokenCount"),
        ),
    ),
}  # fmt: skip


def side_fields(document: Any, content: frozenset[str], at: Path = ()) -> Iterator[Path]:
    """Yield the paths of all fields that do not affect the answer, at any depth."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for name, value in items:
        if isinstance(name, str) and name not in content:
            yield (*at, name)
        if isinstance(value, dict | list):
            yield from side_fields(value, content, (*at, name))


def changed(document: Any, path: Path, value: Any) -> Any:
    """Return a copy of the document with `value` at `path`."""
    document = copy.deepcopy(document)
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return document


def encoded(document: Any) -> bytes:
    """Encode JSON as vendors that use Python do: NaN is kept, surrogates are escaped."""
    return json.dumps(document).encode()


def read_stream(dialect: Dialect, events: list[dict[str, Any]]) -> tuple[Completion, bool]:
    """Read a stream; return the completion, and whether the stream is complete."""
    return read_encoded(dialect, list(map(encoded, events)))


def read_encoded(dialect: Dialect, events: list[bytes]) -> tuple[Completion, bool]:
    """Read a stream of these events, as `read_stream`."""
    reader, assembler = dialect.reader(), ReplyAssembler()
    for data in [*events, *([dialect.done] if dialect.done else [])]:
        for chunk in reader.take(Event(b"", data, b"")):
            assembler.take(chunk)
    return assembler.completion(), reader.is_done or assembler.is_finished


def text_of(completion: Completion) -> str:
    """Return the joined text of all choices."""
    parts = [part for choice in completion.choices for part in choice.parts]
    return "".join(part.text for part in parts if isinstance(part, Text | Refusal))
