"""Which of OpenAI's models, and which requests, need the Responses API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.conversation import Conversation, Reasoning, Text, Tool, Turn
from llm_gateway.domain.request import ClientRequest
from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.providers.openai_responses_models import requests_for_responses, responses_need
from llm_gateway.worker.pipeline.translation import Translation
from tests.worker.pipeline.fakes import provider, request

BOTH = ("openai_chat", "openai_responses", "openai_embeddings")
TOOLS = [{"type": "function", "function": {"name": "t", "parameters": {"type": "object"}}}]
USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("need", "models"),
    [
        (
            "always",
            [
                "gpt-5-pro", "gpt-5-pro-2025-10-06", "gpt-5.2-pro", "gpt-5.5-pro-2026-04-23", "o1-pro", "o3-pro",
                "o1-pro-2025-03-19", "o3-deep-research", "o4-mini-deep-research-2025-06-26", "computer-use-preview",
                "computer-use-preview-2025-03-11", "gpt-5-codex", "gpt-5.1-codex", "gpt-5.1-codex-max",
                "gpt-5.1-codex-mini", "gpt-5.3-codex", "codex-mini-latest", "gpt-5.6-cyber", "gpt-6-cyber",
                "gpt-daybreak-blue-latest", "gpt-rosalind-research", "gpt-6-rosalind", "gpt-6.2-astra-law",
                "openai/gpt-5-pro",
            ],
        ),
        ("tools", ["gpt-5.6", "gpt-5.6-sol", "gpt-5.10", "gpt-6-astra", "gpt-6.2-sol", "openai/gpt-5.6-terra"]),
        ("tools with effort", ["gpt-5.4", "gpt-5.4-mini-2026-03-17", "gpt-5.5", "gpt-5.5-2026-04-23"]),
        (
            "never",
            [
                "gpt-4o", "gpt-4.1", "gpt-5", "gpt-5-mini", "gpt-5.1", "gpt-5.2", "gpt-5.2-chat-latest", "o3",
                "o4-mini", "gpt-oss-120b", "gpt-35-turbo", "gpt-3.5-turbo", "pro", "gemini-2.5-pro", "my-codex", "",
            ],
        ),
    ],
)  # fmt: skip
def test_the_need_follows_from_the_models_name(need: str, models: list[str]) -> None:
    assert {model: responses_need(model) for model in models} == dict.fromkeys(models, need)


def chat(**fields: Any) -> ClientRequest:
    def read(document: Any) -> Any:
        found = PROTOCOLS["openai_chat"].read_request(document)
        return found.conversation, found.dropped

    return ClientRequest("openai_chat", {"messages": [USER], **fields}, read)


def generate(effort: str | None = None, *, has_tools: bool = False) -> ClientRequest:
    return ClientRequest.of(
        Conversation(
            turns=[Turn(role="user", parts=[Text(text="Hi")])],
            tools=[Tool(name="t")] if has_tools else [],
            reasoning=None if effort is None else Reasoning(effort=effort),
        )
    )


@pytest.mark.parametrize(
    ("model", "has_tools", "effort", "expected"),
    [
        ("gpt-4o", True, None, False),
        ("gpt-5-pro", False, None, True),
        ("gpt-5.4", False, "high", False),
        ("gpt-5.4", True, None, False),
        ("gpt-5.4", True, "none", False),
        ("gpt-5.4", True, "low", True),
        ("gpt-5.6", False, "low", False),
        ("gpt-5.6", True, None, True),
        ("gpt-5.6", True, "low", True),
        ("gpt-5.6", True, "none", False),
    ],
)
def test_tools_and_effort_decide_alike_for_documents_and_conversations(
    model: str, has_tools: bool, effort: str | None, expected: bool
) -> None:
    tools = {"tools": TOOLS} if has_tools else {}
    efforts = {} if effort is None else {"reasoning_effort": effort}

    test = requests_for_responses(model)

    asked = (chat(**tools, **efforts), generate(effort, has_tools=has_tools))
    assert [test is not None and test(each) for each in asked] == [expected, expected]


@pytest.mark.parametrize(
    ("protocols", "model", "fields", "path", "is_native"),
    [
        (BOTH, "gpt-4o", {"tools": TOOLS}, "/chat/completions", True),
        (BOTH, "gpt-5-pro", {}, "/responses", False),
        (BOTH, "gpt-5.4", {"tools": TOOLS, "reasoning_effort": "low"}, "/responses", False),
        (BOTH, "gpt-5.4", {"tools": TOOLS, "reasoning": {"effort": "low"}}, "/responses", False),
        (BOTH, "gpt-5.6", {"tools": TOOLS, "thinking": {"type": "disabled"}}, "/chat/completions", True),
        (BOTH, "gpt-5.4", {"tools": TOOLS, "future": 1}, "/chat/completions", True),
        (BOTH, "gpt-5.6", {"functions": [{"name": "t"}]}, "/responses", False),
        (BOTH, "gpt-5.4", {"functions": [{"name": "t"}]}, "/chat/completions", True),
        (("openai_responses",), "gpt-4o", {}, "/responses", False),
        (("openai_chat",), "gpt-5-pro", {}, "/chat/completions", True),
    ],
)
def test_a_chat_request_is_sent_in_the_protocol_that_takes_it(
    protocols: tuple[str, ...], model: str, fields: dict[str, Any], path: str, is_native: bool
) -> None:
    candidate = Candidate.of(provider(models=(model,), protocols=protocols), model)

    call = Translation().call(request(client_request=chat(**fields)), candidate)

    assert (call.path, call.is_native) == (path, is_native)
    assert ("input" in json.loads(call.body)) is (path == "/responses")


def test_a_request_that_is_not_translatable_stays_in_its_protocol() -> None:
    asked = ClientRequest("openai_embeddings", {"input": "Hi"}, lambda _document: (Conversation(turns=[]), ()))
    candidate = Candidate.of(provider(models=("gpt-5-pro",), protocols=BOTH), "gpt-5-pro")

    assert Translation().call(request(client_request=asked), candidate).path == "/embeddings"


def test_a_responses_request_passes_through_to_a_model_that_needs_it() -> None:
    asked = ClientRequest("openai_responses", {"input": "Hi"}, lambda _document: (Conversation(turns=[]), ()))
    candidate = Candidate.of(provider(models=("gpt-5-pro",), protocols=BOTH), "gpt-5-pro")

    call = Translation().call(request(client_request=asked), candidate)

    assert (call.path, call.is_native) == ("/responses", True)
