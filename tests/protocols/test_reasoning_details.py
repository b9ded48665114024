"""Signed and encrypted reasoning survives a turn at clients of chat completions, which return `reasoning_details`."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest

from llm_gateway.domain.conversation import Chunk, Completion
from llm_gateway.domain.reply_assembler import chunks_of
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat
from llm_gateway.protocols.contract import ReplyContext
from llm_gateway.sse import Event, Splitter
from tests.protocols.test_encrypted_reasoning import OPENAIS, assembled, read, reasoning_in, sent, vendors_reply

WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
CONTEXT = ReplyContext(request_id="1", model="m", created_s=7, document={})
THINKING = {"type": "thinking", "thinking": "I look it up.", "signature": "signed=="}
REDACTED = {"type": "redacted_thinking", "data": "opaque"}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Ulm"}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def claudes(blocks: list[Any]) -> bytes:
    usage = {"input_tokens": 3, "output_tokens": 9}
    return json.dumps({"id": "m1", "content": blocks, "stop_reason": "tool_use", "usage": usage}).encode()


def claudes_stream(blocks: list[Any]) -> list[Chunk]:
    """Return the chunks of Anthropic's stream of these blocks, thinking in two deltas."""
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {"id": "m1"}}]
    for index, block in enumerate(blocks):
        empty = {**block, "thinking": "", "signature": ""} if block is THINKING else block
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        if block is THINKING:
            deltas = [
                {"type": "thinking_delta", "thinking": "I look "},
                {"type": "thinking_delta", "thinking": "it up."},
                {"type": "signature_delta", "signature": "signed=="},
            ]
            events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    events += [{"type": "message_delta", "delta": {"stop_reason": "tool_use"}}, {"type": "message_stop"}]
    reader = anthropic_messages.StreamReader()
    return [chunk for event in events for chunk in reader.take(Event(b"", json.dumps(event).encode(), b""))]


def message_of(chunks: list[Chunk] | Completion, *, stream: bool) -> dict[str, Any]:
    """Return the assistant's message as a chat client keeps it: the deltas of a stream put together."""
    if not stream:
        completion = chunks if isinstance(chunks, Completion) else assembled(chunks)
        message: dict[str, Any] = json.loads(openai_chat.write_reply(completion, CONTEXT))["choices"][0]["message"]
        return message
    writer = openai_chat.StreamWriter(CONTEXT)
    given = chunks_of(chunks) if isinstance(chunks, Completion) else chunks
    body = b"".join([writer.write(chunk) for chunk in given]) + writer.end()
    kept: dict[str, Any] = {"role": "assistant", "content": None}
    for event in Splitter(10**6).take(body):
        if event.data == b"[DONE]":
            continue
        delta = json.loads(event.data)["choices"][0]["delta"]
        kept.setdefault("reasoning_details", []).extend(delta.get("reasoning_details", ()))
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                kept.setdefault("tool_calls", []).append(call)
            else:
                kept["tool_calls"][-1]["function"]["arguments"] += call["function"]["arguments"]
    return kept


def next_turn(message: dict[str, Any]) -> dict[str, Any]:
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"}
    return {"messages": [{"role": "user", "content": "Where?"}, message, result], "tools": [TOOL]}


def upstream(message: dict[str, Any], kind: str, model: str, *protocols: str) -> Any:
    return sent("openai_chat", next_turn(message), kind, model, *protocols)


@WAYS
@pytest.mark.parametrize("blocks", [[THINKING], [REDACTED], [THINKING, REDACTED]], ids=["signed", "redacted", "both"])
def test_anthropic_gets_its_thinking_back_from_a_chat_client(blocks: list[Any], stream: bool) -> None:
    whole = [*blocks, USE]
    chunks = claudes_stream(whole) if stream else chunks_of(anthropic_messages.read_reply(claudes(whole)))
    message = message_of(chunks, stream=stream)

    body = upstream(message, "anthropic", "claude-haiku-4-5")

    assert body["messages"][1]["content"] == whole
    assert [entry["index"] for entry in message["reasoning_details"]] == list(range(len(blocks)))


@WAYS
@pytest.mark.parametrize("wants_summary", [True, False], ids=["summary", "no summary"])
def test_a_responses_provider_gets_its_encrypted_reasoning_back(wants_summary: bool, stream: bool) -> None:
    chunks = read(vendors_reply(OPENAIS, wants_summary=wants_summary), stream=stream)

    body = upstream(message_of(chunks, stream=stream), "openai", "gpt-5.4", "openai_responses")

    assert reasoning_in(body) == [OPENAIS]
    summary = [{"type": "summary_text", "text": "I look it up."}] if wants_summary else []
    assert body["input"][1]["summary"] == summary


@WAYS
def test_gemini_gets_the_signature_of_a_call_back_from_either_field(stream: bool) -> None:
    part = {"functionCall": {"name": "weather", "args": {}}, "thoughtSignature": "c2ln"}
    candidate = {"content": {"parts": [part]}, "finishReason": "STOP"}
    message = message_of(gemini.read_reply(json.dumps({"candidates": [candidate]}).encode()), stream=stream)

    for field in ("extra_content", "reasoning_details"):
        kept = json.loads(json.dumps(message))
        if field == "reasoning_details":
            del kept["tool_calls"][0]["extra_content"]
        else:
            del kept["reasoning_details"]
        body = upstream(kept, "gemini", "gemini-3-pro")
        assert body["contents"][1]["parts"][0]["thoughtSignature"] == "c2ln"


@pytest.mark.parametrize(
    ("kind", "model", "protocols"),
    [("openai", "gpt-5.4", ("openai_responses",)), ("gemini", "gemini-3-pro", ())],
)
def test_other_vendors_get_neither_the_signature_nor_the_thought(
    kind: str, model: str, protocols: tuple[str, ...]
) -> None:
    message = message_of(anthropic_messages.read_reply(claudes([THINKING, REDACTED, USE])), stream=False)

    body = json.dumps(upstream(message, kind, model, *protocols))

    assert not any(word in body for word in ("signed==", "opaque", "I look it up."))


@WAYS
@pytest.mark.parametrize("protocol", [openai_chat, anthropic_messages], ids=["chat", "messages"])
def test_an_answer_without_signatures_has_no_reasoning_details(protocol: ModuleType, stream: bool) -> None:
    plain = {"choices": [{"message": {"content": "hi", "reasoning_content": "hm"}, "finish_reason": "stop"}]}
    of = {openai_chat: plain, anthropic_messages: {"content": [{"type": "text", "text": "hi"}]}}[protocol]

    message = message_of(protocol.read_reply(json.dumps(of).encode()), stream=stream)

    assert not message.get("reasoning_details")


def test_entries_of_a_stream_that_the_client_did_not_join_are_one_thought() -> None:
    """OpenRouter's stream as its clients store it: https://openrouter.ai/docs/guides/best-practices/reasoning-tokens."""
    common = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0}
    details = [{**common, "text": "I look "}, {**common, "text": "it up.", "signature": None},
               {**common, "signature": "signed=="}]  # fmt: skip
    message = message_of(anthropic_messages.read_reply(claudes([USE])), stream=False)

    body = upstream({**message, "reasoning_details": details}, "anthropic", "claude-haiku-4-5")

    assert body["messages"][1]["content"] == [THINKING, USE]


@pytest.mark.parametrize(
    "details",
    [
        "text",
        {"type": "reasoning.text"},
        ["text", None, {}],
        [{"type": "reasoning.encrypted", "data": "blob", "format": "unknown"}],
        [{"type": "reasoning.text", "text": 5, "signature": 5}],
        [{"type": "reasoning.encrypted", "data": 5, "format": "google-gemini-v1", "id": 5}],
    ],
)
def test_details_that_are_not_understood_are_left_out(details: Any) -> None:
    message = message_of(anthropic_messages.read_reply(claudes([USE])), stream=False)

    body = upstream({**message, "reasoning_details": details}, "anthropic", "claude-haiku-4-5")

    assert body["messages"][1]["content"] == [USE]
