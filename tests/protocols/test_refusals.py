"""Tests of refused requests: invalid or untranslatable ones are refused with the name of the field."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from llm_gateway.domain.conversation import Audio, Conversation, File, Image, Text, ToolResult, Turn
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.contract import Unreadable, Unsupported
from tests.rows import each_row

USER = {"role": "user", "content": "x"}
UNREADABLE: list[tuple[ModuleType, dict[str, Any], str]] = [
    (openai_chat, {"messages": "x"}, "messages"),
    (openai_chat, {"messages": [5]}, "messages[0]"),
    (openai_chat, {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    (openai_chat, {"messages": [USER], "temperature": 3}, "temperature"),
    (openai_chat, {"messages": [USER], "max_tokens": 0}, "max_tokens"),
    (openai_chat, {"messages": [USER], "max_tokens": "many"}, "max_tokens"),
    (openai_chat, {"messages": [USER], "stop": [5]}, "stop"),
    (openai_chat, {"messages": [USER], "n": 500}, "n"),
    (openai_chat, {"messages": [USER], "logit_bias": {"1": "x"}}, "logit_bias"),
    (openai_chat, {"messages": [USER], "metadata": {"a": 1}}, "metadata"),
    (openai_chat, {"messages": [USER], "response_format": {}}, "response_format.type"),
    (openai_chat, {"messages": [USER], "response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (openai_chat, {"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].name"),
    (openai_chat, {"messages": [USER], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
        "mode": "auto", "tools": [{"type": "function", "function": {"name": "t"}}]}}},
     "tool_choice.allowed_tools.tools"),
    (openai_chat, {"messages": [USER], "logprobs": "yes"}, "logprobs"),
    (openai_chat, {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "x"}}]}]},
     "messages[0].content[0].file.file_data"),
    (anthropic_messages, {"messages": [USER]}, "max_tokens"),
    (anthropic_messages, {"max_tokens": 5, "messages": []}, "messages"),
    (anthropic_messages, {"max_tokens": 5, "messages": [{"role": "system", "content": [{"type": "image", "source": {
        "type": "url", "url": "u"}}]}]}, "messages[0].content"),
    (anthropic_messages, {"max_tokens": 5, "messages": [USER], "tool_choice": {}}, "tool_choice.type"),
    (anthropic_messages, {"max_tokens": 5, "messages": [{"role": "user"}]}, "messages[0].content"),
    (anthropic_messages, {"max_tokens": 5, "messages": [USER], "system": [{"type": "image"}]}, "system[0].type"),
    (anthropic_messages, {"max_tokens": 5, "messages": [USER], "temperature": 1.5}, "temperature"),
    (openai_responses, {}, "input"),
    (openai_responses, {"input": [{"content": "x"}]}, "input[0].role"),
    (openai_responses, {"input": "x", "text": {"format": {}}}, "text.format.type"),
    (openai_responses, {"input": "x", "truncation": 5}, "truncation"),
    (openai_responses, {"input": [{"type": "function_call", "name": "x"}]}, "input[0].call_id"),
    (openai_responses, {"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "x"}]}]},
     "input[0].content[0].file_data"),
]  # fmt: skip


@each_row(("protocol", "document", "field"), UNREADABLE)
def test_an_invalid_request_is_refused_with_the_field(
    protocol: ModuleType, document: dict[str, Any], field: str
) -> None:
    with pytest.raises(Unreadable) as refused:
        protocol.read_request({"model": "m", **document})

    assert refused.value.field == field
    assert refused.value.message.endswith(".")


UNSUPPORTED: list[tuple[ModuleType, dict[str, Any], str]] = [
    (openai_chat, {"messages": [USER], "web_search_options": {"user_location": None}}, "web_search_options"),
    (openai_chat, {"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    (openai_chat, {"messages": [USER], "response_format": {"type": "xml"}}, "response_format.type"),
    (openai_chat, {"messages": [USER], "reasoning_effort": "bogus"}, "reasoning_effort"),
    (openai_chat, {"messages": [USER], "thinking": {"type": "bogus"}}, "thinking.type"),
    (openai_chat, {"messages": [USER], "modalities": ["audio"]}, "modalities"),
    (openai_chat, {"messages": [USER], "tools": [{"type": "web_search"}]}, "tools[0].type"),
    (openai_chat, {"messages": [USER], "tool_choice": {"type": "custom", "custom": {"name": "t"}}}, "tool_choice"),
    (openai_chat, {"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type"),
    (openai_chat, {"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0]"),
    (openai_chat, {"messages": [{"role": "assistant", "tool_calls": [{"type": "custom"}]}]},
     "messages[0].tool_calls[0].type"),
    (anthropic_messages, {"max_tokens": 5, "messages": [USER], "container": "c"}, "container"),
    (anthropic_messages, {"max_tokens": 5, "messages": [USER], "tool_choice": {"type": "x"}}, "tool_choice.type"),
    (anthropic_messages, {"max_tokens": 5, "messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    (anthropic_messages, {"max_tokens": 5, "messages": [USER], "tools": [{"type": "bash_1"}]}, "tools[0].type"),
    (anthropic_messages, {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "server_tool_use"}]}]},
     "messages[0].content[0].type"),
    (openai_responses, {"input": "x", "previous_response_id": "r"}, "previous_response_id"),
    (openai_responses, {"input": "x", "background": True}, "background"),
    (openai_responses, {"input": "x", "store": True}, "store"),
    (openai_responses, {"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
    (openai_responses, {"input": [{"type": "item_reference", "id": "i"}]}, "input[0].type"),
    (openai_responses, {"input": [{"type": None, "id": "i"}]}, "input[0].id"),
    (openai_responses, {"input": [{"id": "i"}]}, "input[0].id"),
    (openai_responses, {"input": "x", "tool_choice": {"type": "mcp"}}, "tool_choice"),
    (openai_responses, {"input": "x", "plugins": [{"id": "web"}]}, "plugins"),
    (openai_responses, {"input": "x", "stop": "END"}, "stop"),
    (openai_responses, {"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
    (openai_responses, {"input": "x", "text": {"format": {"type": "xml"}}}, "text.format.type"),
    (openai_responses, {"input": "x", "truncation": "odd"}, "truncation"),
]  # fmt: skip


@each_row(("protocol", "document", "field"), UNSUPPORTED)
def test_a_feature_of_one_vendor_is_refused_with_the_field(
    protocol: ModuleType, document: dict[str, Any], field: str
) -> None:
    with pytest.raises(Unsupported) as refused:
        protocol.read_request({"model": "m", **document})

    assert refused.value.field == field


ASKS = [Turn(role="user", parts=[Text(text="x")])]
HEARD = [Turn(role="user", parts=[Audio(data="x", format="wav")])]
LOST = [Turn(role="tool", parts=[ToolResult(call_id="9", content=[Text(text="x")])])]
INEXPRESSIBLE: list[tuple[ModuleType, dict[str, Any], str]] = [
    (anthropic_messages, {"n": 2}, "n"),
    (anthropic_messages, {"logprobs": True}, "logprobs"),
    (anthropic_messages, {"logit_bias": {"1": 1.0}}, "logit_bias"),
    (anthropic_messages, {"stop": [" "]}, "stop"),
    (anthropic_messages, {"turns": HEARD}, "audio"),
    (anthropic_messages, {"turns": [Turn(role="system", parts=[Text(text=" ")])]}, "messages"),
    (gemini, {"logit_bias": {"1": 1.0}}, "logit_bias"),
    (gemini, {"stop": list("abcdef")}, "stop"),
    (gemini, {"turns": LOST}, "messages"),
    (gemini, {"turns": [Turn(role="user", parts=[Image(file_id="f")])]}, "image"),
    (openai_chat, {"stop": list("abcde")}, "stop"),
    (openai_chat, {"turns": [Turn(role="user", parts=[File(url="u")])]}, "file"),
]  # fmt: skip


@pytest.mark.parametrize(("protocol", "changes", "field"), INEXPRESSIBLE, ids=lambda part: str(part)[:40])
def test_a_feature_that_the_providers_protocol_lacks_is_refused_with_the_field(
    protocol: ModuleType, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(Unsupported) as refused:
        protocol.write_request(Conversation(**{"turns": ASKS, **changes}), "m", stream=False)

    assert refused.value.field == field
