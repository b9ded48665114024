"""Tests of requests that use every field: read by each protocol, and translated into the others."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from llm_gateway.domain.conversation import (
    Audio,
    Conversation,
    File,
    Image,
    Reasoning,
    ResponseFormat,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.contract import Unsupported

PICTURE = "data:image/png;base64,aGVsbG8="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "developer", "content": "Be brief"},
        {
            "role": "user",
            "name": "ann",
            "content": [
                {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
                {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
                {"type": "image_url", "image_url": "https://example.org/a.png"},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGVsbG8="}},
                {"type": "input_audio", "input_audio": {"data": "aGVsbG8=", "format": "wav"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Hm",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
                    "extra_content": {"google": {"thought_signature": "sig"}},
                },
                {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "wet"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}], "refusal": None},
        {"role": "user", "content": "And?"},
    ],
    "tools": [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "parallel_tool_calls": False,
    "max_completion_tokens": 50.0,
    "temperature": 1.5,
    "top_p": 0.5,
    "stop": "END",
    "n": 2,
    "seed": 7,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "top_logprobs": 3,
    "user": "u",
    "metadata": {"a": "b"},
    "service_tier": "auto",
    "reasoning_effort": "low",
    "verbosity": "low",
    "store": False,
    "prompt_cache_key": "k",
    "stream": True,
    "stream_options": {"include_usage": True},
    "audio": None,
}
MESSAGES: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 3000,
    "system": [{"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What?", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}},
                {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "aGVsbG8="},
                    "title": "a.pdf",
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": "sig"},
                {"type": "redacted_thinking", "data": "sealed"},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "down", "is_error": True},
                {"type": "text", "text": "And?"},
            ],
        },
    ],
    "tools": [{"name": "weather", "description": "d", "input_schema": SCHEMA, "strict": True}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "top_p": 0.97,
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u"},
    "service_tier": "auto",
    "thinking": {"type": "enabled", "budget_tokens": 2000},
}
RESPONSES: dict[str, Any] = {
    "model": "m",
    "instructions": "Be brief",
    "input": [
        {"role": "user", "content": "Hello"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What?"},
                {"type": "input_image", "image_url": PICTURE, "detail": "low"},
                {"type": "input_image", "file_id": "f-1"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,aGVsbG8="},
                {"type": "input_file", "file_url": "https://example.org/a.pdf"},
            ],
        },
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}], "encrypted_content": "sealed"},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "sunny"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
    ],
    "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}],
    "tool_choice": {"type": "function", "name": "weather"},
    "parallel_tool_calls": True,
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "max_output_tokens": 50,
    "top_logprobs": 2,
    "metadata": {"a": "b"},
    "include": ["reasoning.encrypted_content"],
    "store": False,
}


def test_a_chat_request_with_every_field_is_read() -> None:
    read = openai_chat.read_request(CHAT)
    found = read.conversation

    assert (read.dropped, found.cache_key) == ((), "k")
    assert [turn.role for turn in found.turns] == ["developer", "user", "assistant", "tool", "assistant", "user"]
    assert found.turns[1].name == "ann"
    assert found.turns[1].parts == [
        Text(text="What is this?", cache="1h"),
        Image(media_type="image/png", data="aGVsbG8=", detail="low"),
        Image(url="https://example.org/a.png"),
        File(name="a.pdf", media_type="application/pdf", data="aGVsbG8="),
        Audio(data="aGVsbG8=", format="wav"),
    ]
    assert found.turns[2].parts == [
        Thinking(text="Hm"),
        ToolCall(id="c1", name="weather", arguments='{"city": "Paris"}', signature="sig"),
        ToolCall(id="c2", name="weather", arguments="{}"),
    ]
    assert [part.call_id for part in found.turns[3].parts if isinstance(part, ToolResult)] == ["c1", "c2"]
    assert found.tool_choice == ToolChoice(mode="required", name="weather", parallel=False)
    assert (found.max_tokens, found.n, found.stop, found.seed) == (50, 2, ["END"], 7)
    assert (found.reasoning, found.logprobs, found.top_logprobs) == (Reasoning(effort="low"), True, 3)


def test_a_chat_request_is_rewritten_for_a_reasoning_model() -> None:
    written = openai_chat.write_request(openai_chat.read_request(CHAT).conversation, "gpt-5-mini", stream=True)

    document = written.document
    assert set(written.dropped) == {
        *("temperature", "top_p", "presence_penalty", "frequency_penalty"),
        *("metadata", "cache_control", "cache_key", "thinking"),
    }
    assert document["max_completion_tokens"] == 50
    assert (document["reasoning_effort"], document["n"], document["tool_choice"]) == ("low", 2, CHAT["tool_choice"])
    assert document["stream_options"] == {"include_usage": True}
    calls = CHAT["messages"][2]["tool_calls"]
    assert document["messages"][2]["tool_calls"] == [
        {name: value for name, value in call.items() if name != "extra_content"} for call in calls
    ]
    again = openai_chat.read_request(document).conversation
    assert again.turns[3:] == openai_chat.read_request(CHAT).conversation.turns[3:]


def simple(document: dict[str, Any], *without: str) -> Conversation:
    """Read a chat request without the fields in `without`, which other protocols cannot express."""
    left = {name: value for name, value in copy.deepcopy(document).items() if name not in without}
    return openai_chat.read_request(left).conversation


def test_a_chat_request_is_translated_for_anthropic() -> None:
    conversation = simple(CHAT, "n", "logprobs", "top_logprobs", "logit_bias")
    conversation.turns[1].parts.pop()
    written = anthropic_messages.write_request(conversation, "claude-haiku-4-5", stream=True)

    document = written.document
    assert set(written.dropped) >= {"seed", "presence_penalty", "frequency_penalty", "verbosity", "metadata"}
    assert document["system"] == "Be brief"
    assert [message["role"] for message in document["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert [block["type"] for block in document["messages"][0]["content"]] == ["text", "image", "image", "document"]
    assert document["messages"][1]["content"][0]["input"] == {"city": "Paris"}
    assert [block["tool_use_id"] for block in document["messages"][2]["content"]] == ["c1", "c2"]
    assert document["tool_choice"] == {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    assert ("thinking" in document, "reasoning" in written.dropped) == (False, True)
    assert (document["max_tokens"], document["temperature"]) == (50, 1.0)
    assert (document["stream"], document["metadata"]) == (True, {"user_id": "u"})


def test_a_chat_request_is_translated_for_gemini() -> None:
    conversation = simple(CHAT, "logprobs", "top_logprobs", "logit_bias")
    written = gemini.write_request(conversation, "gemini-2.5-pro", stream=True)

    document = written.document
    beside = {"cache_control", "detail", "name", "thinking"}
    unknown = {"verbosity", "metadata", "service_tier", "user", "parallel_tool_calls", "cache_key"}
    assert set(written.dropped) == beside | unknown
    assert document["systemInstruction"] == {"parts": [{"text": "Be brief"}]}
    assert [content["role"] for content in document["contents"]] == ["user", "model", "user", "model", "user"]
    assert document["contents"][1]["parts"][0] == {
        "functionCall": {"name": "weather", "args": {"city": "Paris"}},
        "thoughtSignature": "sig",
    }
    [first, second] = document["contents"][2]["parts"]
    assert first["functionResponse"] == {"name": "weather", "response": {"result": "sunny"}}
    assert second["functionResponse"]["response"] == {"result": "wet"}
    calling = document["toolConfig"]["functionCallingConfig"]
    assert calling == {"mode": "ANY", "allowedFunctionNames": ["weather"]}
    config = document["generationConfig"]
    assert (config["candidateCount"], config["seed"], config["stopSequences"]) == (2, 7, ["END"])
    assert config["thinkingConfig"] == {"thinkingBudget": 1024}


def test_a_messages_request_comes_back_unchanged() -> None:
    read = anthropic_messages.read_request(MESSAGES)
    written = anthropic_messages.write_request(read.conversation, "claude-haiku-4-5", stream=False)

    assert (read.dropped, written.dropped) == ((), ())
    assert written.document == MESSAGES


def test_an_agents_user_id_goes_to_no_other_vendor() -> None:
    user = f"user_{'ab' * 32}_account__session_6f2e8f0a-7b3c-4a57-8f6e-ba9876543210"
    asked = {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "metadata": {"user_id": user}}
    read = anthropic_messages.read_request(asked)
    assert (read.conversation.user, read.dropped) == (None, ("metadata.user_id",))


def test_a_messages_request_is_translated_for_openai_and_gemini() -> None:
    conversation = anthropic_messages.read_request(MESSAGES).conversation
    chat = openai_chat.write_request(conversation, "gpt-4o", stream=False)
    google = gemini.write_request(conversation, "gemini-3-pro", stream=False)

    assert [message["role"] for message in chat.document["messages"]] == ["system", "user", "assistant", "tool", "user"]
    assert {"cache_control", "top_k", "reasoning"} & set(chat.dropped) == {"cache_control", "reasoning"}
    call = google.document["contents"][1]["parts"][0]
    assert call["thoughtSignature"] == "skip_thought_signature_validator"
    assert google.document["contents"][2]["parts"][0]["functionResponse"]["response"] == {"error": "down"}


def test_a_responses_request_with_every_field_is_read() -> None:
    read = openai_responses.read_request(RESPONSES)
    found = read.conversation

    assert read.dropped == ("include",)
    assert [turn.role for turn in found.turns] == ["system", "user", "user", "assistant", "tool", "assistant"]
    assert found.turns[3].parts == [
        Thinking(text="Hm", redacted="gwr1.sealed"),
        ToolCall(id="c1", name="weather", arguments="{}"),
    ]
    assert found.format == ResponseFormat(name="n", schema=SCHEMA, strict=True)
    assert found.reasoning == Reasoning(effort="low", summary="auto", show=True)
    assert (found.max_tokens, found.logprobs, found.verbosity) == (50, True, "low")
    files = [part.file_id for part in found.turns[2].parts if isinstance(part, Image)]
    assert files == [None, "f-1"]
    with pytest.raises(Unsupported, match="stored at another vendor"):
        openai_chat.write_request(found, "gpt-4o", stream=False)


ASKS = [Turn(role="user", parts=[Text(text="x")])]


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "claude-opus-5-5"])
def test_json_answers_of_anthropic_are_the_input_of_a_tool(model: str) -> None:
    conversation = Conversation(turns=ASKS, format=ResponseFormat(schema=SCHEMA), temperature=0.5, reasoning=None)
    written = anthropic_messages.write_request(conversation, model, stream=False)

    [tool] = written.document["tools"]
    assert (tool["name"], tool["input_schema"]) == ("json_answer", SCHEMA)
    is_older = model == "claude-haiku-4-5"
    assert written.document["tool_choice"]["type"] == ("tool" if is_older else "auto")
    assert ("temperature" in written.document, written.dropped) == (is_older, () if is_older else ("temperature",))


def test_a_forced_tool_replaces_the_json_tool_at_anthropic() -> None:
    """Instructor sends both a forced tool and a format; the call follows the tool's schema, so the format is moot."""
    conversation = Conversation(turns=ASKS, format=ResponseFormat(schema=SCHEMA), tools=[Tool(name="weather")])
    conversation.tool_choice = ToolChoice(mode="required", name="weather")
    document = anthropic_messages.write_request(conversation, "claude-haiku-4-5", stream=False).document

    assert [tool["name"] for tool in document["tools"]] == ["weather"]
    assert document["tool_choice"] == {"type": "tool", "name": "weather"}


@pytest.mark.parametrize(
    ("mode", "model", "choice"),
    [
        (None, "claude-haiku-4-5", {"type": "any", "disable_parallel_tool_use": True}),
        ("auto", "claude-haiku-4-5", {"type": "any", "disable_parallel_tool_use": True}),
        ("none", "claude-haiku-4-5", {"type": "tool", "name": "json_answer"}),
    ],
)
def test_the_json_tool_is_added_to_the_clients_tools_at_anthropic(mode: Any, model: str, choice: object) -> None:
    """An agent may call tools before its last answer, which is JSON: the answer becomes one more tool."""
    conversation = Conversation(turns=ASKS, format=ResponseFormat(schema=SCHEMA), tools=[Tool(name="weather")])
    conversation.tool_choice = None if mode is None else ToolChoice(mode=mode)

    document = anthropic_messages.write_request(conversation, model, stream=False).document

    assert [tool["name"] for tool in document["tools"]] == ["weather", "json_answer"]
    assert document["tool_choice"] == choice


@pytest.mark.parametrize(
    ("reasoning", "model", "expected"),
    [
        (Reasoning(effort="none"), "claude-haiku-4-5", {"thinking": {"type": "disabled"}}),
        (Reasoning(), "claude-opus-5-5", {"thinking": {"type": "adaptive"}}),
        (
            Reasoning(effort="high"),
            "claude-opus-5-5",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        ),
    ],
)
def test_reasoning_is_translated_for_anthropic(reasoning: Reasoning, model: str, expected: dict[str, Any]) -> None:
    document = anthropic_messages.write_request(
        Conversation(turns=ASKS, reasoning=reasoning), model, stream=False
    ).document

    assert {name: document[name] for name in expected} == expected


def test_json_is_requested_in_a_message_if_the_vendor_has_no_json_mode() -> None:
    conversation = Conversation(turns=ASKS, format=ResponseFormat())

    plain = openai_chat.write_request(conversation, "m", stream=False, has_json_mode=False).document
    native = openai_chat.write_request(conversation, "m", stream=False).document
    assert "response_format" not in plain
    assert native["response_format"] == {"type": "json_object"}
    assert plain["messages"][0] == {"role": "system", "content": "Answer with a single JSON object."}
    assert gemini.write_request(conversation, "m", stream=False).document["generationConfig"] == {
        "responseMimeType": "application/json"
    }
