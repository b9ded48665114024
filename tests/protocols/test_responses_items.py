"""Items of the Responses API: seals of thoughts go out and come back, what is not known is named."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from llm_gateway.domain.assembly import chunks_of
from llm_gateway.domain.conversation import (
    Choice,
    Chunk,
    Completion,
    Conversation,
    Part,
    Text,
    Thinking,
    ToolCall,
)
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.base import Head, Unreadable
from llm_gateway.sse import Splitter

HEAD = Head(request_id="1", model="m", created_s=7, document={})
ASKED = {"role": "user", "content": "x"}
THOUGHTS: list[Part] = [Thinking(text="Hm, ☃", signature="sig/+=="), Thinking(redacted="sealed"), Text(text="So")]


def read(document: Any) -> Conversation:
    conversation: Conversation = openai_responses.read_request(document).conversation
    return conversation


def output_of(parts: list[Part]) -> list[Any]:
    completion = Completion(choices=[Choice(parts=parts)])
    output: list[Any] = json.loads(openai_responses.write_reply(completion, HEAD))["output"]
    return output


def events_of(chunks: list[Chunk]) -> list[Any]:
    writer = openai_responses.StreamWriter(HEAD)
    body = b"".join([writer.write(chunk) for chunk in chunks]) + writer.end()
    return [json.loads(event.data) for event in Splitter(1_000_000).feed(body)]


def test_anthropics_seals_go_out_and_come_back() -> None:
    """Else its next turn with tools is refused: the thoughts before the call must be there, as they were."""
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


def test_the_text_that_was_signed_comes_back_whatever_became_of_the_summary() -> None:
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
def test_what_others_sealed_is_no_seal_to_anthropic(content: str | None) -> None:
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}], "encrypted_content": content}
    said = {"role": "assistant", "content": "So"}
    conversation = read({"input": [ASKED, item, said, ASKED]})
    messages = anthropic_messages.write_request(conversation, "claude-haiku-4-5", stream=False)

    assert conversation.turns[1].parts == [Thinking(text="Hm"), Text(text="So")]
    assert messages.document["messages"][1]["content"] == "So"
    for written in (
        messages,
        openai_chat.write_request(conversation, "gpt-4o", stream=False),
        gemini.write_request(conversation, "gemini-2.5-pro", stream=False),
    ):
        assert "thinking" in written.dropped


@pytest.mark.parametrize("content", ["gAAAAABqmchuLHMA", enveloped(b'{"redacted":"a"}')])
def test_a_kept_answer_has_its_makers_own_seals(content: str) -> None:
    """An answer of OpenAI's, kept and told again, goes back to OpenAI."""
    item = {"type": "reasoning", "summary": [], "encrypted_content": content}
    body = json.dumps({"output": [item], "status": "completed"}).encode()
    completion = openai_responses.read_reply(body)

    [whole] = json.loads(openai_responses.write_reply(completion, HEAD))["output"]
    [streamed] = events_of(chunks_of(completion))[-1]["response"]["output"]
    assert whole["encrypted_content"] == streamed["encrypted_content"] == content


def test_a_thought_that_nobody_sealed_has_no_seal() -> None:
    for thought in (Thinking(text="Hm"), Thinking(text="Hm", signature=""), Thinking(text="Hm", redacted="")):
        [item] = output_of([thought])
        assert "encrypted_content" not in item


def test_an_item_whose_type_is_null_is_a_message() -> None:
    [turn] = read({"input": [{"type": None, **ASKED}]}).turns
    assert (turn.role, turn.parts) == ("user", [Text(text="x")])


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max", None])
def test_efforts(effort: str | None) -> None:
    reasoning = read({"input": "x", "reasoning": {"effort": effort}}).reasoning
    assert reasoning is not None
    assert reasoning.effort == effort


@pytest.mark.parametrize("effort", ["very high", "", "LOW"])
def test_an_effort_that_is_none(effort: str) -> None:
    with pytest.raises(Unreadable) as refused:
        read({"input": "x", "reasoning": {"effort": effort}})
    assert refused.value.field == "reasoning.effort"


def test_a_summary_that_is_none_names_its_place() -> None:
    with pytest.raises(Unreadable) as refused:
        read({"input": [ASKED, {"type": "reasoning", "summary": ["x"]}]})
    assert refused.value.field == "input[1].summary[0]"


def test_what_only_openai_knows_inside_of_fields_is_named() -> None:
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
