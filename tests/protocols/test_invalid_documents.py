"""Tests of invalid requests: every reader accepts one or refuses it with the field's name, and raises nothing else.

The requests below have every field that their API documents. The tests replace the value of each field, at any depth,
by an invalid one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
import pytest

from llm_gateway.domain.conversation import Conversation
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.contract import Unreadable, Unsupported
from tests.protocols.vendor_replies import Path, changed
from tests.rows import each_row

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
PIXEL = "data:image/png;base64,aGVsbG8="
PDF = "data:application/pdf;base64,JVBERi0="

# https://platform.openai.com/docs/api-reference/chat/create
CHAT: dict[str, Any] = {
    "model": "m", "stream": False, "max_completion_tokens": 5, "temperature": 1, "top_p": 0.5, "top_k": 3, "n": 1,
    "stop": ["a"], "seed": 1, "presence_penalty": 1, "frequency_penalty": -1, "logit_bias": {"1": 1}, "logprobs": True,
    "top_logprobs": 2, "reasoning_effort": "low", "verbosity": "low", "user": "u", "metadata": {"a": "b"},
    "service_tier": "auto", "store": True, "modalities": ["text"], "parallel_tool_calls": True,
    "response_format": {"type": "json_schema",
                        "json_schema": {"name": "n", "schema": SCHEMA, "description": "d", "strict": True}},
    "tools": [{"type": "function",
               "function": {"name": "t", "description": "d", "parameters": SCHEMA, "strict": True}}],
    "tool_choice": {"type": "function", "function": {"name": "t"}},
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "name": "u", "content": [
            {"type": "text", "text": "x"},
            {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
            {"type": "file", "file": {"filename": "f", "file_data": PDF}},
        ]},
        {"role": "assistant", "content": "y", "reasoning_content": "r", "refusal": "n", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "t", "arguments": "{}"},
             "extra_content": {"google": {"thought_signature": "s"}}},
        ]},
        {"role": "tool", "tool_call_id": "1", "content": "z"},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "eA==", "format": "wav"}}]},
    ],
}  # fmt: skip

# https://platform.claude.com/docs/en/api/messages/create
MESSAGES: dict[str, Any] = {
    "model": "m", "stream": False, "max_tokens": 5000, "temperature": 1, "top_p": 0.5, "top_k": 3,
    "stop_sequences": ["a"], "metadata": {"user_id": "u"}, "service_tier": "auto",
    "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "summarized"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "tools": [{"type": "custom", "name": "t", "description": "d", "input_schema": SCHEMA, "strict": True,
               "cache_control": {"type": "ephemeral"}}],
    "tool_choice": {"type": "tool", "name": "t", "disable_parallel_tool_use": True},
    "messages": [
        {"role": "user", "content": [
            {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}},
            {"type": "document", "title": "f", "citations": {"enabled": False},
             "source": {"type": "base64", "media_type": "application/pdf", "data": "eA=="}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "eA=="}},
            {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": "x"}]},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "h", "signature": "s"},
            {"type": "redacted_thinking", "data": "d"},
            {"type": "text", "text": "y"},
            {"type": "tool_use", "id": "1", "name": "t", "input": {"a": 1}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "1", "is_error": True, "content": [{"type": "text", "text": "z"}]},
            {"type": "text", "text": "x"},
        ]},
    ],
}  # fmt: skip

# https://platform.openai.com/docs/api-reference/responses/create
RESPONSES: dict[str, Any] = {
    "model": "m", "stream": False, "instructions": "s", "max_output_tokens": 5, "temperature": 1, "top_p": 0.5,
    "top_logprobs": 2, "user": "u", "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True,
    "safety_identifier": "u", "truncation": "disabled", "store": False, "include": ["reasoning.encrypted_content"],
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}},
    "tools": [{"type": "function", "name": "t", "description": "d", "parameters": SCHEMA, "strict": True}],
    "tool_choice": {"type": "function", "name": "t"},
    "input": [
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "x"},
            {"type": "input_image", "image_url": PIXEL, "detail": "low"},
            {"type": "input_file", "filename": "f", "file_data": PDF},
        ]},
        {"type": "reasoning", "id": "rs", "encrypted_content": "gw1.e30=",
         "summary": [{"type": "summary_text", "text": "h"}]},
        {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "y"}, {"type": "refusal", "refusal": "n"},
        ]},
        {"type": "function_call", "call_id": "1", "name": "t", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "z"}]},
    ],
}  # fmt: skip


class Api(NamedTuple):
    """A client's API, a request with all of its fields, and the least number of values in the request."""

    protocol: ModuleType
    document: dict[str, Any]
    places: int


APIS = {
    "chat": Api(openai_chat, CHAT, 90),
    "messages": Api(anthropic_messages, MESSAGES, 80),
    "responses": Api(openai_responses, RESPONSES, 70),
}
ODD: list[Any] = [
    None, True, False, 0, -1, 5, 10**30, 1.5, 1e300, "", "odd", "\0", [], [None], [5], ["x"], [[]], [{}], {}, {"a": 1},
    {"type": 5}, {"type": "odd"}, [{"type": None}],
]  # fmt: skip
WRITERS = [
    (openai_chat, "gpt-4o"),
    (openai_responses, "gpt-5.2"),
    (anthropic_messages, "claude-haiku-4-5"),
    (gemini, "gemini-2.5-pro"),
]


def places(document: Any, at: Path = ()) -> Iterator[Path]:
    """Yield the path of every value in a document."""
    for name, value in document.items() if isinstance(document, dict) else enumerate(document):
        yield (*at, name)
        if isinstance(value, dict | list):
            yield from places(value, (*at, name))


def written_everywhere(conversation: Conversation) -> None:
    """Write the conversation in every dialect that can express it, as the bytes that would be sent."""
    for dialect, model in WRITERS:
        with suppress(Unsupported):
            msgspec.json.encode(dialect.write_request(conversation, model, stream=True).document)


def refused_field(api: Api, document: dict[str, Any]) -> str | None:
    """Return the field for which the document is refused; None if it could be read, and written in every dialect."""
    try:
        read = api.protocol.read_request(document)
    except (Unreadable, Unsupported) as refused:
        return refused.field
    written_everywhere(read.conversation)
    return None


@pytest.mark.parametrize("name", APIS)
def test_the_document_with_every_field_is_read_and_written(name: str) -> None:
    api = APIS[name]
    assert len(list(places(api.document))) >= api.places

    read = api.protocol.read_request(api.document)

    assert set(read.dropped) <= {"store", "include"}
    written_everywhere(read.conversation)


@each_row("odd", ODD)
@each_row("name", APIS)
def test_an_invalid_value_is_read_or_refused_with_its_field(name: str, odd: Any) -> None:
    api = APIS[name]
    for path in places(api.document):
        document = msgspec.json.decode(msgspec.json.encode(changed(api.document, path, odd)))
        field = refused_field(api, document)
        assert field is None or field.split(".")[0].split("[")[0] in api.document, (path, field)


@pytest.mark.parametrize("name", APIS)
def test_a_request_without_one_of_its_fields_is_read_or_refused_with_a_field(name: str) -> None:
    api = APIS[name]
    for path in places(api.document):
        without = changed(api.document, path, None)
        parent: Any = without
        for step in path[:-1]:
            parent = parent[step]
        del parent[path[-1]]
        field = refused_field(api, without)
        assert field is None or field.split(".")[0].split("[")[0] in api.document, (path, field)


@pytest.mark.parametrize("name", APIS)
def test_null_counts_as_absent(name: str) -> None:
    """SDKs of typed languages send null for fields that are not set."""
    api = APIS[name]
    for field in api.document:
        absent = {key: value for key, value in api.document.items() if key != field}
        missing = refused_field(api, absent)
        assert refused_field(api, {**absent, field: None}) == missing, field
        if missing is None:
            assert api.protocol.read_request({**absent, field: None}) == api.protocol.read_request(absent), field


@pytest.mark.parametrize("name", APIS)
def test_an_unknown_field_is_dropped_and_named_unless_it_is_empty(name: str) -> None:
    api = APIS[name]
    expected = api.protocol.read_request(api.document)
    empty: list[Any] = [None, [], {}]
    for value in empty:
        assert api.protocol.read_request({**api.document, "future_field": value}) == expected
    for value in (1, False, "x", ["x"], {"a": 1}):
        found = api.protocol.read_request({**api.document, "future_field": value})
        assert found.conversation == expected.conversation
        assert set(found.dropped) == {*expected.dropped, "future_field"}
