"""An account that speaks OpenAI's Responses API answers every API for clients, whole and streamed, with tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from llmock.pytest_plugin import LLMock

from tests.e2e.process import KEY, GatewayProcess
from tests.e2e.test_dialects import MODELS
from tests.e2e.test_surfaces import TEXT, Chat, Client, Content, Messages, Responses, booked
from tests.upstream import Call, UpstreamProcess, completion_tokens, prompt_tokens

SURFACES = pytest.mark.parametrize("surface", [Chat, Responses, Messages, Content])
WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
RESPONSES, BOTH = ["openai_responses"], ["openai_chat", "openai_responses"]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture
def account(gateway: GatewayProcess, mock: UpstreamProcess) -> str:
    """Configure an account of the strict mock that speaks only the Responses API; return its name."""
    gateway.provider("only", mock.base_url, "gpt-5.4", protocols=RESPONSES)
    return "only"


def last_call(mock: UpstreamProcess) -> Call:
    return mock.seen().calls[-1]


@SURFACES
@WAYS
def test_another_mocks_answer_is_returned_and_counted(
    gateway: GatewayProcess, llmock: LLMock, surface: Callable[[GatewayProcess], Client], stream: bool
) -> None:
    gateway.provider("theirs", llmock.base_url("openai"), MODELS["openai"], protocols=RESPONSES)
    llmock.reply(TEXT)
    client, before = surface(gateway), booked(gateway, "theirs")

    told = client.stream() if stream else client.text()

    assert told == (TEXT, told[1], 10)
    assert "input" in llmock.requests[0].body
    assert booked(gateway, "theirs")[1] - before[1] == told[1] + told[2]
    llmock.assert_resilient(strict=True)


@SURFACES
@WAYS
def test_the_vendor_takes_the_request_and_its_tokens_are_exact(
    gateway: GatewayProcess,
    mock: UpstreamProcess,
    account: str,
    surface: Callable[[GatewayProcess], Client],
    stream: bool,
) -> None:
    before = booked(gateway, account)
    client = surface(gateway)

    text, asked, answered = client.stream() if stream else client.text()

    call = last_call(mock)
    assert "Paris" in text
    assert call.json["store"] is False
    assert (call.json["instructions"], call.prompt) == ("Be brief", "Where?")
    assert (asked, answered + (3 if surface is Content else 0)) == (prompt_tokens(call.n), completion_tokens(call.n))
    assert booked(gateway, account)[1] - before[1] == prompt_tokens(call.n) + completion_tokens(call.n)


@SURFACES
@WAYS
def test_a_tool_is_called_and_its_result_answered(
    gateway: GatewayProcess,
    mock: UpstreamProcess,
    account: str,
    surface: Callable[[GatewayProcess], Client],
    stream: bool,
) -> None:
    assert "Paris" in surface(gateway).tool(stream=stream)

    calls = [item for item in last_call(mock).json["input"] if item.get("type") == "function_call"]
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [("weather", {"city": "Paris"})]


def test_generate_is_answered_whole_as_json_and_streamed(
    gateway: GatewayProcess, mock: UpstreamProcess, account: str
) -> None:
    whole = gateway.ask("Where?", system="Be brief", temperature=0.5, max_tokens=9).json
    assert "Paris" in whole["content"]
    assert (whole["provider"], whole["finish_reason"]) == (account, "stop")
    assert whole["input_tokens"] == prompt_tokens(last_call(mock).n)

    found = gateway.ask("Where?", json_mode=True).json
    assert json.loads(found["content"])["answer"] == "Paris"
    assert last_call(mock).json["text"] == {"format": {"type": "json_object"}}

    assert b"Paris" in gateway.ask("Where?", stream=True).body


@pytest.mark.parametrize(
    ("behaviour", "reason"), [("length", "length"), ("no-usage", "stop"), ("null-content", "stop")]
)
@WAYS
def test_cut_uncounted_and_empty_answers_are_answers(
    gateway: GatewayProcess, mock: UpstreamProcess, account: str, behaviour: str, reason: str, stream: bool
) -> None:
    mock.behave(behaviour)
    answer = gateway.call(
        "POST",
        "/v1/chat/completions",
        {"model": "auto", "messages": [{"role": "user", "content": "Hi"}], "stream": stream},
        cache_control="no-store",
    )
    assert answer.status == 200
    assert f'"finish_reason":"{reason}"'.encode() in answer.body


@pytest.mark.parametrize("behaviour", ["half", "reset", "bad-json", "bad-shape", "status-500"])
@WAYS
def test_a_broken_answer_is_a_failure_of_the_provider(
    gateway: GatewayProcess, mock: UpstreamProcess, account: str, behaviour: str, stream: bool
) -> None:
    gateway.provider("other", mock.base_url, "ok", priority=1, protocols=["openai_chat"])
    mock.behave(behaviour, model="gpt-5.4")
    asked = {"model": "auto", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}

    answer = gateway.call("POST", "/v1/messages", asked, cache_control="no-store")

    assert answer.status == 200
    is_cut_in_its_content = stream and behaviour == "half"
    assert (b"event: error" in answer.body) is is_cut_in_its_content
    assert (answer.headers["x-gateway-provider"] == "other") is not is_cut_in_its_content


@pytest.mark.parametrize("model", ["gpt-5-pro", "gpt-5.1-codex"])
@SURFACES
@WAYS
def test_models_that_exist_on_the_responses_api_only_are_reached(
    gateway: GatewayProcess,
    mock: UpstreamProcess,
    model: str,
    surface: Callable[[GatewayProcess], Client],
    stream: bool,
) -> None:
    gateway.provider("openai-account", mock.base_url, model, protocols=BOTH)
    client = surface(gateway)

    assert "Paris" in (client.stream(model) if stream else client.text(model))[0]
    assert "input" in last_call(mock).json


@pytest.mark.parametrize(
    ("model", "effort", "field"),
    [
        ("gpt-5.4", "low", "input"),
        ("gpt-5.4", None, "messages"),
        ("gpt-5.6-sol", None, "input"),
        ("gpt-5.6-sol", "none", "messages"),
        ("gpt-5.2", "low", "messages"),
    ],
)
def test_tools_with_an_effort_are_sent_where_the_vendor_takes_them(
    gateway: GatewayProcess, mock: UpstreamProcess, model: str, effort: str | None, field: str
) -> None:
    gateway.provider("openai-account", mock.base_url, model, protocols=BOTH)
    asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Where?"}], "tools": [TOOL]}
    thinking = {} if effort is None else {"thinking": {"type": "disabled"}} if effort == "none" else {
        "output_config": {"effort": effort}
    }  # fmt: skip

    chat = gateway.call("POST", "/v1/chat/completions", asked | ({"reasoning_effort": effort} if effort else {}))
    assert (chat.status, field in last_call(mock).json) == (200, True), chat.body
    tools = [{"name": "weather", "input_schema": {"type": "object"}}]
    message = gateway.call("POST", "/v1/messages", {**asked, "tools": tools, "max_tokens": 99, **thinking})
    assert (message.status, field in last_call(mock).json) == (200, True), message.body


def test_the_vendors_refusal_reaches_the_client(gateway: GatewayProcess, mock: UpstreamProcess, account: str) -> None:
    refused = gateway.call("POST", "/v1/responses", {"model": "auto", "input": "Hi", "future_field": 1})

    assert refused.status == 400
    assert "Unknown parameter: 'future_field'." in refused.json["error"]["message"]
    assert mock.seen().calls == []


HANDSHAKE = {
    "x-service-key": KEY, "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "openai-beta": "responses_websockets=2026-02-06",
}  # fmt: skip


def test_a_websocket_is_declined_with_the_status_after_which_codex_posts(gateway: GatewayProcess) -> None:
    declined = gateway.send("GET", "/v1/responses", None, HANDSHAKE)

    assert (declined.status, declined.headers["upgrade"]) == (426, "HTTP/1.1")
    assert declined.json["error"]["code"] == "websocket_not_supported"
    assert gateway.send("GET", "/v1/responses", None, {"x-service-key": KEY}).status == 405


@WAYS
def test_the_sdks_documented_loop_works_at_a_model_that_reasons(
    gateway: GatewayProcess, mock: UpstreamProcess, account: str, stream: bool
) -> None:
    """https://developers.openai.com/api/docs/guides/function-calling: the output is appended to the next input."""
    client = Responses(gateway)
    items: list[Any] = [{"role": "user", "content": "Where?"}]
    if stream:
        with client.client.responses.stream(model="auto", input=items, tools=client.tools) as events:
            for _ in events:
                pass
            made: Any = events.get_final_response()
    else:
        made = client.client.responses.create(model="auto", input=items, tools=client.tools)
    items += made.output
    [call] = [item for item in made.output if item.type == "function_call"]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})

    then = client.client.responses.create(model="auto", input=items, tools=client.tools)

    assert "Paris" in then.output_text
    sealed = [item["encrypted_content"] for item in last_call(mock).json["input"] if item.get("type") == "reasoning"]
    assert len(sealed) == 1
    assert sealed[0].startswith("gAAAAAmock")


def test_reasoning_survives_a_tool_call_of_a_messages_client(
    gateway: GatewayProcess, mock: UpstreamProcess, account: str
) -> None:
    client = Messages(gateway)
    asked = {**client.asked, "thinking": {"type": "adaptive", "display": "summarized"}, "tools": client.tools}
    made: Any = client.client.messages.create(model="auto", **asked)
    [thinking, use] = made.content
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    turns = [{"role": "assistant", "content": made.content}, {"role": "user", "content": [result]}]

    client.client.messages.create(model="auto", **{**asked, "messages": [*asked["messages"], *turns]})

    assert thinking.thinking == "I look it up."
    [_, reasoning, call, output] = last_call(mock).json["input"]
    assert reasoning["encrypted_content"] == thinking.signature
    assert reasoning["summary"] == [{"type": "summary_text", "text": "I look it up."}]
    assert (call["call_id"], output["call_id"]) == (use.id, use.id)


def test_codexs_tools_reach_another_vendor_and_their_calls_come_back(gateway: GatewayProcess, llmock: LLMock) -> None:
    gateway.provider("claude", llmock.base_url("anthropic"), MODELS["anthropic"], kind="anthropic")
    llmock.call_tool("mcp__docs__search", {"q": "x"}).call_tool("apply_patch", {"input": "*** Begin Patch"})
    tools: list[Any] = [
        {"type": "custom", "name": "apply_patch", "description": "Edit files."},
        {"type": "namespace", "name": "mcp__docs", "description": "The manual.",
         "tools": [{"type": "function", "name": "search", "parameters": {"type": "object", "properties": {}}}]},
        {"type": "web_search"},
    ]  # fmt: skip
    asked = {"model": "auto", "input": "Where?", "tools": tools, "client_metadata": {"a": "b"}}

    first = gateway.call("POST", "/v1/responses", asked, cache_control="no-store")
    second = gateway.call("POST", "/v1/responses", asked, cache_control="no-store")

    [call] = first.json["output"]
    assert (call["type"], call["namespace"], call["name"]) == ("function_call", "mcp__docs", "search")
    [patch] = second.json["output"]
    assert (patch["type"], patch["name"], patch["input"]) == ("custom_tool_call", "apply_patch", "*** Begin Patch")
    assert first.headers["x-gateway-dropped"] == "client_metadata, tools.web_search"
