"""Requests are sent to a provider only in the protocols that its configuration lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.process import GatewayProcess
from tests.e2e.streaming_vendor import StreamingVendor
from tests.providers.documents import OPENAI

RESPONSE: dict[str, Any] = {
    "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m", "output": [
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "Hello", "annotations": []}]},
    ],
    "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
}  # fmt: skip
EMBEDDINGS: dict[str, Any] = {
    "object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
}  # fmt: skip
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def vendors() -> Iterator[tuple[StreamingVendor, StreamingVendor]]:
    with StreamingVendor() as one, StreamingVendor() as other:
        yield one, other


def test_a_provider_gets_responses_requests_only_while_it_lists_that_protocol(
    gateway: GatewayProcess, vendors: tuple[StreamingVendor, StreamingVendor]
) -> None:
    vendor, _ = vendors
    path = gateway.provider("mine", vendor.url, "m", protocols=["openai_chat", "openai_responses"])
    asked = {"model": "auto", "input": "Hi"}

    vendor.answer = RESPONSE
    passed = gateway.call("POST", "/v1/responses", asked, cache_control="no-store")
    assert (passed.status, passed.json["id"]) == (200, "resp_1")
    assert vendor.calls[-1]["input"] == "Hi"

    assert gateway.call("PATCH", path, {"protocols": None}).json["protocols"] is None
    vendor.answer = OPENAI
    translated = gateway.call("POST", "/v1/responses", asked, cache_control="no-store")
    assert translated.status == 200
    assert vendor.calls[-1]["messages"] == [{"role": "user", "content": "Hi"}]


def test_a_provider_for_embeddings_only_gets_no_other_requests(
    gateway: GatewayProcess, vendors: tuple[StreamingVendor, StreamingVendor]
) -> None:
    vectors, chat = vendors
    vectors.answer, chat.answer = EMBEDDINGS, OPENAI
    gateway.provider("vectors", vectors.url, "m", priority=20, protocols=["openai_embeddings"])
    gateway.provider("chat", chat.url, "m", priority=10, protocols=["openai_chat"])

    for path, asked in (("/v1/chat/completions", CHAT), ("/v1/responses", {"model": "auto", "input": "Hi"})):
        assert gateway.call("POST", path, asked).status == 200
    assert gateway.ask().status == 200
    assert (len(vectors.calls), len(chat.calls)) == (0, 3)

    assert gateway.call("POST", "/v1/embeddings", {"model": "auto", "input": "Hi"}).status == 200
    assert (len(vectors.calls), len(chat.calls)) == (1, 3)


def test_a_request_that_no_provider_supports_is_rejected_without_a_call(
    gateway: GatewayProcess, vendors: tuple[StreamingVendor, StreamingVendor]
) -> None:
    vendor, _ = vendors
    gateway.provider("mine", vendor.url, "m", protocols=["openai_responses"])

    refused = gateway.call("POST", "/v1/chat/completions", CHAT)

    assert refused.status == 400
    assert "mine does not support the protocol of this endpoint" in refused.json["error"]["message"]
    assert vendor.calls == []
