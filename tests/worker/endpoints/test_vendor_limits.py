"""Requests that a vendor would refuse, through the whole gateway, to a mock that refuses what this vendor refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from tests.application.driver import Client, Response
from tests.upstream import MockUpstream
from tests.upstream.vendor_limits import refusal_of

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
THOUGHTFUL = [*HELLO, {"role": "assistant", "content": "Hm", "reasoning_content": "Let me think"}, *HELLO]
LONG_NAME = "mcp__" + "x" * 70
TOOL = {"type": "function", "function": {"name": LONG_NAME, "parameters": {"type": "object"}}}


@asynccontextmanager
async def vendor(client: Client, name: str, model: str, priority: int = 10) -> AsyncIterator[MockUpstream]:
    """Configure a provider with a vendor's name, and run a mock of that vendor."""
    async with MockUpstream(refuse=partial(refusal_of, name)) as mock:
        account = {"name": name, "display_name": name, "kind": "openai", "api_key": "key-0123456789"}
        body = {**account, "base_url": mock.base_url, "models": [model], "priority": priority}
        made = await client.call("POST", "/api/v1/providers", body)
        assert made.status == 201, made.json
        yield mock


async def chat(client: Client, **fields: Any) -> Response:
    return await client.call("POST", "/v1/chat/completions", {"model": "auto", "messages": HELLO, **fields})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "model", "fields", "dropped"),
    [
        ("groq", "llama-4", {"messages": THOUGHTFUL}, "reasoning_content"),
        (
            "mistral",
            "mistral-large",
            {"messages": THOUGHTFUL, "max_completion_tokens": 9, "seed": 5},
            "reasoning_content",
        ),
        ("deepseek", "deepseek-v4-pro", {"messages": [{"role": "developer", "content": "Hi"}]}, None),
        ("openai", "gpt-5", {"max_tokens": 9, "temperature": 0.5}, "temperature"),
        ("openai", "gpt-4o", {"tools": [TOOL], "user": "u" * 65}, None),
        ("xai", "grok-4", {"presence_penalty": 1, "reasoning_effort": "high"}, "presence_penalty, reasoning_effort"),
        ("cerebras", "gpt-oss-120b", {"reasoning_effort": "xhigh"}, "reasoning_effort"),
    ],
    ids=str,
)
async def test_a_request_that_passes_through_is_fitted_to_the_vendor(
    client: Client, name: str, model: str, fields: dict[str, Any], dropped: str | None, stream: bool
) -> None:
    async with vendor(client, name, model) as mock:
        answer = await chat(client, stream=stream, **fields)

        assert answer.status == 200, answer.json
        assert answer.headers.get("x-gateway-dropped") == dropped
        assert len(mock.calls) == 1


async def test_a_vendor_that_cannot_serve_a_field_is_passed_over_and_refused_only_if_none_is_left(
    client: Client,
) -> None:
    async with vendor(client, "groq", "llama-4", priority=20) as groq:
        alone = await chat(client, logprobs=True)
        async with vendor(client, "together", "llama-4") as together:
            answer = await chat(client, logprobs=True)

            assert (alone.status, alone.json["error"]["param"]) == (400, "logprobs")
            assert (answer.status, answer.headers["x-gateway-provider"]) == (200, "together")
            assert (len(groq.calls), len(together.calls)) == (0, 1)


async def test_fields_of_claude_code_are_dropped_and_named_for_other_vendors(client: Client) -> None:
    document = {
        "model": "auto",
        "max_tokens": 9,
        "messages": [*HELLO, {"role": "system", "content": "Be brief"}],
        "context_management": {"edits": []},
        "client_metadata": {"a": "b"},
    }
    async with vendor(client, "openai", "gpt-4o") as mock:
        answer = await client.call("POST", "/v1/messages", document)

        assert answer.status == 200, answer.json
        assert answer.headers["x-gateway-dropped"] == "context_management, client_metadata"
        assert [message["role"] for message in mock.calls[0].json["messages"]] == ["user", "system"]


async def test_an_unknown_value_passes_a_provider_over_and_is_a_400_only_if_none_is_left(client: Client) -> None:
    document = {"model": "auto", "max_tokens": 9, "messages": HELLO, "thinking": {"type": "sometimes"}}
    async with vendor(client, "openai", "gpt-4o"):
        answer = await client.call("POST", "/v1/messages", document)

        assert answer.status == 400
        assert "thinking.type: 'sometimes' is not known here" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"input": [{"role": "critic", "content": "Hi"}]}, "input[0].role"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"truncation": "middle"}, "truncation"),
    ],
)
async def test_a_value_that_only_the_vendor_knows_reaches_one_that_speaks_responses(
    client: Client, fields: dict[str, Any], field: str
) -> None:
    document = {"model": "gpt-5.2", "input": "Hi", **fields}
    async with vendor(client, "groq", "gpt-5.2", priority=20) as groq:
        alone = await client.call("POST", "/v1/responses", document)
        async with vendor(client, "openai", "gpt-5.2"):
            answer = await client.call("POST", "/v1/responses", document)

            assert (alone.status, alone.json["error"]["param"]) == (400, field)
            assert "is not known here" in alone.json["error"]["message"]
            assert answer.headers["x-gateway-provider"] == "openai", "its refusal is the answer"
            assert groq.calls == []


@pytest.mark.parametrize(("thinking", "sent"), [("Let me look", "Let me look"), ("", " ")])
async def test_thoughts_of_claude_code_go_back_to_deepseek_with_their_tool_calls(
    client: Client, thinking: str, sent: str
) -> None:
    """DeepSeek refuses a second turn without `reasoning_content`; a blank stands for thoughts of another vendor."""
    blocks: list[dict[str, Any]] = [{"type": "thinking", "thinking": thinking, "signature": ""}]
    call = {"type": "tool_use", "id": "call_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": "a tree"}
    messages = [*HELLO, {"role": "assistant", "content": [*blocks, call]}, {"role": "user", "content": [result]}]
    async with vendor(client, "deepseek", "deepseek-v4-pro") as mock:
        answer = await client.call("POST", "/v1/messages", {"model": "auto", "max_tokens": 9, "messages": messages})

        assert answer.status == 200, answer.json
        assert mock.calls[0].json["messages"][1]["reasoning_content"] == sent


async def test_a_result_that_a_client_repeats_reaches_the_vendor_once(client: Client) -> None:
    """Gemini CLI sends each result twice when it resumes a session."""
    call = {"functionCall": {"id": "call_1", "name": "look", "args": {}}}
    result = {"functionResponse": {"id": "call_1", "name": "look", "response": {"output": "a tree"}}}
    contents = [
        {"role": "user", "parts": [{"text": "Hi"}]},
        {"role": "model", "parts": [call]},
        {"role": "user", "parts": [result, result]},
    ]
    async with vendor(client, "openai", "gpt-4o") as mock:
        answer = await client.call("POST", "/v1beta/models/gpt-4o:generateContent", {"contents": contents})

        assert answer.status == 200, answer.json
        assert [message["role"] for message in mock.calls[0].json["messages"]] == ["user", "assistant", "tool"]


UNKNOWN = {str(number) + "\N{FULL MOON SYMBOL}" * 300: 1 for number in range(200)}
TEXT = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/v1/messages", {"max_tokens": 9, "messages": [TEXT | UNKNOWN], **UNKNOWN}),
        ("/v1/responses", {"input": [TEXT | UNKNOWN], **UNKNOWN}),
        ("/v1beta/models/auto", {"contents": [{"role": "user", "parts": [{"text": "Hi"}], **UNKNOWN}], **UNKNOWN}),
    ],
)
async def test_many_long_names_of_dropped_fields_leave_the_headers_small(
    client: Client, path: str, document: dict[str, Any], stream: bool
) -> None:
    """Node.js takes 16 KiB of headers, and a refused answer is bought all the same."""
    document = {**document, "model": "auto"}
    if path.startswith("/v1beta"):
        path += ":streamGenerateContent" if stream else ":generateContent"
    else:
        document["stream"] = stream
    async with vendor(client, "groq", "llama-4"):
        answer = await client.call("POST", path, document)

    assert answer.status == 200, answer.json
    assert "more" in answer.headers["x-gateway-dropped"]
    assert sum(len(name) + len(value) + 4 for name, value in answer.headers.items()) < 16_000
