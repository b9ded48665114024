"""Responses in Google's protocol: arrays and events, pass-through, embeddings, billing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.gemini_calls import ASKED, GEMINI, OPENAI, WORDS, error, post, texts
from tests.e2e.process import KEY, GatewayProcess
from tests.e2e.streaming_vendor import BEGIN, CUT, StreamingVendor
from tests.e2e.test_streams import configure, records


@pytest.fixture
def streamer() -> Iterator[StreamingVendor]:
    with StreamingVendor() as running:
        yield running


class TestStreams:
    @pytest.mark.parametrize(("kind", "steps"), [("openai", OPENAI), ("gemini", GEMINI)])
    def test_a_stream_without_alt_sse_is_one_array(
        self, gateway: GatewayProcess, streamer: StreamingVendor, kind: str, steps: list[bytes]
    ) -> None:
        configure(gateway, streamer, *steps, kind=kind)
        for query in ("", "?alt=json", "?alt=", "?%24alt=json%3Benum-encoding=int"):
            answer = post(gateway, f"streamGenerateContent{query}")
            assert answer.headers["content-type"].startswith("application/json")
            assert texts(answer.json) == "one two "
            assert answer.json[-1]["usageMetadata"]["totalTokenCount"] == 18
            assert answer.json[-1]["candidates"][0]["finishReason"] == "STOP"

    @pytest.mark.parametrize(("kind", "steps"), [("openai", OPENAI), ("gemini", GEMINI)])
    def test_a_stream_with_alt_sse_is_sent_as_events(
        self, gateway: GatewayProcess, streamer: StreamingVendor, kind: str, steps: list[bytes]
    ) -> None:
        configure(gateway, streamer, *steps, kind=kind)
        answer = post(gateway, "streamGenerateContent?alt=sse")
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.body.decode().splitlines()
        assert all(not line or line.startswith("data: {") for line in lines)
        assert texts([json.loads(line[6:]) for line in lines if line]) == "one two "
        if kind == "gemini":
            assert answer.body == b"".join(steps)
        record = records(gateway)[-1]
        assert (record["surface"], record["outcome"]) == ("generate_content", "ok")
        assert (record["input_tokens"], record["output_tokens"]) == (11, 7)

    @pytest.mark.parametrize("query", ["", "?alt=sse"])
    @pytest.mark.parametrize(
        ("kind", "steps"), [("openai", [BEGIN, *WORDS, CUT]), ("gemini", [GEMINI[0], GEMINI[0], CUT])]
    )
    def test_an_error_in_its_middle_ends_a_stream(
        self, gateway: GatewayProcess, streamer: StreamingVendor, kind: str, steps: list[Any], query: str
    ) -> None:
        configure(gateway, streamer, *steps, kind=kind)
        answer = post(gateway, f"streamGenerateContent{query}")
        assert answer.status == 200
        found = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line] if query else answer.json
        assert [next(iter(one)) for one in found][-2:] == ["candidates", "error"]
        assert (found[-1]["error"]["code"], found[-1]["error"]["status"]) == (502, "UNAVAILABLE")

    def test_a_cached_answer_is_streamed_as_an_array_too(
        self, gateway: GatewayProcess, streamer: StreamingVendor
    ) -> None:
        configure(gateway, streamer, *OPENAI)
        body = {**ASKED, "generationConfig": {"seed": 4}}
        path = "/v1beta/models/auto:streamGenerateContent"
        first, second = (gateway.call("POST", path, body) for _ in range(2))
        assert texts(first.json) == texts(second.json) == "one two "
        assert (len(streamer.calls), second.headers["x-gateway-cache"]) == (1, "hit")
        labelled = gateway.call("POST", path, {**body, "labels": {"a": "b"}, "model": "models/auto"})
        assert (len(streamer.calls), labelled.headers["x-gateway-cache"]) == (1, "hit")


class TestPassingThrough:
    def test_a_body_for_a_gemini_provider_passes_unchanged(
        self, gateway: GatewayProcess, streamer: StreamingVendor
    ) -> None:
        configure(gateway, streamer, kind="gemini")
        streamer.answer = json.loads(GEMINI[1].removeprefix(b"data: "))
        body = {
            **ASKED,
            "system_instruction": {"parts": [{"text": "Be brief"}]},
            "tools": [
                {"googleSearch": {}},
                {"function_declarations": [{"name": "f", "parameters": {"type": "OBJECT"}}]},
            ],
            "generation_config": {"response_schema": {"type": "STRING"}, "newField": [1]},
            "cachedContent": "cachedContents/1",
        }
        answer = post(gateway, "generateContent", {**body, "model": "models/auto"})
        assert answer.json == streamer.answer
        assert streamer.calls == [body]
        assert streamer.paths == ["/v1/v1beta/models/streamer-1:generateContent"]
        assert answer.headers["x-gateway-provider"] == "streamer"
        assert float(answer.headers["x-gateway-cost-usd"]) == pytest.approx((11 + 2 * 7) / 1e6)

    def test_a_gemini_provider_is_requested_to_stream_events(
        self, gateway: GatewayProcess, streamer: StreamingVendor
    ) -> None:
        configure(gateway, streamer, *GEMINI, kind="gemini")
        post(gateway, f"streamGenerateContent?key={KEY}")
        assert streamer.paths == ["/v1/v1beta/models/streamer-1:streamGenerateContent?alt=sse"]
        assert KEY not in json.dumps(streamer.headers)


class TestEmbeddings:
    def test_embeddings_of_openai_are_translated(self, gateway: GatewayProcess, streamer: StreamingVendor) -> None:
        configure(gateway, streamer)
        streamer.answer = {
            "object": "list",
            "data": [{"index": 1, "embedding": [0.25]}, {"index": 0, "embedding": [0.5]}],
            "usage": {"prompt_tokens": 9, "total_tokens": 9},
        }
        one = {"content": {"parts": [{"text": "a"}]}, "taskType": "RETRIEVAL_QUERY", "outputDimensionality": 1}
        batch = post(gateway, "batchEmbedContents", {"requests": [{**one, "model": "models/auto"}, one]})
        assert batch.json == {"embeddings": [{"values": [0.5]}, {"values": [0.25]}]}
        assert batch.headers["x-gateway-dropped"] == "taskType"
        assert post(gateway, "embedContent", one).json == {"embedding": {"values": [0.5]}}
        assert streamer.calls[0] == {"model": "streamer-1", "input": ["a", "a"], "dimensions": 1}
        assert streamer.paths == ["/v1/embeddings"] * 2
        surfaces = [(record["surface"], record["input_tokens"]) for record in records(gateway)[-2:]]
        assert surfaces == [("batch_embed_contents", 9), ("embed_content", 9)]

    def test_embeddings_of_gemini_pass_through(self, gateway: GatewayProcess, streamer: StreamingVendor) -> None:
        configure(gateway, streamer, kind="gemini")
        one = {"content": {"parts": [{"text": "a"}]}, "taskType": "RETRIEVAL_QUERY"}
        streamer.answer = {"embedding": {"values": [1.0]}}
        assert post(gateway, "embedContent", {**one, "model": "models/auto"}).json == streamer.answer
        streamer.answer = {"embeddings": [{"values": [1.0]}], "usageMetadata": {"promptTokenCount": 9}}
        assert post(gateway, "batchEmbedContents", {"requests": [{**one, "model": "models/x"}]}).json == streamer.answer
        assert streamer.calls == [one, {"requests": [{**one, "model": "models/streamer-1"}]}]
        assert [path.rpartition(":")[2] for path in streamer.paths] == ["embedContent", "batchEmbedContents"]
        assert records(gateway)[-1]["input_tokens"] == 9

    def test_a_provider_without_embeddings_is_not_called(
        self, gateway: GatewayProcess, streamer: StreamingVendor
    ) -> None:
        configure(gateway, streamer, kind="anthropic")
        answer = post(gateway, "embedContent", {"content": {"parts": [{"text": "a"}]}})
        error(answer, 400, "INVALID_ARGUMENT")
        assert streamer.calls == []

    @pytest.mark.parametrize("body", [{}, {"content": {}}, {"content": {"parts": [{"inlineData": {}}]}}])
    def test_invalid_bodies_for_embeddings_are_rejected(
        self, gateway: GatewayProcess, streamer: StreamingVendor, body: Any
    ) -> None:
        configure(gateway, streamer)
        error(post(gateway, "embedContent", body), 400, "INVALID_ARGUMENT")


def test_headers_and_not_labels_name_the_billed_customer(gateway: GatewayProcess, streamer: StreamingVendor) -> None:
    configure(gateway, streamer, *OPENAI)
    labelled = {**ASKED, "labels": {"user": "someone"}, "user": "someone"}
    post(gateway, "streamGenerateContent", x_user_id="customer-7", x_service_name="shop", x_task_type="summary")
    post(gateway, "streamGenerateContent", labelled)
    rows = [(one["user_id"], one["service"], one["task_type"]) for one in records(gateway)[-2:]]
    assert rows[0] == ("customer-7", "shop", "summary")
    assert rows[1][0] == "anonymous"


def test_maximum_output_and_input_count_against_the_token_limit(
    gateway: GatewayProcess, streamer: StreamingVendor
) -> None:
    """The limit reserves the maximum output of all candidates, and the input."""
    configure(gateway, streamer, *OPENAI, rate_limit_tpm=1000)
    for config in ({"maxOutputTokens": 900}, {"max_output_tokens": 450, "candidateCount": 2}):
        assert post(gateway, "streamGenerateContent", {**ASKED, "generationConfig": config}).status == 200
    long = {"parts": [{"text": "x y " * 1000}]}
    short = {"generationConfig": {"maxOutputTokens": 10}}
    for more in (
        {"generationConfig": {"maxOutputTokens": 1001}},
        {"generation_config": {"max_output_tokens": 400, "candidate_count": 3}},
        {"systemInstruction": long, **short},
        {"system_instruction": long, **short},
        {"contents": [long], **short},
    ):
        answer = post(gateway, "generateContent", {**ASKED, **more})
        info = error(answer, 429, "RESOURCE_EXHAUSTED")["details"][0]
        assert info["reason"] == "REQUEST_EXCEEDS_LIMIT"
