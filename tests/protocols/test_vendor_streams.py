"""Tests of streams in which single vendors deviate from the documented form, and of the replies written for them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from llm_gateway.domain.conversation import (
    ChoiceEnd,
    Chunk,
    RefusalDelta,
    ReplyStart,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    VendorPartDelta,
)
from llm_gateway.protocols import anthropic_messages, openai_chat, openai_responses
from llm_gateway.protocols.contract import Malformed, ReplyContext, UpstreamError
from llm_gateway.sse import Event
from tests.protocols.vendor_replies import encoded
from tests.rows import each_row

Document = dict[str, Any]
CONTEXT = ReplyContext(request_id="1", model="m", created_s=7, document={})


def chunks_of(reader: Any, *events: Document | bytes) -> list[Chunk]:
    """Read the events and return the chunks, without `ReplyStart`."""
    chunks: list[Chunk] = []
    for event in events:
        data = event if isinstance(event, bytes) else encoded(event)
        chunks += reader.take(Event(b"", data, b""))
    return [chunk for chunk in chunks if not isinstance(chunk, ReplyStart)]


def delta(reason: str | None = None, index: int = 0, **fields: Any) -> Document:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": reason}]}


def called(arguments: Any = None, name: str | None = None, **fields: Any) -> Document:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return delta(tool_calls=[{**fields, "function": function}])


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
SAID = {"type": "text", "text": "Hi"}
CHAT: dict[str, tuple[list[Document | bytes], list[Chunk]]] = {
    "an index that only the first delta of a call has": (
        [called(name="t", index=0, id="a"), called("{}", id="a")],
        [ToolStart(call=0, id="a", name="t"), ToolDelta(call=0, arguments="{}")],
    ),
    "Mistral's parts: https://docs.mistral.ai/capabilities/reasoning": (
        [delta(content=[THINKING]), delta(content=[SAID])],
        [ThinkingDelta(text="Hm"), TextDelta(text="Hi")],
    ),
    "Mistral's thoughts and text in one delta": (
        [delta(content=[THINKING, SAID])],
        [ThinkingDelta(text="Hm"), TextDelta(text="Hi")],
    ),
    "a part that is neither": ([delta(content=[{"type": "reference", "reference_ids": [1]}])], []),
    "no parts": ([delta(content=[])], []),
    "thoughts and text in one delta": (
        [delta(content="Hi", reasoning_content="Hm")],
        [ThinkingDelta(text="Hm"), TextDelta(text="Hi")],
    ),
    "OpenRouter's word for thoughts": ([delta(content="", reasoning="Hm")], [ThinkingDelta(text="Hm")]),
    "a refusal": ([delta(refusal="No"), delta(refusal=".")], [RefusalDelta(text="No"), RefusalDelta(text=".")]),
    "a call in one piece": (
        [called("{}", "t", index=0, id="a")],
        [ToolStart(call=0, id="a", name="t"), ToolDelta(call=0, arguments="{}")],
    ),
    "arguments as an object": (
        [called({"a": [1]}, "t", index=0, id="a")],
        [ToolStart(call=0, id="a", name="t"), ToolDelta(call=0, arguments='{"a":[1]}')],
    ),
    "parallel calls of one index, as from Ollama": (
        [called("[1", "t", index=0, id="a"), called("]", index=0), called("{}", "u", index=0, id="b")],
        [
            ToolStart(call=0, id="a", name="t"), ToolDelta(call=0, arguments="[1"), ToolDelta(call=0, arguments="]"),
            ToolStart(call=1, id="b", name="u"), ToolDelta(call=1, arguments="{}"),
        ],
    ),
    "a name after the arguments have begun": (
        [called("[1", "", index=0, id="a"), called(", 2]", "t", index=0)],
        [
            ToolStart(call=0, id="a", name="t"), ToolDelta(call=0, arguments="[1"), ToolDelta(call=0, arguments=", 2]"),
        ],
    ),
    "an id after the call has begun": (
        [called("", index=0), called("", "t", index=0, id="a")],
        [ToolStart(call=0, id="a", name="t")],
    ),
    "a call that never gets a name": (
        [called("{}", index=0, id="a"), delta("tool_calls")],
        [VendorPartDelta(kind="tool_call"), ChoiceEnd(reason="tool_calls")],
    ),
    "calls known by their ids": (
        [called("[", "t", id="a"), called("1", "u", id="b"), called("]", id="a")],
        [
            ToolStart(call=0, id="a", name="t"), ToolDelta(call=0, arguments="["),
            ToolStart(call=1, id="b", name="u"), ToolDelta(call=1, arguments="1"), ToolDelta(call=0, arguments="]"),
        ],
    ),
    "arguments without index and id are the last call's": (
        [called("", "t", index=0, id="a"), called("", "u", index=1, id="b"), called("{}")],
        [ToolStart(call=0, id="a", name="t"), ToolStart(call=1, id="b", name="u"), ToolDelta(call=1, arguments="{}")],
    ),
    "Google's signature": (
        [called("", "t", index=0, id="a", extra_content={"google": {"thought_signature": "s"}})],
        [ToolStart(call=0, id="a", name="t", signature="s")],
    ),
    "a signature that is no text": (
        [called("", "t", index=0, id="a", extra_content={"google": {"thought_signature": 5}})],
        [ToolStart(call=0, id="a", name="t")],
    ),
    "a custom tool's call": (
        [delta(tool_calls=[{"index": 0, "id": "a", "type": "custom", "custom": {"name": "t"}}])],
        [VendorPartDelta(kind="custom")],
    ),
    "sound, pictures, and the old function calls": (
        [delta(audio={"id": "a"}), delta(images=[{}]), delta(function_call={"name": "t"})],
        [VendorPartDelta(kind="audio"), VendorPartDelta(kind="images"), VendorPartDelta(kind="function_call")],
    ),
    "stop after calls, as with a tool_choice that names a function": (
        [called("{}", "t", index=0, id="a"), delta("stop")],
        [ToolStart(call=0, id="a", name="t"), ToolDelta(call=0, arguments="{}"), ChoiceEnd(reason="tool_calls")],
    ),
    "a call and no reason": (
        [called("{}", "t", index=0, id="a"), b"[DONE]"],
        [ToolStart(call=0, id="a", name="t"), ToolDelta(call=0, arguments="{}"), ChoiceEnd(reason="tool_calls")],
    ),
    "a text and no reason": ([delta(content="Hi"), b"[DONE]"], [TextDelta(text="Hi"), ChoiceEnd()]),
    "nothing and no reason": ([delta(content=""), b"[DONE]"], [ChoiceEnd()]),
    "a reason, then the end": (
        [delta("length", content="Hi"), b"[DONE]"],
        [TextDelta(text="Hi"), ChoiceEnd(reason="length")],
    ),
    "Together's word for the end": ([delta("eos")], [ChoiceEnd()]),
    "two answers in turns": (
        [delta(content="a"), delta(index=1, content="b"), delta("stop", index=1), delta("stop")],
        [TextDelta(text="a"), TextDelta(text="b", choice=1), ChoiceEnd(choice=1), ChoiceEnd()],
    ),
    "two answers and no reason": (
        [
            delta(content="a"),
            delta(index=1, tool_calls=[{"index": 0, "id": "a", "function": {"name": "t"}}]),
            b"[DONE]",
        ],
        [TextDelta(text="a"), ToolStart(call=0, id="a", name="t", choice=1), ChoiceEnd(),
         ChoiceEnd(reason="tool_calls", choice=1)],
    ),
    "two answers and the reason of one": (
        [delta(content="a"), delta(index=1, content="b"), delta("length"), b"[DONE]"],
        [TextDelta(text="a"), TextDelta(text="b", choice=1), ChoiceEnd(reason="length"), ChoiceEnd(choice=1)],
    ),
    "one answer whose index is not 0": (
        [delta(index=1, content="b"), delta("stop", index=1), b"[DONE]"],
        [TextDelta(text="b", choice=1), ChoiceEnd(choice=1)],
    ),
    "a call without a name, and no reason": (
        [called("{}", index=0, id="a"), b"[DONE]"],
        [VendorPartDelta(kind="tool_call"), ChoiceEnd(reason="tool_calls")],
    ),
    "Azure's first event, of the prompt's filter": (
        [{"choices": [], "prompt_filter_results": [{}]}, delta(content="a")],
        [TextDelta(text="a")],
    ),
    "a choice without a delta": ([{"choices": [{"index": 0, "finish_reason": "stop"}]}], [ChoiceEnd()]),
}  # fmt: skip


@each_row("vendor", CHAT)
def test_a_chat_stream_in_a_vendors_variant_is_read(vendor: str) -> None:
    events, expected = CHAT[vendor]

    assert chunks_of(openai_chat.StreamReader(), *events) == expected


def test_an_id_that_comes_after_the_name_begins_no_further_call() -> None:
    """The name is sent on at once, with an id of the gateway's; a name beside an id would begin a call."""
    events = [called(name="t", index=0), called("{", index=0, id="a"), called("}", index=0, id="a")]

    start, *rest = chunks_of(openai_chat.StreamReader(), *events)

    assert isinstance(start, ToolStart)
    assert rest == [ToolDelta(call=0, arguments="{"), ToolDelta(call=0, arguments="}")]


def test_ids_that_the_gateway_gives_to_calls_do_not_repeat_in_later_turns() -> None:
    starts = [chunks_of(openai_chat.StreamReader(), called("", "t", index=3)) for _ in range(2)]
    calls = [{"type": "function", "function": {"name": "t", "arguments": "{}"}}]
    reply = json.dumps({"choices": [{"message": {"content": None, "tool_calls": calls}, "finish_reason": "stop"}]})
    parts = [openai_chat.read_reply(reply.encode()).choices[0].parts for _ in range(2)]

    found: list[Any] = [*starts, *parts]
    ids = {one.id for (one,) in found if isinstance(one, ToolStart | ToolCall)}
    assert len(ids) == 4
    assert all(re.fullmatch("[a-zA-Z0-9_-]{10,40}", each) for each in ids)


@pytest.mark.parametrize(
    ("event", "error", "message"),
    [
        (delta("error"), Malformed, "aborted the answer"),
        (delta("insufficient_system_resource"), Malformed, "aborted the answer"),
        ({"error": {"message": "on fire", "type": "server_error"}}, UpstreamError, "on fire"),
        ({"error": {"code": 500}}, UpstreamError, "The provider failed"),
        ({"error": "on fire"}, UpstreamError, "on fire"),
        ({"choices": "many"}, Malformed, "chat completion chunk"),
        (delta(content=5), Malformed, "chat completion chunk"),
        (delta(tool_calls={"a": 1}), Malformed, "chat completion chunk"),
        (b"not json", Malformed, "chat completion chunk"),
        (b"[" * 100_000, Malformed, "chat completion chunk"),
    ],
    ids=str,
)
def test_an_invalid_or_failed_event_ends_a_chat_stream(
    event: Document | bytes, error: type[Exception], message: str
) -> None:
    reader = openai_chat.StreamReader()
    assert chunks_of(reader, delta(content="Hi")) == [TextDelta(text="Hi")]

    with pytest.raises(error, match=message):
        chunks_of(reader, event)
    assert not reader.is_done


STARTED = {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 5, "output_tokens": 1}}}


def block(index: int, kind: str, *deltas: Document, **fields: Any) -> list[Document | bytes]:
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}},
        *({"type": "content_block_delta", "index": index, "delta": one} for one in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def part_of_input(text: str) -> Document:
    return {"type": "input_json_delta", "partial_json": text}


MESSAGES: dict[str, tuple[list[Document | bytes], list[Chunk]]] = {
    "text in the beginning of its block": (block(0, "text", text="Hi"), [TextDelta(text="Hi")]),
    "a call whose input is whole from the beginning": (
        block(0, "tool_use", id="a", name="t", input={"x": 1}),
        [ToolStart(call=0, id="a", name="t"), ToolDelta(call=0, arguments='{"x": 1}')],
    ),
    "a call without input": (
        block(0, "tool_use", part_of_input(""), id="a", name="t", input={}),
        [ToolStart(call=0, id="a", name="t"), ToolDelta(call=0, arguments="{}")],
    ),
    "a call without an id": (
        block(4, "tool_use", part_of_input("{}"), name="t"),
        [ToolStart(call=0, id="toolu_0", name="t"), ToolDelta(call=0, arguments="{}")],
    ),
    "a tool that the vendor runs": (
        block(0, "server_tool_use", part_of_input("{}"), id="a", name="web_search"),
        [VendorPartDelta(kind="server_tool_use")],
    ),
    "thoughts and their seal": (
        block(
            0, "thinking", {"type": "thinking_delta", "thinking": "Hm"},
            {"type": "signature_delta", "signature": "s"}, thinking="", signature="",
        ),
        [ThinkingDelta(text="Hm"), ThinkingDelta(signature="s")],
    ),
    "thoughts in the beginning of their block": (block(0, "thinking", thinking="Hm"), [ThinkingDelta(text="Hm")]),
    "hidden thoughts": (block(0, "redacted_thinking", data="x"), [ThinkingDelta(redacted="x")]),
    "citations": (block(0, "text", {"type": "citations_delta", "citation": {}}, text=""), []),
    "an event of next year": ([{"type": "message_mood", "delta": 5}], []),
    "a ping": ([{"type": "ping"}], []),
    "a delta and a block that are missing": (
        [{"type": "content_block_delta", "index": 0}, {"type": "content_block_start", "index": 0}],
        [],
    ),
    "a pause": ([{"type": "message_delta", "delta": {"stop_reason": "pause_turn"}}], [ChoiceEnd()]),
    "the stop sequence": (
        [{"type": "message_delta", "delta": {"stop_reason": "stop_sequence", "stop_sequence": "END"}}],
        [ChoiceEnd(stop_sequence="END")],
    ),
    "a call and no reason": (
        [*block(0, "tool_use", part_of_input("{}"), id="a", name="t"), {"type": "message_stop"}],
        [ToolStart(call=0, id="a", name="t"), ToolDelta(call=0, arguments="{}"), ChoiceEnd(reason="tool_calls")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("vendor", MESSAGES)
def test_a_messages_stream_in_a_vendors_variant_is_read(vendor: str) -> None:
    events, expected = MESSAGES[vendor]

    assert chunks_of(anthropic_messages.StreamReader(), STARTED, *events) == expected


def summary(kind: str, number: int, **fields: Any) -> Document:
    place = {"output_index": 0, "item_id": "rs", "summary_index": number}
    return {"type": f"response.reasoning_summary_{kind}", **place, **fields}


RESPONSES: dict[str, tuple[list[Document | bytes], list[Chunk]]] = {
    "a summary of two parts": (
        [
            summary("part.added", 0), summary("text.delta", 0, delta="a"), summary("text.done", 0, text="a"),
            summary("part.added", 1), summary("text.delta", 1, delta="b"), summary("text.done", 1, text="b"),
        ],
        [ThinkingDelta(text="a"), ThinkingDelta(text="\n"), ThinkingDelta(text="b")],
    ),
    "open thoughts": (
        [{"type": "response.reasoning_text.delta", "output_index": 0, "content_index": 0, "delta": "Hm"}],
        [ThinkingDelta(text="Hm")],
    ),
    "arguments of a call that did not begin": (
        [{"type": "response.function_call_arguments.delta", "output_index": 7, "delta": "{}"}],
        [],
    ),
    "a call without an id": (
        [{"type": "response.output_item.added", "output_index": 2, "item": {"type": "function_call", "name": "t"}}],
        [ToolStart(call=0, id="call_0", name="t")],
    ),
    "an item that is missing": ([{"type": "response.output_item.added", "output_index": 2}], []),
    "a tool that the vendor runs": (
        [{"type": "response.output_item.added", "output_index": 0, "item": {"type": "mcp_call", "name": 5}}],
        [VendorPartDelta(kind="mcp_call")],
    ),
    "an end that chat completions have": ([b"[DONE]"], [ChoiceEnd()]),
    "the same after content": (
        [{"type": "response.output_text.delta", "delta": "Hi"}, b"[DONE]"],
        [TextDelta(text="Hi"), ChoiceEnd()],
    ),
    "the same after a call": (
        [
            {"type": "response.output_item.added", "output_index": 2, "item": {"type": "function_call", "name": "t"}},
            b"[DONE]",
        ],
        [ToolStart(call=0, id="call_0", name="t"), ChoiceEnd(reason="tool_calls")],
    ),
    "the same after its own end": ([{"type": "response.completed"}, b"[DONE]"], [ChoiceEnd()]),
}  # fmt: skip


@pytest.mark.parametrize("vendor", RESPONSES)
def test_a_responses_stream_in_a_vendors_variant_is_read(vendor: str) -> None:
    events, expected = RESPONSES[vendor]

    assert chunks_of(openai_responses.StreamReader(), {"type": "response.created"}, *events) == expected


def test_thoughts_of_a_whole_response_are_its_summary_or_its_reasoning_text() -> None:
    """Source: https://platform.openai.com/docs/api-reference/responses/object; gpt-oss sends `reasoning_text`."""
    open_text = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm"}]}
    both = {**open_text, "summary": [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]}
    body = {"status": "completed", "output": [open_text, {**open_text, "summary": []}, both]}

    [choice] = openai_responses.read_reply(encoded(body)).choices

    assert choice.parts == [Thinking(text="Hm"), Thinking(text="Hm"), Thinking(text="a\nb")]
