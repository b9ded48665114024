"""A provider's error reaches clients as the error it is, whichever way and protocol it came in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.process import KEY, GatewayProcess, Response
from tests.e2e.sdk_clients import closed_later
from tests.e2e.streaming_vendor import BEGIN, DONE, StreamingVendor, delta, event, finish
from tests.upstream import UpstreamProcess
from tests.upstream.behaviour import REFUSALS

LIMITED = {"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-min"}}
TOO_LONG = {"error": REFUSALS["context-length"][1]}
ANSWER = (BEGIN, delta(content="Hello"), finish(), DONE)
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def streamer() -> Iterator[StreamingVendor]:
    with StreamingVendor() as running:
        yield running


def ask(gateway: GatewayProcess, path: str = "/v1/chat/completions", **fields: Any) -> Response:
    """Send a streaming request."""
    return gateway.call(
        "POST", path, {"model": "auto", "stream": True, "messages": MESSAGES, **fields}, cache_control="no-store"
    )


def events(response: Response) -> list[Any]:
    """Return the decoded data of the events."""
    lines = response.body.decode().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def test_a_429_in_a_stream_fails_over(
    gateway: GatewayProcess, streamer: StreamingVendor, mock: UpstreamProcess
) -> None:
    streamer.steps = (BEGIN, event(LIMITED))
    gateway.provider("streamer", streamer.url, "m", priority=20)
    gateway.provider("other", mock.base_url, "ok", priority=10)

    response = ask(gateway)

    assert (response.status, response.headers["x-gateway-provider"]) == (200, "other")


def test_a_lone_providers_429_in_a_stream_is_a_429_and_gives_its_tokens_back(
    gateway: GatewayProcess, streamer: StreamingVendor
) -> None:
    streamer.steps = (event(LIMITED),)
    gateway.provider("streamer", streamer.url, "m", rate_limit_tpm=150, rate_limit_rpm=20)

    response = ask(gateway, max_tokens=100)
    assert (response.status, response.json["error"]["code"]) == (429, "rate_limited")
    assert len(streamer.calls) == 3, "it is retried as any other 429"

    streamer.steps = ANSWER
    assert ask(gateway, max_tokens=100).status == 200


def test_a_refused_account_in_a_stream_is_not_worth_a_retry(gateway: GatewayProcess, streamer: StreamingVendor) -> None:
    streamer.steps = (event({"error": REFUSALS["no-quota"][1]}),)
    gateway.provider("streamer", streamer.url, "m")

    response = ask(gateway)

    assert (response.status, response.json["error"]["code"]) == (502, "provider_account_refused")
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-gateway-provider"] == "streamer"
    assert len(streamer.calls) == 1


@pytest.mark.parametrize("came", ["status", "stream", "body"])
def test_chat_clients_get_openais_code_for_a_full_context_window(
    gateway: GatewayProcess, streamer: StreamingVendor, mock: UpstreamProcess, came: str
) -> None:
    streamer.steps = (event(TOO_LONG),)
    streamer.answer = TOO_LONG if came == "body" else None
    word = "context-length" if came == "status" else "m"
    gateway.provider("acme", mock.base_url if came == "status" else streamer.url, word)

    client = closed_later(openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=KEY, max_retries=0))
    with client, pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=word, messages=[{"role": "user", "content": "Hi"}], stream=True)

    error = raised.value
    assert (error.code, error.type, error.param) == ("context_length_exceeded", "invalid_request_error", "input")
    assert isinstance(error.body, dict)
    assert error.body["message"] == REFUSALS["context-length"][1]["message"]
    assert error.response.headers["x-gateway-provider"] == "acme"
    assert error.response.headers["x-should-retry"] == "false"


def test_codex_gets_a_failed_response_for_a_full_context_window(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    gateway.provider("acme", mock.base_url, "context-length")

    response = ask(gateway, "/v1/responses", input="Hi", messages=None)

    assert (response.status, response.headers["x-gateway-provider"]) == (200, "acme")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [told["type"] for told in events(response)] == [
        "response.created",
        "response.in_progress",
        "response.failed",
    ]
    assert events(response)[-1]["response"]["error"]["code"] == "context_length_exceeded"
    whole = ask(gateway, "/v1/responses", input="Hi", messages=None, stream=False)
    assert (whole.status, whole.json["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("stream", [True, False])
def test_claude_code_gets_a_prompt_that_is_too_long(
    gateway: GatewayProcess, mock: UpstreamProcess, stream: bool
) -> None:
    gateway.provider("acme", mock.base_url, "context-length")

    client = closed_later(anthropic.Anthropic(base_url=f"http://127.0.0.1:{gateway.port}", api_key=KEY, max_retries=0))
    with client, pytest.raises(anthropic.BadRequestError) as raised:
        client.messages.create(
            model="context-length", max_tokens=10, messages=[{"role": "user", "content": "Hi"}], stream=stream
        )

    assert isinstance(raised.value.body, dict)
    told = raised.value.body["error"]
    assert told["type"] == "invalid_request_error"
    assert told["message"].startswith("prompt is too long: Your input exceeds the context window")


def test_google_clients_get_the_providers_message(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    gateway.provider("acme", mock.base_url, "moderation")

    response = gateway.call(
        "POST", "/v1beta/models/moderation:generateContent", {"contents": [{"parts": [{"text": "Hi"}]}]}
    )

    error = response.json["error"]
    assert (response.status, error["status"], error["message"]) == (403, "PERMISSION_DENIED", "The input was flagged.")
    assert error["details"][0]["metadata"]["code"] == "content_filter"
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("path", "asked"),
    [("/v1/chat/completions", {}), ("/v1/messages", {"max_tokens": 9}), ("/v1/responses", {"input": "Hi"})],
)
def test_an_error_after_the_first_word_has_the_providers_own_message(
    gateway: GatewayProcess, streamer: StreamingVendor, path: str, asked: dict[str, Any]
) -> None:
    overloaded = {"message": "The engine is overloaded.", "type": "server_error", "code": "server_is_overloaded"}
    streamer.steps = (BEGIN, delta(content="one"), event({"error": overloaded}))
    gateway.provider("streamer", streamer.url, "m")

    last = events(ask(gateway, path, **asked))[-1]

    told = last if path == "/v1/responses" else last["error"]
    assert told["message"] == "The engine is overloaded."
    assert told["code"] == ("provider_error" if path == "/v1/messages" else "server_is_overloaded")
    assert gateway.call("GET", "/api/v1/usage/summary").status == 200


def test_generate_names_the_provider_in_an_error_after_the_first_word(
    gateway: GatewayProcess, streamer: StreamingVendor
) -> None:
    streamer.steps = (BEGIN, delta(content="one"), event({"error": {"message": "It broke."}}))
    gateway.provider("streamer", streamer.url, "m")
    asked = {"user_id": "c", "service": "e2e", "prompt": "Hi", "stream": True}

    response = gateway.call("POST", "/api/v1/generate", asked)

    assert events(response)[-1]["detail"] == "Provider streamer: It broke."


def test_generate_answers_as_before_and_names_the_provider(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    gateway.provider("acme", mock.base_url, "context-length")

    response = gateway.ask()

    assert (response.status, response.json["code"]) == (502, "provider_error")
    assert response.json["detail"].startswith("Provider acme: answered 400: Your input exceeds")
    assert response.headers["x-gateway-provider"] == "acme"
    assert response.headers["x-should-retry"] == "false"


def test_an_unrelated_change_of_a_provider_lifts_nothing(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    path = gateway.provider("down", mock.base_url, "status-500", models=["status-500", "no-model"])
    for number in range(3):
        gateway.ask(f"{number}")
    assert gateway.ask("open").status == 503
    named = {"model": "no-model", "messages": MESSAGES}
    assert gateway.call("POST", "/v1/chat/completions", named).status == 502
    assert gateway.call("POST", "/v1/chat/completions", named).status == 503

    assert gateway.call("PATCH", path, {"display_name": "Anew", "priority": 3, "rate_limit_rpm": 1000}).status == 200
    assert gateway.ask("still").status == 503
    assert gateway.call("POST", "/v1/chat/completions", named).status == 503

    assert gateway.call("PATCH", path, {"timeout_s": 30}).status == 200
    assert gateway.ask("again").status == 502
