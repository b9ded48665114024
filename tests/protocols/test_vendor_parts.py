"""Tests of replies with parts that only one protocol knows, and of vendors' variants of known parts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_gateway.domain.conversation import (
    ChoiceEnd,
    Text,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    VendorPart,
    VendorPartDelta,
)
from llm_gateway.domain.reply_assembler import ReplyAssembler
from llm_gateway.protocols import anthropic_messages, openai_chat, openai_responses
from llm_gateway.protocols.contract import Malformed, ReplyContext
from llm_gateway.protocols.json_tool import JSON_TOOL
from llm_gateway.sse import Event

USAGE = {"prompt_tokens": 5, "completion_tokens": 5}
CUSTOM = {"id": "c1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
CONTEXT = ReplyContext(request_id="1", model="m", created_s=7, document={})


def read_events(reader: Any, *documents: Any) -> list[Any]:
    return [chunk for d in documents for chunk in reader.take(Event(b"", json.dumps(d).encode(), b""))]


def chat(message: Any, finish_reason: str = "stop") -> bytes:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish_reason}], "usage": USAGE}).encode()


def message(*content: Any, stop_reason: str | None = "end_turn") -> bytes:
    return json.dumps({"content": list(content), "stop_reason": stop_reason}).encode()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (openai_chat.read_reply(chat({"content": None, "tool_calls": [CUSTOM]}, "tool_calls")), "custom"),
        (openai_chat.read_reply(chat({"content": None, "audio": {"id": "a", "data": "aGk="}})), "audio"),
        (openai_chat.read_reply(chat({"content": None, "function_call": {"name": "f"}})), "function_call"),
        (
            openai_responses.read_reply(b'{"output":[{"type":"image_generation_call","id":"i"}],"status":"completed"}'),
            "image_generation_call",
        ),
        (
            anthropic_messages.read_reply(message({"type": "server_tool_use", "id": "s"}, stop_reason="pause_turn")),
            "server_tool_use",
        ),
    ],
)
def test_parts_that_no_other_protocol_knows_are_read_as_vendor_parts(reply: Any, kind: str) -> None:
    assert reply.choices[0].parts == [VendorPart(kind=kind)]


def test_an_empty_message_with_a_stop_reason_is_an_answer() -> None:
    """Source: https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons#empty-responses-with-end_turn."""
    assert anthropic_messages.read_reply(message()).choices[0].parts == []
    with pytest.raises(Malformed):
        anthropic_messages.read_reply(message(stop_reason=None))


def chat_delta(**delta: Any) -> Any:
    return {"choices": [{"delta": delta}]}


@pytest.mark.parametrize(
    ("reader", "event", "kind"),
    [
        (openai_chat.StreamReader(), chat_delta(tool_calls=[{**CUSTOM, "index": 0}]), "custom"),
        (openai_chat.StreamReader(), chat_delta(audio={"data": "aGk="}), "audio"),
        (
            openai_responses.StreamReader(),
            {"type": "response.output_item.added", "item": {"type": "custom_tool_call"}},
            "custom_tool_call",
        ),
        (
            anthropic_messages.StreamReader(),
            {"type": "content_block_start", "content_block": {"type": "server_tool_use", "id": "s", "input": {}}},
            "server_tool_use",
        ),
    ],
)
def test_vendor_parts_in_a_stream_are_read(reader: Any, event: Any, kind: str) -> None:
    chunks = read_events(reader, event)
    assert chunks[-1] == VendorPartDelta(kind=kind)

    assembler = ReplyAssembler()
    for chunk in (*chunks, *chunks[-1:], ChoiceEnd()):
        assembler.take(chunk)
    assert assembler.completion().choices[0].parts == [VendorPart(kind=kind)]


@pytest.mark.parametrize("protocol", [openai_chat, openai_responses, anthropic_messages])
def test_writers_leave_vendor_parts_out(protocol: Any) -> None:
    writer = protocol.StreamWriter(CONTEXT)
    assert writer.write(VendorPartDelta(kind="audio")) == b""
    writer.write(TextDelta(text="Hello"))
    assert b"audio" not in writer.end()


def test_stop_after_a_forced_call_is_read_as_tool_calls() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert openai_chat.read_reply(chat({"tool_calls": [call]})).choices[0].finish_reason == "tool_calls"

    reader = openai_chat.StreamReader()
    read_events(reader, chat_delta(tool_calls=[{**call, "index": 0}]))
    assert read_events(reader, {"choices": [{"delta": {}, "finish_reason": "stop"}]}) == [
        ChoiceEnd(reason="tool_calls")
    ]


def test_arguments_sent_as_an_object_become_json_text() -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}
    [part] = openai_chat.read_reply(chat({"tool_calls": [call]})).choices[0].parts
    assert part == ToolCall(id="c1", name="f", arguments='{"a":1}')


def test_streamed_content_that_is_a_list_is_read() -> None:
    """Source: https://docs.mistral.ai/capabilities/reasoning."""
    thought = chat_delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}])
    chunks = read_events(openai_chat.StreamReader(), thought, chat_delta(content=[{"type": "text", "text": "Well"}]))
    assert chunks[1:] == [ThinkingDelta(text="Hm"), TextDelta(text="Well")]


def start(index: int, **block: Any) -> Any:
    return {"type": "content_block_start", "index": index, "content_block": block}


def piece(index: int, **delta: Any) -> Any:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def stop(index: int) -> Any:
    return {"type": "content_block_stop", "index": index}


def ended(reason: str) -> Any:
    return {"type": "message_delta", "delta": {"stop_reason": reason}}


@pytest.mark.parametrize(("given", "last"), [({}, stop(0)), ({"a": 1}, stop(0)), ({}, ended("tool_use"))])
def test_a_call_without_argument_deltas_has_the_arguments_of_its_start(given: Any, last: Any) -> None:
    tool = start(0, type="tool_use", id="t1", name="f", input=given)
    chunks = read_events(
        anthropic_messages.StreamReader(), tool, piece(0, type="input_json_delta", partial_json=""), last
    )
    assert chunks[:2] == [ToolStart(call=0, id="t1", name="f"), ToolDelta(call=0, arguments=json.dumps(given))]


def test_argument_deltas_replace_the_arguments_of_the_start() -> None:
    tool = start(0, type="tool_use", id="t1", name="f", input={})
    chunks = read_events(
        anthropic_messages.StreamReader(), tool, piece(0, partial_json="{}"), stop(0), ended("tool_use")
    )
    assert [chunk.arguments for chunk in chunks if isinstance(chunk, ToolDelta)] == ["{}"]


TALK = {"type": "text", "text": "Here is the JSON:"}
ANSWER = {"type": "tool_use", "id": "t1", "name": JSON_TOOL, "input": {"a": 1}}
SEARCH = {"type": "tool_use", "id": "t2", "name": "search", "input": {}}


def test_text_around_a_json_answer_is_dropped() -> None:
    [choice] = anthropic_messages.read_reply(message(TALK, ANSWER, stop_reason="tool_use")).choices
    assert (choice.parts, choice.finish_reason) == ([Text(text='{"a": 1}')], "stop")

    [beside] = anthropic_messages.read_reply(message(SEARCH, ANSWER, stop_reason="tool_use")).choices
    assert beside.finish_reason == "tool_calls"
    [without] = anthropic_messages.read_reply(message(TALK)).choices
    assert without.parts == [Text(text="Here is the JSON:")]


def test_text_before_a_json_answer_is_held_back_in_a_stream() -> None:
    talk = [start(0, type="text", text=""), piece(0, text="Here"), piece(0, text=" it is:"), stop(0)]
    answer = [start(1, type="tool_use", id="t1", name=JSON_TOOL, input={}), piece(1, partial_json='{"a":1}'), stop(1)]
    after = [start(2, type="text", text="That was it."), stop(2), ended("tool_use")]
    chunks = read_events(anthropic_messages.StreamReader(wants_json=True), *talk, *answer, *after)
    assert chunks == [TextDelta(text='{"a":1}'), ChoiceEnd(reason="stop")]

    without = read_events(anthropic_messages.StreamReader(wants_json=True), *talk, ended("end_turn"))
    assert without == [TextDelta(text="Here it is:"), ChoiceEnd(reason="stop")]
    thinking = read_events(anthropic_messages.StreamReader(wants_json=True), piece(0, thinking="Hm"))
    assert thinking == [ThinkingDelta(text="Hm")]
