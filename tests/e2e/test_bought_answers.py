"""Billed responses with odd token counts or no text reach the client once and count as no failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import anthropic
import openai
import pytest

from tests.e2e.process import KEY, GatewayProcess
from tests.e2e.streaming_vendor import StreamingVendor
from tests.e2e.test_streams import records
from tests.protocols.test_empty_answers import STREAMS, WHOLE
from tests.protocols.vendor_replies import DIALECTS, changed

MORE_THAN_A_BREAKER_FORGIVES = 6
PATHS = {
    "generate": "/api/v1/generate",
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}
KINDS = {"openai": "chat", "anthropic": "messages", "gemini": "gemini"}
PAIRS = pytest.mark.parametrize(("kind", "surface"), [(kind, surface) for kind in KINDS for surface in PATHS])
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


class Scene(NamedTuple):
    """A vendor of one dialect, and the endpoint that the client uses."""

    gateway: GatewayProcess
    vendor: StreamingVendor
    dialect: str
    surface: str

    @property
    def is_native(self) -> bool:
        return self.dialect == self.surface

    def answers(self, document: Any) -> bytes:
        """Set the vendor's next complete responses. Returns their bytes."""
        self.vendor.answer = document
        return json.dumps(document).encode()

    def streams(self, events: list[Any]) -> bytes:
        """Set the vendor's next streams. Returns their bytes."""
        steps = [_event(document) for document in events]
        if self.dialect == "chat":
            steps.append(b"data: [DONE]\n\n")
        self.vendor.answer, self.vendor.steps = None, steps
        return b"".join(steps)

    def ask(self, *, stream: bool, **headers: str) -> bytes:
        """Send a request, assert a 200 after one call of the vendor, and return the body."""
        messages = [{"role": "user", "content": "Hi"}]
        asked: dict[str, Any] = {"model": "auto", "stream": stream}
        if self.surface == "generate":
            asked |= {"user_id": "customer", "service": "e2e", "prompt": "Hi"}
        elif self.surface == "responses":
            asked |= {"input": "Hi"}
        else:
            asked |= {"messages": messages, "max_tokens": 50}
            if stream and self.surface == "chat":
                asked |= {"stream_options": {"include_usage": True}}
        before = len(self.vendor.calls)
        response = self.gateway.call("POST", PATHS[self.surface], asked, **headers)
        assert response.status == 200, response.body
        assert len(self.vendor.calls) == before + 1, "it was bought once"
        assert b'"error"' not in response.body or b'"error":null' in response.body.replace(b" ", b""), response.body
        return response.body


def _event(document: Any) -> bytes:
    name = f"event: {document['type']}\n" if "type" in document else ""
    return f"{name}data: {json.dumps(document)}\n\n".encode()


@pytest.fixture
def scene(gateway: GatewayProcess, kind: str, surface: str) -> Iterator[Scene]:
    with StreamingVendor() as vendor:
        gateway.provider("openai" if kind == "openai" else f"my-{kind}", vendor.url, "model-1", kind=kind)
        dialect = "responses" if (kind, surface) == ("openai", "responses") else KINDS[kind]
        yield Scene(gateway, vendor, dialect, surface)


def odd(document: Any, *, floats: bool) -> Any:
    """Return the document with other token counts and with unknown fields beside them."""
    if isinstance(document, list):
        return [odd(each, floats=floats) for each in document]
    if not isinstance(document, dict):
        return document
    made = {name: odd(value, floats=floats) for name, value in document.items()}
    for name, value in made.items():
        if name in ("usage", "usageMetadata") and isinstance(value, dict):
            made[name] = {
                field: (float(count) if floats else str(count)) if isinstance(count, int) else count
                for field, count in value.items()
            }
        elif name in ("created", "created_at", "logprobs", "system_fingerprint", "safetyRatings"):
            made[name] = "odd"
        elif name in ("model", "modelVersion", "id", "responseId") and "role" not in made:
            made[name] = {"odd": [1]}
        elif isinstance(value, str) and value.startswith("Hello! How"):
            made[name] = "Hello \ud800"
    return made


@PAIRS
@STREAMED
@pytest.mark.parametrize("floats", [True, False], ids=["floats", "strings"])
def test_odd_token_counts_lose_no_answer(scene: Scene, stream: bool, floats: bool) -> None:
    dialect = DIALECTS[scene.dialect]
    whole = dialect.read(json.dumps(dialect.whole).encode())
    exact = whole.usage
    sent = (
        scene.streams(odd(dialect.stream, floats=floats))
        if stream
        else scene.answers(odd(dialect.whole, floats=floats))
    )

    for _ in range(MORE_THAN_A_BREAKER_FORGIVES):
        body = scene.ask(stream=stream, cache_control="no-store")
        if scene.is_native:
            assert body == sent, "who speaks the vendor's protocol gets its bytes"
        else:
            assert b"Hello" in body or b"Hi! My name is Claude." in body
            assert b"\\ud800" not in body

    record = records(scene.gateway)[-1]
    counts = (record["input_tokens"], record["output_tokens"])
    status = "exact" if floats and whole.units is None else "estimated"  # the price of its search is not known
    assert (record["outcome"], record["cost_status"]) == ("ok", status)
    assert counts == (exact.input_tokens, exact.output_tokens) if floats else min(counts) > 0
    assert record["cost_nanos"] > 0


@pytest.mark.parametrize(("kind", "surface"), [("openai", "chat")])
def test_odd_token_counts_lose_no_embeddings(scene: Scene) -> None:
    whole = {"object": "list", "data": [{"embedding": [0.5], "index": 0}], "model": 5, "usage": {"prompt_tokens": "8"}}
    for count, status in ((8.0, "exact"), ("8", "estimated"), (True, "estimated"), (1e30, "estimated")):
        sent = scene.answers(changed(whole, ("usage", "prompt_tokens"), count))
        asked = {"model": "model-1", "input": "Hi"}
        answer = scene.gateway.call("POST", "/v1/embeddings", asked, cache_control="no-store")

        assert (answer.status, answer.body) == (200, sent)
        record = records(scene.gateway)[-1]
        assert (record["outcome"], record["cost_status"], record["input_tokens"]) == ("ok", status, 8)
    assert len(scene.vendor.calls) == 4


@PAIRS
def test_whole_answers_without_text_are_served_and_billed(scene: Scene) -> None:
    documents = {kind: document for kind, (dialect, document) in WHOLE.items() if dialect == scene.dialect}
    assert len(documents) > 3
    for kind, document in documents.items():
        scene.answers(document)
        body = json.loads(scene.ask(stream=False))
        if scene.surface == "generate":
            assert (body["content"], body["finish_reason"], body["output_tokens"]) == ("", "stop", 10), kind
        _is_billed(scene, kind)


@PAIRS
def test_streams_without_text_are_served_and_billed(scene: Scene) -> None:
    streams = {kind: events for kind, (dialect, events) in STREAMS.items() if dialect == scene.dialect}
    assert len(streams) > 1
    for kind, events in streams.items():
        sent = scene.streams(events)
        body = scene.ask(stream=True)
        if scene.is_native:
            assert body == sent
        elif scene.surface == "generate":
            assert body.startswith(b"event: result\n"), kind
        _is_billed(scene, kind)


def _is_billed(scene: Scene, kind: str) -> None:
    record = records(scene.gateway)[-1]
    assert (record["outcome"], record["cost_status"], record["cache"]) == ("ok", "exact", "miss"), kind
    assert (record["input_tokens"], record["output_tokens"]) == (19, 10), kind
    assert record["cost_nanos"] == 19_000 + 20_000, kind


FLEX: dict[str, tuple[Any, list[Any]]] = {
    "chat": (
        {**WHOLE["chat null"][1], "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]},
        [
            {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens": 19, "completion_tokens": 10}},
        ],
    ),
    "responses": (
        {
            "status": "completed",
            "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}],
            "usage": {"input_tokens": 19, "output_tokens": 10},
        },
        [
            {"type": "response.created", "response": {"status": "in_progress"}},
            {"type": "response.output_text.delta", "output_index": 0, "delta": "Hello"},
            {
                "type": "response.completed",
                "response": {
                    "status": "completed",
                    "usage": {"input_tokens": 19, "output_tokens": 10},
                    "service_tier": "flex",
                },
            },
        ],
    ),
}


@pytest.mark.parametrize(("kind", "surface"), [("openai", surface) for surface in PATHS])
@STREAMED
def test_an_answer_at_half_the_price_costs_half_passed_through_and_translated(scene: Scene, stream: bool) -> None:
    whole, events = FLEX[scene.dialect]
    if stream:
        scene.streams([{**event, "service_tier": "flex"} if "type" not in event else event for event in events])
    else:
        scene.answers({**whole, "service_tier": "flex"})
    assert b"Hello" in scene.ask(stream=stream)
    record = records(scene.gateway)[-1]
    assert (record["cost_nanos"], record["cost_status"]) == ((19_000 + 20_000) // 2, "exact")
    assert '"service_tier":"flex"' in record["attempts"]


@pytest.mark.parametrize(("kind", "surface"), [(kind, "chat") for kind in KINDS])
def test_the_sdks_read_empty_streams(scene: Scene) -> None:
    base = f"http://127.0.0.1:{scene.gateway.port}"
    said: list[Any] = [{"role": "user", "content": "Hi"}]
    with (
        openai.OpenAI(base_url=f"{base}/v1", api_key=KEY, max_retries=0) as gpt,
        anthropic.Anthropic(base_url=base, api_key=KEY, max_retries=0) as claude,
    ):
        for kind, (dialect, events) in STREAMS.items():
            if dialect != scene.dialect:
                continue
            scene.streams(events)
            with claude.messages.stream(model="auto", max_tokens=50, messages=said) as came:
                message = came.get_final_message()
            assert message.usage.output_tokens == 10, kind
            assert message.stop_reason == (None if kind == "messages end alone" else "end_turn"), kind
            if dialect != "chat":  # its bytes would pass through, and "openai" would add the Responses API
                with gpt.chat.completions.stream(model="auto", messages=said) as chunks:
                    [choice] = chunks.get_final_completion().choices
                assert choice.finish_reason == "stop", kind
                with gpt.responses.create(model="auto", input="Hi", stream=True) as made:
                    assert [event.type for event in made][-1] == "response.completed", kind


@pytest.mark.parametrize(("kind", "surface"), [("openai", "generate")])
def test_json_mode_rejects_an_answer_without_text(scene: Scene) -> None:
    scene.answers(WHOLE["chat null"][1])

    answer = scene.gateway.ask(json_mode=True)

    assert (answer.status, answer.json["code"]) == (502, "provider_error")
    assert "The request requires JSON, and the answer is not JSON" in answer.json["detail"]
