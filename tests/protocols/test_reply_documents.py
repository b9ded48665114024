"""Tests of the documents that clients get: null only where the vendor documents it, and one rule for the model's name.

A popular JavaScript client of the Messages API refuses an answer with `"citations": null`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llm_gateway.domain.conversation import Choice, Completion, Refusal, Text, Thinking, ToolCall
from llm_gateway.domain.reply_assembler import chunks_of
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.contract import ReplyContext
from llm_gateway.protocols.registry import PROTOCOLS

MODEL_FIELDS = {"openai_chat": "model", "anthropic_messages": "model", "gemini_content": "modelVersion"}
NULLABLE = {
    # https://developers.openai.com/api/reference/resources/chat: "string or null", "object or null"; a stream's
    # finish_reason is null until the end
    "openai_chat": {"choices.message.content", "choices.message.refusal", "choices.logprobs", "choices.finish_reason"},
    # https://platform.claude.com/docs/en/api/messages: "null in the message_start event", "or null"
    "anthropic_messages": {
        "stop_reason", "stop_sequence", "message.stop_reason", "message.stop_sequence", "delta.stop_sequence",
    },
    "gemini_content": set(),
}  # fmt: skip
COMPLETIONS = {
    "text": Choice(parts=[Text(text="Hi")]),
    "thought and signature": Choice(parts=[Thinking(text="Hm"), Text(text="Hi", signature="s")]),
    "call": Choice(parts=[ToolCall(id="c", name="t", arguments="{}")], finish_reason="tool_calls"),
    "refusal": Choice(parts=[Refusal(text="No")], finish_reason="content_filter"),
    "empty": Choice(parts=[]),
    "stop sequence": Choice(parts=[Text(text="Hi")], stop_sequence="."),
    "logprobs": Choice(
        parts=[Text(text="Hi")], logprobs={"content": [{"token": "Hi", "logprob": -1.0, "top_logprobs": []}]}
    ),
}


def nulls(value: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of nulls in a document, without indices."""
    if isinstance(value, dict):
        for name, inner in value.items():
            place = f"{path}.{name}" if path else name
            if inner is None:
                yield place
            yield from nulls(inner, place)
    elif isinstance(value, list):
        for inner in value:
            yield from nulls(inner, path)


def documents(protocol: str, choice: Choice, model: str | None = None) -> tuple[Any, list[Any]]:
    """Return a client's whole answer, and the documents of the events of the same answer as a stream."""
    descriptor = PROTOCOLS[protocol]
    completion = Completion(choices=[choice], usage=Usage(input_tokens=3, output_tokens=2), model=model)
    document = {"stream_options": {"include_usage": True}}
    context = ReplyContext(request_id="r", model="asked", created_s=1, document=document, query=b"alt=sse")
    assert descriptor.stream_writer is not None
    writer = descriptor.stream_writer(context)
    streamed = b"".join(writer.write(chunk) for chunk in chunks_of(completion)) + writer.end()
    lines = [line[6:] for line in streamed.decode().splitlines() if line.startswith("data: ")]
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    return json.loads(descriptor.write_reply(completion, context)), events


@pytest.mark.parametrize("protocol", NULLABLE)
@pytest.mark.parametrize("name", COMPLETIONS)
def test_a_field_is_null_only_where_the_vendor_documents_it(protocol: str, name: str) -> None:
    whole, events = documents(protocol, COMPLETIONS[name])

    assert set(nulls([whole, *events])) <= NULLABLE[protocol]
    assert "citations" not in json.dumps([whole, events])


@pytest.mark.parametrize("protocol", MODEL_FIELDS)
@pytest.mark.parametrize(("reported", "shown"), [("vendor-model-2026", "vendor-model-2026"), (None, "asked")])
def test_whole_answers_and_streams_name_the_same_model(protocol: str, reported: str | None, shown: str) -> None:
    field = MODEL_FIELDS[protocol]

    whole, events = documents(protocol, COMPLETIONS["text"], reported)

    named = [event.get("message", event)[field] for event in events if field in event.get("message", event)]
    assert whole[field] == shown
    assert named
    assert set(named) == {shown}
