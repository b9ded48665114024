"""An unknown field is dropped and named wherever it stands in a request: at each object of each client protocol."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from llm_gateway.protocols.registry import PROTOCOLS
from tests.protocols.test_invalid_documents import CHAT, MESSAGES, PDF, PIXEL, RESPONSES, SCHEMA
from tests.protocols.vendor_replies import Path, changed

ASKED = {"role": "user", "content": "?"}
FUNCTION = {"name": "t", "description": "d", "parameters": SCHEMA}
LEGACY: dict[str, Any] = {
    "functions": [FUNCTION],
    "function_call": {"name": "t"},
    "thinking": {"type": "enabled", "budget_tokens": 99},
    "reasoning": {"effort": "low", "exclude": False, "enabled": True},
    "messages": [
        ASKED,
        {"role": "assistant", "content": None, "function_call": {"name": "t", "arguments": "{}"}},
        {"role": "function", "name": "t", "content": [{"type": "text", "text": "z"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "n"}]},
    ],
}
ALLOWED: dict[str, Any] = {
    "messages": [ASKED],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "t"}}]},
    },
}
BLOCKS = {
    "max_tokens": 5,
    "messages": [
        ASKED,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "t", "input": {}}]},
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "1",
                    "content": [
                        {"type": "image", "source": {"type": "url", "url": "https://a.example/a.png"}},
                        {"type": "document", "source": {"type": "url", "url": "https://a.example/a.pdf"}},
                        {"type": "search_result", "title": "t", "content": [{"type": "text", "text": "x"}]},
                    ],
                }
            ],
        },
    ],
}
ITEMS: dict[str, Any] = {
    "tools": [
        {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "t", "parameters": SCHEMA}]},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "c"}]},
    "input": [
        ASKED,
        {"type": "custom_tool_call", "id": "i", "call_id": "1", "name": "c", "input": "x", "status": "completed"},
        {"type": "custom_tool_call_output", "call_id": "1", "output": [{"type": "input_image", "image_url": PIXEL}]},
        {"type": "function_call", "call_id": "2", "name": "t", "namespace": "n", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_file", "file_data": PDF}]},
        {"type": "message", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "y", "annotations": [], "logprobs": []}]},
    ],
}  # fmt: skip
GOOGLE: dict[str, Any] = {
    "systemInstruction": {"parts": [{"text": "s"}]},
    "generationConfig": {"maxOutputTokens": 5, "thinkingConfig": {"includeThoughts": True}},
    "tools": [{"functionDeclarations": [FUNCTION]}],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["t"]}},
    "contents": [
        {"role": "user", "parts": [
            {"text": "x"},
            {"inlineData": {"mimeType": "image/png", "data": "eA==", "displayName": "d"}},
            {"fileData": {"mimeType": "application/pdf", "fileUri": "https://a.example/a.pdf"}},
        ]},
        {"role": "model", "parts": [
            {"text": "h", "thought": True}, {"functionCall": {"id": "1", "name": "t", "args": {"a": 1}}},
        ]},
        {"role": "user", "parts": [
            {"functionResponse": {"id": "1", "name": "t", "response": {"a": 1},
                                  "parts": [{"inlineData": {"mimeType": "image/png", "data": "eA=="}}]}},
        ]},
    ],
}  # fmt: skip
DOCUMENTS = {
    "chat": ("openai_chat", CHAT),
    "chat, legacy": ("openai_chat", LEGACY),
    "chat, allowed tools": ("openai_chat", ALLOWED),
    "messages": ("anthropic_messages", MESSAGES),
    "messages, results": ("anthropic_messages", BLOCKS),
    "responses": ("openai_responses", RESPONSES),
    "responses, items": ("openai_responses", ITEMS),
    "gemini": ("gemini_content", GOOGLE),
}
EACH = pytest.mark.parametrize("name", list(DOCUMENTS))
OF_THE_CLIENT = frozenset(
    {"schema", "parameters", "input_schema", "args", "response", "logit_bias", "properties"}
    | {"cache_control", "extra_content", "annotations", "logprobs"}
)
"""Fields whose objects belong to the client, or are repeated as a whole."""


def objects_in(value: Any, at: Path = ()) -> Iterator[Path]:
    """Yield the path of every object that a protocol defines, below the top level."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        is_arguments = key == "input" and isinstance(inner, dict)
        is_labels = key == "metadata" and "user_id" not in inner
        if not isinstance(inner, dict | list) or key in OF_THE_CLIENT or is_arguments or is_labels:
            continue
        if isinstance(inner, dict):
            yield (*at, key)
        yield from objects_in(inner, (*at, key))


def at(document: Any, path: Path) -> Any:
    for step in path:
        document = document[step]
    return document


@EACH
def test_an_unknown_field_of_any_object_is_dropped_and_named(name: str) -> None:
    protocol, document = DOCUMENTS[name]
    read = PROTOCOLS[protocol].read_request
    expected = read(copy.deepcopy(document))
    paths = list(objects_in(document))
    assert len(paths) >= 7

    for path in paths:
        if protocol == "gemini_content" and path == ("tools", 0):
            continue  # an unknown kind of tool: the request means something else without it
        given = changed(document, path, {**at(document, path), "future": "x"})
        found = read(copy.deepcopy(given))
        new = set(found.dropped) - set(expected.dropped)
        assert [field.rpartition(".")[2] for field in new] == ["future"], path
        assert found.conversation == expected.conversation, path


@EACH
def test_an_empty_unknown_field_is_not_worth_a_word(name: str) -> None:
    protocol, document = DOCUMENTS[name]
    read = PROTOCOLS[protocol].read_request
    expected = read(copy.deepcopy(document))

    for path in objects_in(document):
        empties: list[Any] = [None, [], {}]
        for empty in empties:
            given = changed(document, path, {**at(document, path), "future": empty})
            if protocol == "gemini_content" and path == ("tools", 0) and empty is not None:
                continue
            assert read(copy.deepcopy(given)) == expected, path


def test_the_path_of_a_field_names_the_objects_around_it() -> None:
    read = PROTOCOLS["openai_responses"].read_request
    part = {"type": "input_text", "text": "?", "prompt_cache_breakpoint": True}

    found = read({"input": [{"role": "user", "phase": "commentary", "content": [part, part]}]})

    assert found.dropped == ("input.content.prompt_cache_breakpoint", "input.phase")
