"""Tests of token counts: each vendor's usage is read as its documentation defines it, whole and streamed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llm_gateway.domain.conversation import (
    ChoiceEnd,
    Chunk,
    Completion,
    ReplyStart,
    Text,
    TextDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    UsageUpdate,
)
from llm_gateway.domain.reply_assembler import ReplyAssembler
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols import anthropic_messages, openai_chat, openai_responses
from llm_gateway.protocols.contract import ReplyContext
from llm_gateway.protocols.reported_values import MAX_COUNT
from llm_gateway.sse import Splitter
from tests.protocols.vendor_replies import DIALECTS, encoded, read_stream

CONTEXT = ReplyContext(request_id="1", model="m", created_s=7, document={"stream_options": {"include_usage": True}})
Document = dict[str, Any]
WHOLE: dict[str, Document] = {
    "chat": {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]},
    "messages": {"content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn"},
    "responses": {
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}],
    },
    "gemini": {"candidates": [{"content": {"parts": [{"text": "Hello"}]}, "finishReason": "STOP"}]},
}
EXACT: dict[str, tuple[str, Document, Usage]] = {
    "OpenAI's audio: https://platform.openai.com/docs/guides/audio": (
        "chat",
        {
            "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
            "prompt_tokens_details": {"audio_tokens": 60, "cached_tokens": 20},
            "completion_tokens_details": {"audio_tokens": 40, "reasoning_tokens": 5},
        },
        Usage(
            input_tokens=100, output_tokens=50, audio_input_tokens=60, cache_read_tokens=20, audio_output_tokens=40,
            reasoning_tokens=5,
        ),
    ),
    "reasoning is a part of OpenAI's completion": (
        "chat",
        {
            "prompt_tokens": 10, "completion_tokens": 50, "total_tokens": 60,
            "completion_tokens_details": {"reasoning_tokens": 48},
        },
        Usage(input_tokens=10, output_tokens=50, reasoning_tokens=48),
    ),
    "reasoning comes on top of xAI's completion, as its total tells": (
        "chat",
        {
            "prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 60,
            "completion_tokens_details": {"reasoning_tokens": 48},
        },
        Usage(input_tokens=10, output_tokens=50, reasoning_tokens=48),
    ),
    "a part is never more than its total": (
        "chat",
        {
            "prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 11},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
        Usage(input_tokens=10, output_tokens=2, cache_read_tokens=10, reasoning_tokens=2),
    ),
    "details that are null": (
        "chat",
        {
            "prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": None,
            "completion_tokens_details": {"reasoning_tokens": None},
        },
        Usage(input_tokens=10, output_tokens=2),
    ),
    "the most that is believed": (
        "chat",
        {"prompt_tokens": MAX_COUNT, "completion_tokens": MAX_COUNT},
        Usage(input_tokens=MAX_COUNT, output_tokens=MAX_COUNT),
    ),
    # https://platform.claude.com/docs/en/build-with-claude/prompt-caching#tracking-cache-performance
    "Anthropic counts the cache beside the input": (
        "messages",
        {
            "input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        },
        Usage(
            input_tokens=135, output_tokens=7, cache_read_tokens=100, cache_write_tokens=30, cache_write_1h_tokens=20,
        ),
    ),
    "what was written to Anthropic's cache, by its lifetimes alone": (
        "messages",
        {
            "input_tokens": 5, "output_tokens": 7,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        },
        Usage(input_tokens=35, output_tokens=7, cache_write_tokens=30, cache_write_1h_tokens=20),
    ),
    "all of the input from Anthropic's cache": (
        "messages",
        {"input_tokens": 0, "output_tokens": 7, "cache_read_input_tokens": 100, "cache_creation_input_tokens": None},
        Usage(input_tokens=100, output_tokens=7, cache_read_tokens=100),
    ),
    "OpenAI's Responses": (
        "responses",
        {
            "input_tokens": 36, "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 4},
            "output_tokens": 87, "output_tokens_details": {"reasoning_tokens": 80}, "total_tokens": 123,
        },
        Usage(
            input_tokens=36, output_tokens=87, cache_read_tokens=30, cache_write_tokens=4, reasoning_tokens=80,
        ),
    ),
    "Gemini counts thoughts and the results of tools apart: https://ai.google.dev/api/generate-content#UsageMetadata": (
        "gemini",
        {
            "promptTokenCount": 100, "cachedContentTokenCount": 40, "toolUsePromptTokenCount": 10,
            "candidatesTokenCount": 20, "thoughtsTokenCount": 300, "totalTokenCount": 430,
        },
        Usage(input_tokens=110, output_tokens=320, cache_read_tokens=40, reasoning_tokens=300),
    ),
    "Gemini counts sound by its modality": (
        "gemini",
        {
            "promptTokenCount": 100, "candidatesTokenCount": 20,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 10}, {"modality": "AUDIO", "tokenCount": 90}],
            "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 5}],
        },
        Usage(input_tokens=100, output_tokens=20, audio_input_tokens=90, audio_output_tokens=5),
    ),
}  # fmt: skip


def counted(name: str, usage: Any) -> Completion:
    """Read a reply of the dialect with this usage."""
    field = DIALECTS[name].usage
    return DIALECTS[name].read(encoded({**WHOLE[name], field: usage}))


@pytest.mark.parametrize("case", EXACT)
def test_counts_are_read_as_the_vendor_defines_them(case: str) -> None:
    name, reported, expected = EXACT[case]

    completion = counted(name, reported)

    assert (completion.usage, completion.usage_estimated) == (expected, False)


@pytest.mark.parametrize("case", EXACT)
def test_counts_in_a_stream_are_those_of_the_whole_reply(case: str) -> None:
    name, reported, expected = EXACT[case]
    dialect = DIALECTS[name]
    events = [{**event, dialect.usage: reported} if event.get(dialect.usage) else event for event in dialect.stream]
    if name == "messages":
        events[0] = {"type": "message_start", "message": {"id": "m", "usage": {**reported, "output_tokens": 1}}}
    elif name == "responses":
        events[-1] = {"type": "response.completed", "response": {"status": "completed", "usage": reported}}

    completion, is_complete = read_stream(dialect, events)

    assert is_complete
    assert (completion.usage, completion.usage_estimated) == (expected, False)


IMPLAUSIBLE: list[tuple[str, Any]] = [
    ("chat", None),
    ("chat", {}),
    ("chat", {"prompt_tokens": 0, "completion_tokens": 0}),
    ("chat", {"prompt_tokens": 5}),
    ("chat", {"prompt_tokens": 5, "completion_tokens": 0}),
    ("chat", {"prompt_tokens": MAX_COUNT + 1, "completion_tokens": 5}),
    ("chat", {"prompt_tokens": -5, "completion_tokens": 5}),
    ("messages", {"input_tokens": 5, "output_tokens": 0}),
    ("messages", {"input_tokens": 0, "output_tokens": 5}),
    ("messages", {"input_tokens": MAX_COUNT, "output_tokens": 5, "cache_read_input_tokens": 1}),
    ("messages", {"input_tokens": 5, "output_tokens": 5, "cache_read_input_tokens": -1}),
    ("messages", {"input_tokens": 5, "output_tokens": 5, "cache_creation": {"ephemeral_5m_input_tokens": -1}}),
    ("responses", {"input_tokens": 5, "output_tokens": 0}),
    ("responses", {"input_tokens": 0, "output_tokens": 5}),
    ("gemini", {"promptTokenCount": 5}),
    ("gemini", {"promptTokenCount": 5, "thoughtsTokenCount": 5}),
    ("gemini", {"candidatesTokenCount": 5}),
    ("gemini", {"promptTokenCount": MAX_COUNT, "toolUsePromptTokenCount": 1, "candidatesTokenCount": 5}),
]


@pytest.mark.parametrize(("name", "reported"), IMPLAUSIBLE, ids=str)
def test_implausible_counts_are_replaced_by_an_estimate_from_the_text(name: str, reported: Any) -> None:
    completion = counted(name, reported)

    assert (completion.usage, completion.usage_estimated) == (Usage(output_tokens=2), True)


SURFACES = pytest.mark.parametrize("protocol", [openai_chat, anthropic_messages, openai_responses])
FULL = Usage(input_tokens=100, output_tokens=50, cache_read_tokens=30, cache_write_tokens=20)


@SURFACES
def test_a_client_reads_the_tokens_that_were_billed(protocol: Any) -> None:
    chunks: list[Chunk] = [ReplyStart(), TextDelta(text="Hello"), ChoiceEnd(), UsageUpdate(usage=FULL)]

    assert streamed(protocol, chunks).usage == FULL
    whole = assembled(chunks)
    assert protocol.read_reply(protocol.write_reply(whole, CONTEXT)).usage == FULL


@SURFACES
def test_interleaved_calls_are_written_with_their_own_arguments(protocol: Any) -> None:
    """OpenAI's parallel calls may interleave; Anthropic's and Responses' must be complete before the next begins."""
    chunks: list[Chunk] = [
        ReplyStart(),
        ToolStart(call=0, id="a", name="t"),
        ToolDelta(call=0, arguments='{"a":'),
        ToolStart(call=1, id="b", name="u"),
        ToolDelta(call=1, arguments="{}"),
        TextDelta(text="Hello"),
        ToolDelta(call=0, arguments="1}"),
        ChoiceEnd(reason="tool_calls"),
        UsageUpdate(usage=FULL),
    ]

    told = streamed(protocol, chunks).choices[0].parts

    calls = {part.id: (part.name, part.arguments) for part in told if isinstance(part, ToolCall)}
    assert calls == {"a": ("t", '{"a":1}'), "b": ("u", "{}")}
    assert [part.text for part in told if isinstance(part, Text)] == ["Hello"]


@pytest.mark.parametrize("protocol", [anthropic_messages, openai_responses])
def test_only_the_first_choice_is_written_if_a_protocol_has_only_one(protocol: Any) -> None:
    chunks: list[Chunk] = [
        ReplyStart(),
        TextDelta(text="a", choice=1),
        TextDelta(text="b"),
        ChoiceEnd(choice=1),
        ChoiceEnd(),
    ]

    told = streamed(protocol, chunks)

    assert msgspec.to_builtins(told.choices[0].parts) == [{"type": "text", "text": "a"}]


def assembled(chunks: list[Chunk]) -> Completion:
    """Assemble the completion from the chunks."""
    assembler = ReplyAssembler()
    for chunk in chunks:
        assembler.take(chunk)
    return assembler.completion()


def streamed(protocol: Any, chunks: list[Chunk]) -> Completion:
    """Write the chunks as a stream, and read it as a client does."""
    writer, reader = protocol.StreamWriter(CONTEXT), protocol.StreamReader()
    body = b"".join([writer.write(chunk) for chunk in chunks]) + writer.end()
    return assembled([chunk for event in Splitter(10**6).take(body) for chunk in reader.take(event)])
