"""Rights of service keys over the documents of requests: limits of the output and of reasoning cannot be evaded."""

from __future__ import annotations

from typing import Any

import pytest

from llm_gateway.domain.request import ClientRequest
from llm_gateway.domain.service_key import KeyRights
from llm_gateway.errors import Invalid, RequestNotAllowed
from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.worker.endpoints.key_rights import restrict
from llm_gateway.worker.pipeline.output_limit import DEFAULT_MAX_TOKENS, limit_by_key, limit_output
from tests.rows import each_row
from tests.worker.pipeline.fakes import request

MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT = {"model": "m", "messages": MESSAGES}
LIMIT = 50


def client_request(protocol: str, document: dict[str, Any], apart: object = None) -> ClientRequest:
    def read(document: dict[str, Any]) -> Any:
        found = PROTOCOLS[protocol].read_request(document)
        return found.conversation, found.dropped

    return ClientRequest(protocol, document, read, apart=apart)


@each_row(
    ("protocol", "document", "limited"),
    [
        ("openai_chat", {}, {"max_completion_tokens": LIMIT}),
        ("openai_chat", {"max_tokens": 5}, {"max_tokens": 5}),
        ("openai_chat", {"max_tokens": None}, {"max_tokens": None, "max_completion_tokens": LIMIT}),
        (
            "openai_chat",
            {"max_tokens": 99, "max_completion_tokens": 7},
            {"max_tokens": LIMIT, "max_completion_tokens": 7},
        ),
        *(("openai_chat", {"max_tokens": endless}, {"max_tokens": LIMIT}) for endless in (-1, 0, 1e6, "1000000")),
        ("gemini_content", {}, {"generationConfig": {"maxOutputTokens": LIMIT}}),
        ("gemini_content", {"generationConfig": None}, {"generationConfig": {"maxOutputTokens": LIMIT}}),
        (
            "gemini_content",
            {"generation_config": {"max_output_tokens": 99}},
            {"generation_config": {"max_output_tokens": LIMIT}},
        ),
    ],
)
def test_the_limit_of_the_output_is_lowered_or_set(
    protocol: str, document: dict[str, Any], limited: dict[str, Any]
) -> None:
    limit_output(client_request(protocol, document), PROTOCOLS[protocol], LIMIT)
    assert document == limited


def test_a_limit_that_cannot_be_set_is_refused() -> None:
    with pytest.raises(Invalid, match="generationConfig must be an object"):
        limit_output(client_request("gemini_content", {"generationConfig": []}), PROTOCOLS["gemini_content"], LIMIT)
    chat = PROTOCOLS["openai_chat"]
    limit_output(client_request("openai_chat", {"max_tokens": LIMIT}, apart=b"large"), chat, LIMIT)
    for document in ({}, {"max_tokens": 51}, {"max_tokens": -1}, {"max_tokens": 5, "max_completion_tokens": 51}):
        with pytest.raises(RequestNotAllowed, match="This key allows 50 output tokens"):
            limit_output(client_request("openai_chat", document, apart=b"large"), chat, LIMIT)


@each_row(
    ("rights", "document", "limited"),
    [
        (KeyRights(), {}, {}),
        (KeyRights(max_request_nanos=1), {}, {"max_completion_tokens": DEFAULT_MAX_TOKENS}),
        (KeyRights(max_request_nanos=1, max_tokens=LIMIT), {}, {"max_completion_tokens": LIMIT}),
        (KeyRights(max_request_nanos=1), {"max_tokens": 9}, {"max_tokens": 9}),
        (
            KeyRights(max_request_nanos=1),
            {"max_completion_tokens": 1, "max_tokens": 99_999},
            {"max_completion_tokens": 1, "max_tokens": 1},
        ),
    ],
)
def test_an_answer_is_no_longer_than_the_bound_of_its_cost(
    rights: KeyRights, document: dict[str, Any], limited: dict[str, Any]
) -> None:
    limit_by_key(client_request("openai_chat", document), PROTOCOLS["openai_chat"], rights)
    assert document == limited


EFFORTS: list[tuple[str, dict[str, Any], str | None]] = [
    ("openai_chat", CHAT, None),
    ("openai_chat", CHAT | {"reasoning_effort": "low"}, None),
    ("openai_chat", CHAT | {"reasoning_effort": "high"}, "not 'high'"),
    ("openai_chat", CHAT | {"reasoning_effort": "low", "thinking": {"type": "enabled", "budget_tokens": 30000}}, "max"),
    ("openai_chat", CHAT | {"reasoning_effort": "ultra"}, "leave reasoning_effort out"),
    ("openai_chat", CHAT | {"reasoning_effort": "high", "modalities": ["audio"]}, "leave reasoning_effort out"),
    ("openai_chat", CHAT | {"modalities": ["audio"]}, None),
    ("openai_chat", {"model": "m", "reasoning_effort": "high"}, "leave reasoning_effort out"),
    (
        "gemini_content",
        {"generationConfig": {"thinkingConfig": {"thinkingLevel": "ultra"}}},
        "leave thinkingConfig out",
    ),
]


def test_more_reasoning_than_the_key_allows_is_refused_also_in_documents_that_cannot_be_read() -> None:
    rights = KeyRights(max_reasoning_effort="medium")
    for protocol, document, words in EFFORTS:
        asked = request(client_request=client_request(protocol, document))
        if words is None:
            assert restrict(asked, rights) is asked, document
            continue
        with pytest.raises(RequestNotAllowed) as refused:
            restrict(asked, rights)
        assert words in refused.value.detail, document
