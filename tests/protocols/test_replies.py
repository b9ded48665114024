"""Tests of replies with thoughts, refusals and tool calls, read and written whole and as streams; and of errors."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from anthropic.types import Message
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from llm_gateway.domain.conversation import (
    Choice,
    ChoiceEnd,
    Completion,
    Refusal,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
)
from llm_gateway.domain.reply_assembler import ReplyAssembler, chunks_of
from llm_gateway.domain.usage import Usage
from llm_gateway.errors import Invalid, NotSupported, Overloaded, RateLimited, Unauthorized
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.anthropic_messages.errors import write_error as anthropic_error
from llm_gateway.protocols.contract import Malformed, ReplyContext, UpstreamError
from llm_gateway.protocols.openai_chat.errors import write_error as openai_error
from llm_gateway.sse import Event, Splitter

CONTEXT = ReplyContext(request_id="1", model="m", created_s=7, document={})
RICH = Completion(
    choices=[
        Choice(
            parts=[
                Thinking(text="Hm", signature="sig"),
                Thinking(redacted="sealed"),
                Text(text="It is "),
                Refusal(text="no."),
                ToolCall(id="c1", name="t", arguments='{"a":1}', signature="s"),
                ToolCall(id="c2", name="t", arguments="[oops"),
            ],
            finish_reason="tool_calls",
        )
    ],
    usage=Usage(input_tokens=10, output_tokens=5, cache_read_tokens=4, reasoning_tokens=2),
    model="m",
)
SURFACES = pytest.mark.parametrize(
    ("protocol", "judge"),
    [(openai_chat, ChatCompletion), (anthropic_messages, Message), (openai_responses, Response)],
    ids=["chat", "messages", "responses"],
)


@SURFACES
def test_replies_are_valid_for_the_types_of_the_vendors_sdks(protocol: ModuleType, judge: Any) -> None:
    for reason in ("stop", "length", "content_filter", "tool_calls"):
        completion = Completion(choices=[Choice(parts=RICH.choices[0].parts, finish_reason=reason)], usage=RICH.usage)
        judge.model_validate(json.loads(protocol.write_reply(completion, CONTEXT)), strict=False)


@SURFACES
def test_a_written_reply_is_read_back(protocol: ModuleType, judge: Any) -> None:
    del judge
    [choice] = protocol.read_reply(protocol.write_reply(RICH, CONTEXT)).choices

    said = "".join(part.text for part in choice.parts if isinstance(part, Text | Refusal))
    assert said == "It is no."
    assert [part.id for part in choice.parts if isinstance(part, ToolCall)] == ["c1", "c2"]
    assert "".join(part.text for part in choice.parts if isinstance(part, Thinking)) == "Hm"


@SURFACES
def test_a_written_stream_is_read_back(protocol: ModuleType, judge: Any) -> None:
    del judge
    writer, reader, assembler = protocol.StreamWriter(CONTEXT), protocol.StreamReader(), ReplyAssembler()
    body = b"".join(writer.write(chunk) for chunk in chunks_of(RICH)) + writer.end()
    for event in Splitter(1_000_000).take(body):
        for chunk in reader.take(event):
            assembler.take(chunk)

    [choice] = assembler.completion().choices
    assert choice.finish_reason == "tool_calls"
    assert "".join(part.text for part in choice.parts if isinstance(part, Text | Refusal)) == "It is no."
    calls = [(part.id, part.name, part.arguments) for part in choice.parts if isinstance(part, ToolCall)]
    assert calls == [("c1", "t", '{"a":1}'), ("c2", "t", "[oops")]


def read_events(reader: Any, *documents: Any) -> list[Any]:
    return [chunk for d in documents for chunk in reader.take(Event(b"", json.dumps(d).encode(), b""))]


def test_reasoning_fields_of_other_vendors_are_read() -> None:
    deltas = [{"reasoning_content": "a"}, {"reasoning": "b"}, {"content": "c"}]
    chunks = read_events(openai_chat.StreamReader(), *[{"choices": [{"delta": delta}]} for delta in deltas])

    assert chunks[1:] == [ThinkingDelta(text="a"), ThinkingDelta(text="b"), TextDelta(text="c")]


def test_deltas_without_an_index_belong_to_the_last_call() -> None:
    calls = [{"id": "x", "function": {"name": "t", "arguments": "{"}}, {"function": {"arguments": "}"}}]
    chunks = read_events(
        openai_chat.StreamReader(), *[{"choices": [{"delta": {"tool_calls": [call]}}]} for call in calls]
    )

    assert chunks[1:] == [
        ToolStart(call=0, id="x", name="t"),
        ToolDelta(call=0, arguments="{"),
        ToolDelta(call=0, arguments="}"),
    ]


def test_a_gemini_reply_with_thoughts_and_a_call_is_read() -> None:
    parts = [
        {"text": "Hm", "thought": True},
        {"text": "So"},
        {"functionCall": {"name": "t", "args": {"a": 1}}, "thoughtSignature": "s"},
    ]
    document = {
        "candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 7, "thoughtsTokenCount": 2},
        "responseId": "r",
        "modelVersion": "g",
    }
    completion = gemini.read_reply(json.dumps(document).encode())

    [choice] = completion.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.parts == [
        Thinking(text="Hm"),
        Text(text="So"),
        ToolCall(id="call_r_0_0", name="t", arguments='{"a": 1}', signature="s"),
    ]
    assert completion.usage == Usage(input_tokens=5, output_tokens=9, reasoning_tokens=2)
    blocked = read_events(gemini.StreamReader(), {"promptFeedback": {"blockReason": "SAFETY"}})
    assert blocked[1:] == [ChoiceEnd(reason="content_filter")]


@pytest.mark.parametrize(
    ("reader", "document"),
    [
        (openai_chat.StreamReader, {"error": {"message": "on fire"}}),
        (openai_chat.StreamReader, {"error": "on fire"}),
        (
            anthropic_messages.StreamReader,
            {"type": "error", "error": {"type": "overloaded_error", "message": "on fire"}},
        ),
        (openai_responses.StreamReader, {"type": "error", "message": "on fire"}),
        (openai_responses.StreamReader, {"type": "response.failed", "response": {"error": {"message": "on fire"}}}),
        (gemini.StreamReader, {"error": {"message": "on fire", "status": "INTERNAL"}}),
    ],
)
def test_an_error_event_raises_an_upstream_error(reader: Any, document: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError, match="on fire"):
        read_events(reader(), document)


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (openai_chat.read_reply, b'{"choices": []}'),
        (openai_chat.read_reply, b'{"choices": [{"message": {}}]}'),
        (openai_chat.read_reply, b'{"choices": [{"message": {"content": "x"}, "finish_reason": "error"}]}'),
        (anthropic_messages.read_reply, b'{"content": []}'),
        (anthropic_messages.read_reply, b"[]"),
        (openai_responses.read_reply, b'{"output": [], "status": "in_progress"}'),
        (openai_responses.read_reply, b'{"status": "failed", "error": {"message": "x"}}'),
        (gemini.read_reply, b"{}"),
        (gemini.read_reply, b'{"candidates": [{}]}'),
        (gemini.read_reply, b'{"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}'),
    ],
)
def test_an_incomplete_reply_is_malformed(read: Any, body: bytes) -> None:
    with pytest.raises(Malformed):
        read(body)


def test_errors_have_the_format_of_each_vendor() -> None:
    invalid = Invalid("temperature is no number.", loc=("body", "temperature"))
    one = json.loads(openai_error(invalid, "r"))["error"]
    assert (one["type"], one["param"], one["code"]) == ("invalid_request_error", "temperature", "validation_error")
    assert json.loads(openai_error(NotSupported("x", field="n"), "r"))["error"]["param"] == "n"
    kinds = [
        (RateLimited("x"), "rate_limit_error", "rate_limit_error"),
        (Unauthorized("x"), "authentication_error", "authentication_error"),
        (Overloaded("x"), "server_error", "overloaded_error"),
    ]
    for error, openais, anthropics in kinds:
        assert json.loads(openai_error(error, "r"))["error"]["type"] == openais
        found = json.loads(anthropic_error(error, "r"))
        assert (found["type"], found["error"]["type"], found["request_id"]) == ("error", anthropics, "r")
