"""Tests of the delta serializer: interleaved tool calls are written one after the other."""

from __future__ import annotations

import json

import pytest

from llm_gateway.domain.conversation import ChoiceEnd, Chunk, ReplyStart, TextDelta, ToolCall, ToolDelta, ToolStart
from llm_gateway.domain.reply_assembler import ReplyAssembler
from llm_gateway.protocols import anthropic_messages, openai_chat, openai_responses
from llm_gateway.protocols.contract import ReplyContext
from llm_gateway.protocols.delta_serializer import DeltaSerializer
from llm_gateway.sse import Splitter

FIRST, SECOND = ToolStart(call=0, id="call_a", name="a"), ToolStart(call=1, id="call_b", name="b")
TURNS: list[Chunk] = [
    FIRST, SECOND,
    ToolDelta(call=0, arguments='{"x":'), ToolDelta(call=1, arguments='{"y":'), TextDelta(text="and"),
    ToolDelta(call=0, arguments="1}"), ToolDelta(call=1, arguments="2}"),
]  # fmt: skip
CONTEXT = ReplyContext(request_id="1", model="m", created_s=1, document={})


def test_chunks_in_the_middle_of_a_call_are_held_back() -> None:
    delta_serializer = DeltaSerializer()
    written = [each for chunk in TURNS for each in delta_serializer.take(chunk)]

    assert written == [TURNS[0], TURNS[2], TURNS[5]]
    assert delta_serializer.end() == [TURNS[1], TURNS[3], TURNS[6], TURNS[4]]
    assert delta_serializer.end() == []


def test_consecutive_calls_are_not_held_back() -> None:
    chunks: list[Chunk] = [
        TextDelta(text="so"), FIRST, ToolDelta(call=0, arguments="{"), ToolDelta(call=0, arguments="}"),
        SECOND, ToolDelta(call=1, arguments="{}"), TextDelta(text="and"), ChoiceEnd(reason="tool_calls"),
    ]  # fmt: skip
    delta_serializer = DeltaSerializer()

    assert [delta_serializer.take(chunk) for chunk in chunks] == [[chunk] for chunk in chunks]
    assert delta_serializer.end() == []


@pytest.mark.parametrize("protocol", [anthropic_messages, openai_responses, openai_chat])
def test_interleaved_calls_keep_all_their_arguments(protocol: object) -> None:
    writer = protocol.StreamWriter(CONTEXT)  # type: ignore[attr-defined]
    reader, assembler = protocol.StreamReader(), ReplyAssembler()  # type: ignore[attr-defined]
    chunks = [ReplyStart(id="1", model="m"), *TURNS, ChoiceEnd(reason="tool_calls")]
    body = b"".join([writer.write(chunk) for chunk in chunks]) + writer.end()
    for event in Splitter(10_000_000).take(body):
        for chunk in reader.take(event):
            assembler.take(chunk)

    parts = assembler.completion().choices[0].parts
    calls = {part.name: json.loads(part.arguments) for part in parts if isinstance(part, ToolCall)}
    assert calls == {"a": {"x": 1}, "b": {"y": 2}}
