"""Tests of Responses items: encrypted reasoning survives round trips, streamed items equal those of whole responses."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import ConfigDict, TypeAdapter

from llm_gateway.domain.conversation import (
    Choice,
    ChoiceEnd,
    Chunk,
    Completion,
    Conversation,
    Part,
    RefusalDelta,
    ReplyStart,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    UsageUpdate,
)
from llm_gateway.domain.reply_assembler import ReplyAssembler, chunks_of
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.contract import ReplyContext, Unreadable, Unsupported
from llm_gateway.sse import Event, Splitter
from tests.rows import each_row

CONTEXT = ReplyContext(request_id="1", model="m", created_s=7, document={})
ASKED = {"role": "user", "content": "x"}
THOUGHTS: list[Part] = [Thinking(text="Hm, ☃", signature="sig/+=="), Thinking(redacted="sealed"), Text(text="So")]
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent, config=ConfigDict(defer_build=True))


def read(document: Any) -> Conversation:
    conversation: Conversation = openai_responses.read_request(document).conversation
    return conversation


def output_of(parts: list[Part], logprobs: Any = None) -> list[Any]:
    completion = Completion(choices=[Choice(parts=parts, logprobs=logprobs)])
    output: list[Any] = json.loads(openai_responses.write_reply(completion, CONTEXT))["output"]
    return output


def events_of(chunks: list[Chunk]) -> list[Any]:
    writer = openai_responses.StreamWriter(CONTEXT)
    body = b"".join([writer.write(chunk) for chunk in chunks]) + writer.end()
    return [json.loads(event.data) for event in Splitter(1_000_000).take(body)]


def test_anthropics_signatures_survive_a_round_trip_through_the_client() -> None:
    """Anthropic refuses tool results without the unchanged thoughts that preceded the call."""
    parts = [*THOUGHTS, ToolCall(id="c1", name="t", arguments="{}")]
    output = output_of(parts)
    result = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
    conversation = read({"input": [ASKED, *output, result]})
    written = anthropic_messages.write_request(conversation, "claude-haiku-4-5", stream=False)

    assert conversation.turns[1].parts == parts
    assert written.document["messages"][1]["content"][:2] == [
        {"type": "thinking", "thinking": "Hm, ☃", "signature": "sig/+=="},
        {"type": "redacted_thinking", "data": "sealed"},
    ]
    assert written.dropped == ()
    assert output[0]["summary"] == [{"type": "summary_text", "text": "Hm, ☃"}]
    assert output[1]["summary"] == []
    assert all(item["encrypted_content"].startswith("gw1.") for item in output[:2])


def test_the_signed_text_comes_back_even_without_its_summary() -> None:
    [item] = output_of([Thinking(text="Hm", signature="sig")])
    conversation = read({"input": [ASKED, {**item, "summary": []}]})

    assert conversation.turns[1].parts == [Thinking(text="Hm", signature="sig")]


def enveloped(content: bytes) -> str:
    return "gw1." + base64.urlsafe_b64encode(content).decode()


@pytest.mark.parametrize(
    "content",
    ["gAAAAABqmchuLHMA", "sealed", "", "gw1.", "gw1.☃", "gw1.x", "gw2.e30=", enveloped(b"{}"), enveloped(b"[5"),
     enveloped(b"\xff"), enveloped(b'{"text":"a"}'), enveloped(b'{"signature":5}'), None],
)  # fmt: skip
def test_encrypted_content_of_other_vendors_is_not_sent_to_anthropic(content: str | None) -> None:
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}], "encrypted_content": content}
    said = {"role": "assistant", "content": "So"}
    conversation = read({"input": [ASKED, item, said, ASKED]})
    messages = anthropic_messages.write_request(conversation, "claude-haiku-4-5", stream=False)

    thought, said_text = conversation.turns[1].parts
    assert (thought.text, said_text) == ("Hm", Text(text="So"))  # type: ignore[union-attr]
    assert messages.document["messages"][1]["content"] == "So"
    for written in (
        messages,
        openai_chat.write_request(conversation, "gpt-4o", stream=False),
        gemini.write_request(conversation, "gemini-2.5-pro", stream=False),
    ):
        assert "thinking" in written.dropped
        assert not content or content not in str(written.document)


@pytest.mark.parametrize("content", ["gAAAAABqmchuLHMA", enveloped(b'{"redacted":"a"}')])
def test_a_cached_answer_keeps_its_vendors_encrypted_content(content: str) -> None:
    """A cached answer of OpenAI's may be sent back to OpenAI in the next turn."""
    item = {"type": "reasoning", "summary": [], "encrypted_content": content}
    body = json.dumps({"output": [item], "status": "completed"}).encode()
    completion = openai_responses.read_reply(body)

    [whole] = json.loads(openai_responses.write_reply(completion, CONTEXT))["output"]
    [streamed] = events_of(chunks_of(completion))[-1]["response"]["output"]
    assert whole["encrypted_content"] == streamed["encrypted_content"] == content


def test_an_unsigned_thought_has_no_encrypted_content() -> None:
    for thought in (Thinking(text="Hm"), Thinking(text="Hm", signature=""), Thinking(text="Hm", redacted="")):
        [item] = output_of([thought])
        assert "encrypted_content" not in item


CALL: list[Chunk] = [ToolStart(call=0, id="c1", name="t"), ToolDelta(call=0, arguments='{"a":'),
                     ToolDelta(call=0, arguments="1}")]  # fmt: skip
OTHER: list[Chunk] = [ToolStart(call=1, id="c2", name="t"), ToolDelta(call=1, arguments="{}")]
THOUGHT: list[Chunk] = [ThinkingDelta(text="H"), ThinkingDelta(text="m")]
SIGNED: list[Chunk] = [*THOUGHT, ThinkingDelta(signature="sig")]
REDACTED: list[Chunk] = [ThinkingDelta(redacted="sealed")]
SAID: list[Chunk] = [TextDelta(text="So"), TextDelta(text=".")]
REFUSED: list[Chunk] = [RefusalDelta(text="N"), RefusalDelta(text="o")]
SEQUENCES: dict[str, tuple[list[Chunk], list[str]]] = {
    "nothing": ([], []),
    "text": (SAID, ["message"]),
    "empty text": ([TextDelta(text="")], ["message"]),
    "thought": ([*THOUGHT, *SAID], ["reasoning", "message"]),
    "signed": ([*SIGNED, *SAID], ["reasoning", "message"]),
    "signed at once": ([ThinkingDelta(text="Hm", signature="sig"), *SAID], ["reasoning", "message"]),
    "signed, not shown": ([ThinkingDelta(signature="sig"), *SAID], ["reasoning", "message"]),
    "signed, redacted": ([*SIGNED, *REDACTED, *SAID], ["reasoning", "reasoning", "message"]),
    "redacted": ([*REDACTED, *REDACTED, *SAID], ["reasoning", "reasoning", "message"]),
    "redacted after an unsigned one": ([*THOUGHT, *REDACTED, *SAID], ["reasoning", "message"]),
    "thought after signed": ([*SIGNED, *THOUGHT, *SAID, *SIGNED], ["reasoning", "reasoning", "message", "reasoning"]),
    "calls": ([*SIGNED, *SAID, *CALL, *OTHER], ["reasoning", "message", "function_call", "function_call"]),
    "calls in turns": ([CALL[0], OTHER[0], *CALL[1:], *SAID, OTHER[1]], ["function_call", "function_call", "message"]),
    "refusal": ([*SIGNED, *REFUSED], ["reasoning", "message"]),
    "text, refusal, text": ([*SAID, *REFUSED, *SAID, *CALL, *SAID], ["message", "function_call", "message"]),
}


@each_row("name", SEQUENCES)
@each_row("count", [UsageUpdate(usage=Usage(input_tokens=5, output_tokens=7)), None])
def test_the_items_of_a_stream_equal_those_of_its_final_response(name: str, count: UsageUpdate | None) -> None:
    chunks, kinds = SEQUENCES[name]
    every = [ReplyStart(model="m"), *chunks, ChoiceEnd(reason="length"), *([] if count is None else [count])]
    events = events_of(every)
    assembler = ReplyAssembler()
    for chunk in every:
        assembler.take(chunk)
    whole = json.loads(openai_responses.write_reply(assembler.completion(), CONTEXT))

    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"] == whole
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == whole["output"]
    assert [item["type"] for item in whole["output"]] == kinds
    for event in events:
        EVENTS.validate_python(event)


@pytest.mark.parametrize("name", SEQUENCES)
def test_events_name_the_items_they_belong_to(name: str) -> None:
    events = events_of(SEQUENCES[name][0])
    output = events[-1]["response"]["output"]

    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [(event["output_index"], event["item"]["id"]) for event in added] == [
        (index, item["id"]) for index, item in enumerate(output)
    ]
    told: dict[str, str] = {}
    for event in events:
        if "item_id" in event:
            assert output[event["output_index"]]["id"] == event["item_id"]
        if event["type"] == "response.reasoning_summary_text.delta":
            told[event["item_id"]] = told.get(event["item_id"], "") + event["delta"]
    summaries = {item["id"]: item["summary"][0]["text"] for item in output if item.get("summary")}
    assert told == summaries


def test_thoughts_streamed_by_anthropic_come_back_with_their_signatures() -> None:
    blocks: list[Any] = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "sig"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "redacted_thinking", "data": "sealed"}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "text_delta", "text": "So"}},
    ]
    reader = anthropic_messages.StreamReader()
    chunks = [chunk for each in blocks for chunk in reader.take(Event(b"", json.dumps(each).encode(), b""))]
    items = [event["item"] for event in events_of(chunks) if event["type"] == "response.output_item.done"]

    assert read({"input": [ASKED, *items]}).turns[1].parts == [
        Thinking(text="Hm", signature="sig"),
        Thinking(redacted="sealed"),
        Text(text="So"),
    ]


def token(said: str, logprob: float, *others: Any, spelled: Any = None) -> dict[str, Any]:
    return {"token": said, "logprob": logprob, "bytes": spelled, "top_logprobs": list(others)}


FIRST = token("So", -0.5, {"token": "So", "logprob": -0.5, "bytes": [83, 111]}, spelled=[83, 111])
SECOND = token(".", -1.0)
HEARD = [
    {"token": "So", "logprob": -0.5, "bytes": [83, 111],
     "top_logprobs": [{"token": "So", "logprob": -0.5, "bytes": [83, 111]}]},
    {"token": ".", "logprob": -1.0, "bytes": [], "top_logprobs": []},
]  # fmt: skip
IN_EVENTS = [
    {"token": "So", "logprob": -0.5, "top_logprobs": [{"token": "So", "logprob": -0.5}]},
    {"token": ".", "logprob": -1.0, "top_logprobs": []},
]


def test_requested_logprobs_are_written() -> None:
    logprobs = {"content": [FIRST, SECOND], "refusal": None}
    completion = Completion(choices=[Choice(parts=[Text(text="So.")], logprobs=logprobs)])
    body = openai_responses.write_reply(completion, CONTEXT)

    [content] = json.loads(body)["output"][0]["content"]
    assert content["logprobs"] == HEARD
    Response.model_validate_json(body)


def test_logprobs_belong_to_the_first_text() -> None:
    [thought, message] = output_of([Thinking(text="Hm"), Text(text="So."), Text(text="")], {"content": [SECOND]})
    assert "content" not in thought
    assert [len(part["logprobs"]) for part in message["content"]] == [1, 0]
    [call] = output_of([ToolCall(id="c1", name="t", arguments="{}")], {"content": [SECOND]})
    assert "logprobs" not in call


def test_logprobs_are_streamed_with_their_text() -> None:
    chunks: list[Chunk] = [
        TextDelta(text="So", logprobs={"content": [FIRST]}),
        TextDelta(text=".", logprobs={"content": [SECOND]}),
        TextDelta(text=""),
    ]
    events = events_of(chunks)

    deltas = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert deltas == [IN_EVENTS[:1], IN_EVENTS[1:], []]
    by_type = {event["type"]: event for event in events}
    assert by_type["response.output_text.done"]["logprobs"] == IN_EVENTS
    assert by_type["response.content_part.done"]["part"]["logprobs"] == HEARD
    assert by_type["response.output_item.done"]["item"]["content"][0]["logprobs"] == HEARD
    assert by_type["response.completed"]["response"]["output"][0]["content"][0]["logprobs"] == HEARD
    for event in events:
        EVENTS.validate_python(event)


@pytest.mark.parametrize("odd", [None, {}, {"content": None}, {"content": "x"}, {"tokens": ["So"]},
                                 {"content": [5, {"token": "So"}, {"token": 5, "logprob": 0}]}])  # fmt: skip
def test_invalid_logprobs_are_left_out(odd: Any) -> None:
    [message] = output_of([Text(text="So")], odd)
    assert message["content"][0]["logprobs"] == []
    assert events_of([TextDelta(text="So", logprobs=odd)])[-1]["response"]["output"] == [message]


def test_invalid_top_logprobs_are_left_out() -> None:
    [message] = output_of(
        [Text(text="So")], {"content": [{**SECOND, "top_logprobs": [5, FIRST]}, {**SECOND, "top_logprobs": 5}]}
    )
    [one, other] = message["content"][0]["logprobs"]
    assert (one["top_logprobs"], other["top_logprobs"]) == (HEARD[0]["top_logprobs"], [])


def test_an_item_whose_type_is_null_is_a_message() -> None:
    [turn] = read({"input": [{"type": None, **ASKED}]}).turns
    assert (turn.role, turn.parts) == ("user", [Text(text="x")])


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max", None])
def test_every_reasoning_effort_is_read(effort: str | None) -> None:
    reasoning = read({"input": "x", "reasoning": {"effort": effort}}).reasoning
    assert reasoning is not None
    assert reasoning.effort == effort


@pytest.mark.parametrize("effort", ["very high", "", "LOW"])
def test_an_unknown_reasoning_effort_is_left_to_providers_that_may_know_it(effort: str) -> None:
    with pytest.raises(Unsupported) as refused:
        read({"input": "x", "reasoning": {"effort": effort}})
    assert refused.value.field == "reasoning.effort"


def test_an_invalid_summary_is_refused_with_its_path() -> None:
    with pytest.raises(Unreadable) as refused:
        read({"input": [ASKED, {"type": "reasoning", "summary": ["x"]}]})
    assert refused.value.field == "input[1].summary[0]"


def test_nested_fields_that_only_openai_knows_are_reported_as_dropped() -> None:
    known = {"type": "function", "description": "d", "parameters": {}, "strict": True}
    tools = [{**known, "name": name, "defer_loading": True, "allowed_callers": ["direct"]} for name in ("a", "b")]
    document = {
        "input": "x",
        "reasoning": {"effort": "low", "summary": "auto", "generate_summary": None, "mode": "pro", "context": None},
        "tools": tools,
        "prompt_cache_options": {"mode": "explicit"},
    }
    dropped = openai_responses.read_request(document).dropped
    assert dropped == ("prompt_cache_options", "reasoning.mode", "tools.allowed_callers", "tools.defer_loading")
