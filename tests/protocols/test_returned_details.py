"""Reasoning that an aggregator signs in `reasoning_details` reaches each client, and comes back to the aggregator.

The replies are shaped like those recorded of OpenRouter and Vercel's AI Gateway:
https://github.com/charmbracelet/fantasy, `providertests` (2026-11-27).
"""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

from llm_gateway.domain.conversation import Chunk, Conversation, Text, Thinking, Turn
from llm_gateway.domain.reply_assembler import chunks_of
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.sse import Event, Splitter
from tests.protocols.test_encrypted_reasoning import (
    CONTEXT,
    assembled,
    blocks_in,
    gemini_request,
    messages_request,
    reasoning_in,
    sent,
    told,
)
from tests.protocols.test_reasoning_details import message_of, next_turn
from tests.rows import each_row

WAYS = each_row("stream", [False, True])
CLAUDE, GPT, GROK, GEMINI = "anthropic/claude-sonnet-4", "openai/gpt-5", "x-ai/grok-4", "google/gemini-3-pro"
THOUGHT = "I look it up."
SIGNED = {"type": "reasoning.text", "text": THOUGHT, "signature": "signed==", "format": "anthropic-claude-v1"}
REDACTED = {"type": "reasoning.encrypted", "data": "opaque", "format": "anthropic-claude-v1"}
SUMMARY = {"type": "reasoning.summary", "summary": THOUGHT, "format": "openai-responses-v1"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def encrypted(vendor: str, data: str = "gAAAAAopaque") -> dict[str, Any]:
    return {"type": "reasoning.encrypted", "data": data, "format": vendor, "id": "rs_1"}


VENDORS = {
    "claude": (CLAUDE, [SIGNED]),
    "claude redacted": (CLAUDE, [REDACTED]),
    "claude both": (CLAUDE, [SIGNED, REDACTED]),
    "gpt": (GPT, [SUMMARY, encrypted("openai-responses-v1")]),
    "gpt without summary": (GPT, [encrypted("openai-responses-v1")]),
    "gpt at azure": (GPT, [{**SUMMARY, "format": "azure-openai-responses-v1"}, encrypted("azure-openai-responses-v1")]),
    "grok": (GROK, [{**SUMMARY, "format": "xai-responses-v1"}, encrypted("xai-responses-v1", "xai-blob/+=")]),
}
ALL = each_row("of", list(VENDORS))


def numbered(details: list[Any]) -> list[Any]:
    return [{**entry, "index": number} for number, entry in enumerate(details)]


def whole(details: list[Any]) -> bytes:
    text = "".join([entry.get("text") or entry.get("summary") or "" for entry in details])
    message = {"content": None, "reasoning": text or None, "reasoning_details": numbered(details), "tool_calls": [CALL]}
    usage = {"prompt_tokens": 3, "completion_tokens": 9}
    return json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": usage}).encode()


def deltas(details: list[Any]) -> list[dict[str, Any]]:
    """Return the deltas of a stream: a text in two pieces, then its signature alone."""
    found: list[dict[str, Any]] = [{"role": "assistant", "content": "", "reasoning": None, "reasoning_details": []}]
    for entry in numbered(details):
        key = next((name for name in ("text", "summary") if name in entry), None)
        for piece in () if key is None else (entry[key][:6], entry[key][6:]):
            part = {"type": entry["type"], key: piece, "format": entry["format"], "index": entry["index"]}
            found.append({"content": "", "reasoning": piece, "reasoning_details": [{**part, "signature": ""}]})
        if key != "summary":
            seal = {name: value for name, value in entry.items() if name != key}
            found.append({"content": "", "reasoning": None, "reasoning_details": [seal]})
    return found


def chunks_from(details: list[Any], *, stream: bool, more: tuple[dict[str, Any], ...] = ()) -> list[Chunk]:
    if not stream:
        return chunks_of(openai_chat.read_reply(whole(details)))
    reader = openai_chat.StreamReader()
    events: list[dict[str, Any]] = [{"choices": [{"delta": delta}]} for delta in (*deltas(details), *more)]
    events.append({"choices": [{"delta": {"tool_calls": [{"index": 0, **CALL}]}, "finish_reason": "tool_calls"}]})
    return [chunk for event in events for chunk in reader.take(Event(b"", json.dumps(event).encode(), b""))]


def returned(body: Any) -> list[Any]:
    message = next(each for each in body["messages"] if each["role"] == "assistant")
    return [
        {name: value for name, value in entry.items() if name != "index"}
        for entry in message.get("reasoning_details", ())
    ]


def without_ids(details: list[Any]) -> list[Any]:
    """Return the entries as they come back: the id of a reasoning item is optional, and no client keeps it."""
    return [{name: value for name, value in entry.items() if name != "id"} for entry in details]


def responses_request(reply: Any) -> dict[str, Any]:
    output = reply[-1]["response"]["output"] if isinstance(reply, list) else reply["output"]
    result = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
    return {"input": [{"type": "message", "role": "user", "content": "Where?"}, *output, result]}


def next_request(protocol: str, chunks: list[Chunk], *, stream: bool) -> dict[str, Any]:
    """Return the next request of a client that got this reply."""
    if protocol == "openai_chat":
        return next_turn(message_of(chunks, stream=stream))
    if protocol == "anthropic_messages":
        return messages_request(blocks_in(told(anthropic_messages, chunks, stream=stream)))
    if protocol == "openai_responses":
        return responses_request(told(openai_responses, chunks, stream=stream))
    return gemini_request(told(gemini, chunks, stream=stream))


@WAYS
@ALL
@each_row("protocol", ["anthropic_messages", "openai_responses", "gemini_content"])
def test_the_aggregator_gets_its_reasoning_back(protocol: str, of: str, stream: bool) -> None:
    model, details = VENDORS[of]
    asked = next_request(protocol, chunks_from(details, stream=stream), stream=stream)

    body = sent(protocol, asked, "openai", model)

    kept = without_ids(details)
    if protocol == "gemini_content":  # `thoughtSignature` holds the encrypted part, without its summary
        kept = [entry for entry in kept if entry["type"] != "reasoning.summary"]
    assert returned(body) == kept


@WAYS
def test_a_messages_client_sees_thinking_with_its_signature(stream: bool) -> None:
    blocks = blocks_in(told(anthropic_messages, chunks_from([SIGNED, REDACTED], stream=stream), stream=stream))

    assert blocks[:2] == [
        {"type": "thinking", "thinking": THOUGHT, "signature": "signed=="},
        {"type": "redacted_thinking", "data": "opaque"},
    ]


@WAYS
def test_a_responses_client_sees_a_reasoning_item_with_its_content(stream: bool) -> None:
    chunks = chunks_from([SUMMARY, encrypted("openai-responses-v1")], stream=stream)

    reply = told(openai_responses, chunks, stream=stream)

    [item, _call] = reply[-1]["response"]["output"] if stream else reply["output"]
    assert (item["type"], item["encrypted_content"]) == ("reasoning", "gAAAAAopaque")
    assert item["summary"] == [{"type": "summary_text", "text": THOUGHT}]


@WAYS
@ALL
@each_row(
    ("kind", "model", "protocols"),
    [("openai", "gpt-4o", ()), ("openai", "claude-sonnet-4", ()), ("openai", "deepseek/deepseek-v3.2", ()),
     ("openai", "openai/gpt-oss-120b", ()), ("gemini", "gemini-3-pro", ())],
)  # fmt: skip
def test_no_other_model_is_sent_the_reasoning(
    kind: str, model: str, protocols: tuple[str, ...], of: str, stream: bool
) -> None:
    asked = next_request("anthropic_messages", chunks_from(VENDORS[of][1], stream=stream), stream=stream)

    body = json.dumps(sent("anthropic_messages", asked, kind, model, *protocols))

    assert not any(word in body for word in ("signed==", "opaque", "xai-blob", "reasoning_details"))


@WAYS
def test_another_vendors_model_at_the_aggregator_is_not_sent_the_reasoning(stream: bool) -> None:
    for of, (own, details) in VENDORS.items():
        asked = next_request("anthropic_messages", chunks_from(details, stream=stream), stream=stream)
        for model in {CLAUDE, GPT, GROK, GEMINI} - {own}:
            assert returned(sent("anthropic_messages", asked, "openai", model)) == [], of


@WAYS
def test_native_accounts_get_reasoning_that_came_by_way_of_the_aggregator(stream: bool) -> None:
    claudes = next_request("openai_responses", chunks_from([SIGNED], stream=stream), stream=stream)
    openais = next_request("anthropic_messages", chunks_from(VENDORS["gpt at azure"][1], stream=stream), stream=stream)

    messages = sent("openai_responses", claudes, "anthropic", "claude-haiku-4-5")["messages"]
    items = sent("anthropic_messages", openais, "openai", "gpt-5", "openai_responses")

    assert messages[1]["content"][0] == {"type": "thinking", "thinking": THOUGHT, "signature": "signed=="}
    assert reasoning_in(items) == ["gAAAAAopaque"]


def test_openai_is_not_sent_content_that_is_marked_with_an_aggregators_format() -> None:
    asked = next_request("openai_responses", chunks_from(VENDORS["gpt at azure"][1], stream=False), stream=False)

    assert reasoning_in(sent("openai_responses", asked, "openai", "gpt-5", "openai_responses")) == []


@WAYS
@each_row("protocol", ["openai_chat", "gemini_content"])
def test_gemini_behind_the_aggregator_gets_the_signature_of_its_call_back(protocol: str, stream: bool) -> None:
    text = {"type": "reasoning.text", "text": THOUGHT, "format": "google-gemini-v1"}
    seal = {"type": "reasoning.encrypted", "data": "c2ln", "id": "call_1", "format": "google-gemini-v1"}
    asked = next_request(protocol, chunks_from([text, seal], stream=stream), stream=stream)

    if protocol == "gemini_content":  # Gemini's own clients send no ids
        assert [{**entry, "id": "call_1"} for entry in returned(sent(protocol, asked, "openai", GEMINI))] == [seal]
    else:
        kept = sent(protocol, asked, "gemini", "gemini-3-pro")
        assert kept["contents"][1]["parts"][0]["thoughtSignature"] == "c2ln"


@each_row("protocol", [anthropic_messages, openai_responses])
@ALL
def test_a_gateway_behind_a_gateway_tells_each_thought_once(of: str, protocol: ModuleType) -> None:
    """This gateway's own streams send the text first, and all of it again with the signature."""
    first = chunks_from(VENDORS[of][1], stream=True)
    writer, reader = openai_chat.StreamWriter(CONTEXT), openai_chat.StreamReader()
    body = b"".join([writer.write(chunk) for chunk in first]) + writer.end()

    second = [chunk for event in Splitter(10**6).take(body) for chunk in reader.take(event)]

    assert told(protocol, second, stream=False) == told(protocol, first, stream=False)


@WAYS
def test_reasoning_that_no_vendor_signed_stays_plain(stream: bool) -> None:
    details = [{"type": "reasoning.text", "text": THOUGHT, "format": "unknown"}]

    [thought, _call] = assembled(chunks_from(details, stream=stream)).choices[0].parts

    assert (thought.text, thought.signature, thought.redacted) == (THOUGHT, None, None)  # type: ignore[union-attr]


@each_row("details", ["text", 5, {}, [5, None, "x"], [{"type": "reasoning.text", "text": 5}]])
@WAYS
def test_details_that_are_not_understood_change_nothing(details: Any, stream: bool) -> None:
    message = {"content": "hi", "reasoning": "Hm", "reasoning_details": details}
    if stream:
        reader, event = openai_chat.StreamReader(), {"choices": [{"delta": message, "finish_reason": "stop"}]}
        found = assembled(reader.take(Event(b"", json.dumps(event).encode(), b"")))
    else:
        found = openai_chat.read_reply(json.dumps({"choices": [{"message": message}]}).encode())

    assert [part.text for part in found.choices[0].parts] == ["Hm", "hi"]  # type: ignore[union-attr]


def test_thinking_is_named_as_dropped_only_where_it_is_not_returned() -> None:
    signed = Thinking(text=THOUGHT, signature="signed==")
    turns = [Turn(role="assistant", parts=[signed, Text(text="hi")])]

    for model, dropped in ((CLAUDE, ()), (GPT, ("thinking",)), ("claude-sonnet-4", ("thinking",))):
        assert openai_chat.write_request(Conversation(turns=turns), model, stream=False).dropped == dropped
