"""The mock vendor's Responses API: it refuses what OpenAI refuses, and its answers have the SDK's types."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import ConfigDict, TypeAdapter

from tests.upstream import MockUpstream, completion_tokens, prompt_tokens
from tests.upstream.responses_api import ARGUMENTS, encoded_events, events, problem_in, response
from tests.upstream.test_upstream import send, status

ASKED: dict[str, Any] = {"model": "gpt-5.4", "store": False, "input": "Hi"}
USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False}
CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
REASONING = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAAmock1"}
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent, config=ConfigDict(defer_build=True))


@pytest.fixture
async def mock() -> AsyncIterator[MockUpstream]:
    async with MockUpstream() as running:
        yield running


@pytest.mark.parametrize(
    "more",
    [
        {"input": [USER, REASONING, CALL, RESULT]},
        {"input": [USER, {"role": "assistant", "content": "Yes"}, USER]},
        {"input": [USER, CALL, {**RESULT, "output": [{"type": "input_image", "image_url": "https://example.com"}]}]},
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}, "parallel_tool_calls": False},
        {"reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"]},
        {"input": "JSON, please", "text": {"format": {"type": "json_object"}, "verbosity": "low"}},
        {"model": "gpt-4o", "temperature": 0.5, "include": ["message.output_text.logprobs"], "top_logprobs": 2},
        {"stream": True, "max_output_tokens": 16, "safety_identifier": "u"},
    ],
    ids=str,
)  # fmt: skip
def test_a_valid_request_is_taken(more: dict[str, Any]) -> None:
    assert problem_in({**ASKED, **more}) is None


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"stop": ["x"]}, "stop", "unknown_parameter"),
        ({"messages": []}, "messages", "unknown_parameter"),
        ({"input": []}, "input", "missing_required_parameter"),
        ({"input": [{**USER, "name": "x"}]}, "input[0].name", "unknown_parameter"),
        ({"input": [{"type": "odd"}]}, "input[0].type", "invalid_value"),
        ({"input": [USER, {"type": "reasoning", "encrypted_content": "gAAAAAmock1"}]}, "input[1].summary",
         "missing_required_parameter"),
        ({"input": [USER, REASONING]}, "input", None),
        ({"input": [USER, {**REASONING, "encrypted_content": "x"}, CALL, RESULT]}, None, "invalid_encrypted_content"),
        ({"input": [USER, CALL]}, "input", None),
        ({"input": [USER, RESULT]}, "input", None),
        ({"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]}, "input[0].content[0]",
         "invalid_value"),
        ({"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
        ({"max_output_tokens": "16"}, "max_output_tokens", "invalid_type"),
        ({"temperature": 1.0}, "temperature", "unsupported_parameter"),
        ({"model": "gpt-4o", "reasoning": {"effort": "low"}}, "reasoning", "unsupported_parameter"),
        ({"model": "gpt-4o", "include": ["reasoning.encrypted_content"]}, "include", None),
        ({"tools": [{"type": "function", "name": "x"}]}, "tools[0].parameters", "missing_required_parameter"),
        ({"tools": [{**TOOL, "parameters": {"type": "object"}}]}, "tools[0].parameters", "invalid_function_parameters"),
        ({"text": {"format": {"type": "json_object"}}}, "input", None),
        ({"store": True}, "store", None),
        ({"input": [USER, {**CALL, "call_id": "c" * 65}, {**RESULT, "call_id": "c" * 65}]}, "input[1].call_id",
         "string_above_max_length"),
    ],
    ids=str,
)  # fmt: skip
def test_an_invalid_request_is_refused_with_its_field(
    more: dict[str, Any], param: str | None, code: str | None
) -> None:
    problem = problem_in({**ASKED, **more})
    assert problem is not None
    assert (problem.param, problem.code) == (param, code)


@pytest.mark.parametrize("model", ["gpt-5.4", "gpt-4o"])
@pytest.mark.parametrize("tools", [[], [TOOL]], ids=["text", "tool"])
@pytest.mark.parametrize("kind", ["ok", "length", "no-usage"])
def test_answers_and_events_have_the_sdks_types(model: str, tools: list[Any], kind: str) -> None:
    document = {**ASKED, "model": model, "tools": tools, "reasoning": {"summary": "auto"}}

    whole = response(kind, 1, "resp_1", document)

    Response.model_validate(whole)
    for event in events(whole):
        EVENTS.validate_python(event)
    assert encoded_events(whole).count(b"data: ") == len(events(whole))


async def test_a_response_is_billed_as_a_chat_completion_is(mock: MockUpstream) -> None:
    answer = await send(mock.port, "POST /v1/responses", msgspec.json.encode(ASKED))

    body = json.loads(answer.split(b"\r\n\r\n", 1)[1])
    assert status(answer) == 200
    assert (body["usage"]["input_tokens"], body["usage"]["output_tokens"]) == (prompt_tokens(1), completion_tokens(1))
    [call] = mock.calls
    assert (call.id, call.model, call.prompt) == (body["id"], "gpt-5.4", "Hi")


async def test_a_refused_request_is_not_billed(mock: MockUpstream) -> None:
    answer = await send(mock.port, "POST /v1/responses", msgspec.json.encode({**ASKED, "future": 1}))

    assert status(answer) == 400
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"] == {
        "message": "Unknown parameter: 'future'.", "type": "invalid_request_error", "param": "future",
        "code": "unknown_parameter",
    }  # fmt: skip
    assert mock.calls == []


async def test_the_model_calls_a_tool_once(mock: MockUpstream) -> None:
    asked = {**ASKED, "tools": [TOOL]}
    first = await send(mock.port, "POST /v1/responses", msgspec.json.encode(asked))
    then = {**asked, "input": [USER, CALL, RESULT]}
    second = await send(mock.port, "POST /v1/responses", msgspec.json.encode(then))

    [_, call] = json.loads(first.split(b"\r\n\r\n", 1)[1])["output"]
    [_, message] = json.loads(second.split(b"\r\n\r\n", 1)[1])["output"]
    assert (call["name"], call["arguments"]) == ("weather", ARGUMENTS)
    assert message["type"] == "message"


@pytest.mark.parametrize(
    ("model", "more", "expected"),
    [
        ("gpt-5-pro", {}, 404),
        ("gpt-5.4", {"tools": [{}]}, 200),
        ("gpt-5.4", {"tools": [{}], "reasoning_effort": "low"}, 400),
        ("gpt-5.4", {"tools": [{}], "reasoning_effort": "none"}, 200),
        ("gpt-5.6-sol", {"tools": [{}]}, 400),
        ("gpt-5.6-sol", {"tools": [{}], "reasoning_effort": "none"}, 200),
        ("gpt-5.6-sol", {"reasoning_effort": "low"}, 200),
    ],
)
async def test_chat_completions_refuse_what_only_responses_take(
    mock: MockUpstream, model: str, more: dict[str, Any], expected: int
) -> None:
    body = msgspec.json.encode({"model": model, "messages": [USER], **more})
    assert status(await send(mock.port, "POST /v1/chat/completions", body)) == expected
