"""Model names of clients' own (aliases), and lists of models, with the vendors' SDKs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import errors, types
from llmock.pytest_plugin import LLMock

from tests.e2e.process import KEY, GatewayProcess
from tests.e2e.sdk_clients import closed_later
from tests.e2e.test_dialects import MODELS, configure

ASKED: Any = [{"role": "user", "content": "Hi"}]
HAIKU = "claude-haiku-9-20261101"
ANTHROPIC = {"anthropic_version": "2023-06-01"}
FACTS: dict[str, Any] = {
    "context_window": 100_000,
    "max_output_tokens": {MODELS["openai"]: 9_000},
    "prices": {MODELS["openai"]: {"input": 0.5, "output": 2}},
}


def chat_client(gateway: GatewayProcess) -> openai.OpenAI:
    return closed_later(openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=KEY, max_retries=0))


def messages_client(gateway: GatewayProcess) -> anthropic.Anthropic:
    return closed_later(anthropic.Anthropic(base_url=f"http://127.0.0.1:{gateway.port}", api_key=KEY, max_retries=0))


def google_client(gateway: GatewayProcess) -> genai.Client:
    return closed_later(
        genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=f"http://127.0.0.1:{gateway.port}"))
    )


def last_record(gateway: GatewayProcess) -> tuple[str, str]:
    """Return the requested and the answering model of the newest record; a report includes all answers before it."""
    gateway.call("GET", "/api/v1/usage/summary")
    with closing(sqlite3.connect(gateway.directory / "data" / "gateway.db")) as database:
        query = "SELECT requested_model, model FROM usage_records ORDER BY id DESC LIMIT 1"
        found: tuple[str, str] = database.execute(query).fetchone()
    return found


def test_a_messages_client_gets_its_own_model_name_answered_by_another_vendor(
    gateway: GatewayProcess, llmock: LLMock
) -> None:
    configure(gateway, llmock, "openai", model_aliases={"claude-*haiku*": MODELS["openai"]})
    llmock.reply("Hello.")

    raw = messages_client(gateway).messages.with_raw_response.create(model=HAIKU, max_tokens=50, messages=ASKED)

    assert raw.headers["x-gateway-model"] == MODELS["openai"]
    assert raw.headers["x-gateway-provider"] == "my-openai"
    assert llmock.requests[-1].model == MODELS["openai"]
    assert last_record(gateway) == (HAIKU, MODELS["openai"])
    pinned = chat_client(gateway).chat.completions.create(model=f"my-openai/{HAIKU}", messages=ASKED)
    assert pinned.choices[0].message.content
    assert last_record(gateway) == (f"my-openai/{HAIKU}", MODELS["openai"])
    with pytest.raises(anthropic.NotFoundError, match=r"claude-\*haiku\*"):
        messages_client(gateway).messages.create(model="claude-opus", max_tokens=50, messages=ASKED)


def test_an_alias_answers_when_the_provider_that_lists_the_model_fails(gateway: GatewayProcess, llmock: LLMock) -> None:
    configure(gateway, llmock, "anthropic", priority=1)
    configure(gateway, llmock, "openai", priority=99, model_aliases={"*": MODELS["openai"]})
    llmock.reply("Hello.")
    client = messages_client(gateway)

    def provider() -> str:
        raw = client.messages.with_raw_response.create(
            model=MODELS["anthropic"], max_tokens=50, messages=ASKED, extra_headers={"cache-control": "no-store"}
        )
        found: str = raw.headers["x-gateway-provider"]
        return found

    assert provider() == "my-anthropic"
    llmock.fail(500, provider="anthropic")
    assert provider() == "my-openai"


def test_tokens_are_counted_for_an_alias(gateway: GatewayProcess, llmock: LLMock) -> None:
    configure(gateway, llmock, "openai", model_aliases={"claude-*": MODELS["openai"]})
    assert messages_client(gateway).messages.count_tokens(model=HAIKU, messages=ASKED).input_tokens > 0


def test_each_sdk_reads_the_facts_of_a_model_from_its_own_fields(gateway: GatewayProcess, llmock: LLMock) -> None:
    aliases = {"fast": MODELS["openai"], "claude-*": MODELS["openai"]}
    configure(gateway, llmock, "openai", model_aliases=aliases, **FACTS)
    names = ["auto", "fast", MODELS["openai"], f"my-openai/{MODELS['openai']}"]

    chat = chat_client(gateway).models
    assert [model.id for model in chat.list()] == names
    for name in ("fast", MODELS["openai"], HAIKU):
        told = chat.retrieve(name).model_dump()
        assert (told["id"], told["context_length"], told["max_output_tokens"]) == (name, 100_000, 9_000)
        assert told["pricing"] == {"prompt": "0.0000005", "completion": "0.000002"}

    messages = messages_client(gateway).models
    assert [model.id for model in messages.list(limit=1)] == names, "the SDK follows the pages"
    one = messages.retrieve(HAIKU)
    assert (one.id, one.max_input_tokens, one.max_tokens, one.lifecycle) == (HAIKU, 100_000, 9_000, "active")

    google = google_client(gateway)
    assert [model.name for model in google.models.list(config={"page_size": 1})] == [f"models/{name}" for name in names]
    found = google.models.get(model=MODELS["openai"])
    assert (found.input_token_limit, found.output_token_limit) == (100_000, 9_000)
    assert found.supported_actions is not None
    assert "generateContent" in found.supported_actions


def test_public_lists_tell_the_context_window_that_the_operator_does_not(
    gateway: GatewayProcess, llmock: LLMock
) -> None:
    configure(gateway, llmock, "anthropic")
    one = messages_client(gateway).models.retrieve(MODELS["anthropic"])
    assert (one.max_input_tokens, one.max_tokens) == (200_000, None)
    gateway.provider("own", llmock.base_url("openai"), "house-model")
    told = chat_client(gateway).models.retrieve("house-model").model_dump()
    assert not {"context_length", "max_output_tokens"} & set(told)


def test_pages_of_messages_clients_tell_whether_more_follow(gateway: GatewayProcess, llmock: LLMock) -> None:
    configure(gateway, llmock, "openai")
    first = gateway.call("GET", "/v1/models?limit=2", **ANTHROPIC).json
    assert (first["has_more"], first["first_id"], first["last_id"]) == (True, "auto", MODELS["openai"])
    rest = gateway.call("GET", f"/v1/models?limit=2&after_id={MODELS['openai']}", **ANTHROPIC).json
    assert (rest["has_more"], [model["id"] for model in rest["data"]]) == (False, [f"my-openai/{MODELS['openai']}"])
    back = gateway.call("GET", f"/v1/models?limit=1&before_id={MODELS['openai']}", **ANTHROPIC).json
    assert (back["has_more"], back["first_id"]) == (False, "auto")


def test_errors_of_lists_have_the_shape_of_the_clients_protocol(gateway: GatewayProcess) -> None:
    with pytest.raises(anthropic.NotFoundError):
        messages_client(gateway).models.retrieve("none")
    for query in ("limit=0", "limit=x", "after_id=none"):
        answer = gateway.call("GET", f"/v1/models?{query}", **ANTHROPIC)
        assert (answer.status, answer.json["type"], answer.json["error"]["type"]) == (
            400,
            "error",
            "invalid_request_error",
        )
    refused = gateway.call("GET", "/v1/models", key="wrong", **ANTHROPIC)
    assert (refused.status, refused.json["error"]["type"]) == (401, "authentication_error")
    assert gateway.call("GET", "/v1beta/models?pageToken=x").json["error"]["status"] == "INVALID_ARGUMENT"
    google = google_client(gateway)
    with pytest.raises(errors.ClientError, match="NOT_FOUND"):
        google.models.get(model="none")
    with pytest.raises(openai.NotFoundError):
        chat_client(gateway).models.retrieve("none")
