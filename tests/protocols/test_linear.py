"""Tests that reading and writing streams takes linear time: an event costs the same early and late in a stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import pytest

from llm_gateway.domain.conversation import (
    ChoiceEnd,
    Chunk,
    Conversation,
    Part,
    RefusalDelta,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    Turn,
)
from llm_gateway.domain.reply_assembler import ReplyAssembler
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.call_ids import make_calls_unique
from llm_gateway.protocols.contract import ReplyContext
from llm_gateway.sse import Event
from tests.protocols.vendor_replies import encoded

FEW, MANY = 500, 8_000
MOST = 2.6
"""Allowed factor between the cost of an event among MANY and among FEW; quadratic work has a factor of 16. It is passed
when what an event costs in addition for each event before it is more than a 2,100th of its own cost."""
TRIES = 5
CONTEXT = ReplyContext(request_id="1", model="m", created_s=7, document={})
LOGPROBS = {"content": [{"token": "x", "logprob": -0.1, "bytes": None, "top_logprobs": []}]}


def chat(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def block(**delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": delta}


def generated(*parts: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts)}}]}


BEGIN_TOOL = {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "f"}}
ITEM = {"type": "response.output_item.added", "output_index": 0, "item": {"type": "function_call", "name": "f"}}
CALL = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "x"}}
EVENTS: dict[str, tuple[Callable[[], Any], list[dict[str, Any]]]] = {
    "chat text": (openai_chat.StreamReader, [chat(content="x")]),
    "chat odd": (openai_chat.StreamReader, [chat(content="x") | {"id": 5, "usage": {"prompt_tokens": "3"}}]),
    "chat thoughts": (openai_chat.StreamReader, [chat(reasoning_content="x")]),
    "chat tool": (openai_chat.StreamReader, [chat(tool_calls=[CALL])]),
    "chat tools without index": (
        openai_chat.StreamReader,
        [
            chat(tool_calls=[{"id": "c", "function": {"name": "f"}}]),
            chat(tool_calls=[{"function": {"arguments": "x"}}]),
        ],
    ),
    "chat in turns": (openai_chat.StreamReader, [chat(content="x"), chat(reasoning_content="x")]),
    "chat logprobs": (
        openai_chat.StreamReader,
        [{"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": LOGPROBS}]}],
    ),
    "messages text": (anthropic_messages.StreamReader, [block(text="x")]),
    "messages json": (lambda: anthropic_messages.StreamReader(wants_json=True), [block(text="x")]),
    "messages tool": (anthropic_messages.StreamReader, [BEGIN_TOOL, block(partial_json="x")]),
    "messages counts": (
        anthropic_messages.StreamReader,
        [block(thinking="x"), {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 1}}],
    ),
    "responses text": (openai_responses.StreamReader, [{"type": "response.output_text.delta", "delta": "x"}]),
    "responses logprobs": (
        openai_responses.StreamReader,
        [{"type": "response.output_text.delta", "delta": "x", "logprobs": LOGPROBS["content"]}],
    ),
    "responses tool": (
        openai_responses.StreamReader,
        [ITEM, {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "x"}],
    ),
    "gemini text": (gemini.StreamReader, [generated({"text": "x"})]),
    "gemini tools": (gemini.StreamReader, [generated({"functionCall": {"name": "f", "args": {}}})]),
}
TEXT, THOUGHT = TextDelta(text="x"), ThinkingDelta(text="x")
BEGIN, BEGIN_OTHER = ToolStart(call=0, id="a", name="f"), ToolStart(call=1, id="b", name="f")
CHUNKS: dict[str, tuple[list[Chunk], list[Chunk]]] = {
    "text": ([], [TEXT]),
    "logprobs": ([], [TextDelta(text="x", logprobs=LOGPROBS)]),
    "text and refusal": ([], [TEXT, RefusalDelta(text="x")]),
    "thoughts": ([], [THOUGHT]),
    "signed thoughts": ([], [ThinkingDelta(text="x", signature="s")]),
    "text and thoughts": ([], [TEXT, THOUGHT]),
    "a tool": ([BEGIN], [ToolDelta(call=0, arguments="x")]),
    "tools in turns": ([BEGIN, BEGIN_OTHER], [ToolDelta(call=0, arguments="x"), ToolDelta(call=1, arguments="x")]),
    "text in a tool": ([BEGIN], [TEXT, ToolDelta(call=0, arguments="x")]),
    "whole tools": ([], [BEGIN, ToolDelta(call=0, arguments="{}")]),
    "ends": ([], [TEXT, ChoiceEnd()]),
}
WRITERS = {
    "chat": openai_chat,
    "messages": anthropic_messages,
    "responses": openai_responses,
    "gemini": gemini,
}


def is_linear(work: Callable[[int], None]) -> bool:
    """Return whether an event among MANY costs at most MOST times one among FEW, in one of TRIES attempts."""
    return any(_cost(work, MANY) / MANY < MOST * _cost(work, FEW) / FEW for _ in range(TRIES))


def _cost(work: Callable[[int], None], count: int) -> float:
    began = time.process_time()
    work(count)
    return time.process_time() - began


@pytest.mark.parametrize("kind", EVENTS)
def test_reading_an_event_costs_the_same_late_in_a_stream(kind: str) -> None:
    make, documents = EVENTS[kind]
    events = [Event(b"", encoded(document), b"") for document in documents]

    def read(count: int) -> None:
        reader, assembler = make(), ReplyAssembler()
        for event in islice(cycle(events), count):
            for chunk in reader.take(event):
                assembler.take(chunk)
            assert not assembler.is_finished
        assembler.completion()

    assert is_linear(read)


@pytest.mark.parametrize("surface", WRITERS)
@pytest.mark.parametrize("kind", CHUNKS)
def test_writing_a_chunk_costs_the_same_late_in_a_stream(kind: str, surface: str) -> None:
    first, repeated = CHUNKS[kind]

    def write(count: int) -> None:
        writer = WRITERS[surface].StreamWriter(CONTEXT)
        for chunk in [*first, *islice(cycle(repeated), count)]:
            writer.write(chunk)
        writer.end()

    assert is_linear(write)


def test_a_reply_with_many_choices_costs_the_same_for_each() -> None:
    def collect(count: int) -> None:
        assembler = ReplyAssembler()
        for choice in range(count):
            assembler.take(TextDelta(text="x", choice=choice))
            assembler.take(ChoiceEnd(choice=choice))
            assert assembler.is_finished
        assembler.completion()

    assert is_linear(collect)


def test_a_history_of_calls_with_one_id_costs_the_same_for_each() -> None:
    def rename(count: int) -> None:
        parts: list[Part] = [ToolCall(id="c", name="t", arguments="{}") for _ in range(count)]
        make_calls_unique(Conversation(turns=[Turn(role="assistant", parts=parts)]))

    assert is_linear(rename)


def test_quadratic_work_is_detected() -> None:
    def quadratic(count: int) -> None:
        text = ""
        for _ in range(count // 8):
            text += "x"
            text.count("y", 0, len(text) * 8)
            sum(range(len(text)))

    assert not is_linear(quadratic)
