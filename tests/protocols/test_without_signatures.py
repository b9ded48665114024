"""Requests lose all signed and encrypted reasoning, and nothing else, for a provider that cannot verify it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from llm_gateway.protocols.anthropic_messages.pass_through import without_signatures as without_in_messages
from llm_gateway.protocols.gemini.pass_through import without_signatures as without_in_contents
from llm_gateway.protocols.openai_chat.reasoning_details import without_signatures as without_in_chat
from llm_gateway.protocols.openai_responses.pass_through import without_signatures as without_in_input

THINKING = {"type": "thinking", "thinking": "Hm", "signature": "s"}
REDACTED = {"type": "redacted_thinking", "data": "d"}
TEXT = {"type": "text", "text": "hi"}
USE = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "r"}]}
ASK = {"role": "user", "content": "?"}
BUDGET = {"type": "enabled", "budget_tokens": 2048}
CLEARING = {"type": "clear_thinking_20251015", "keep": "all"}


def answer(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


@pytest.mark.parametrize(
    ("messages", "kept"),
    [
        ([ASK, answer(THINKING, TEXT), ASK], [ASK, answer(TEXT), ASK]),
        ([ASK, answer(THINKING, REDACTED, USE), RESULT], [ASK, answer(USE), RESULT]),
        ([ASK, answer(REDACTED), ASK], [ASK, ASK]),
    ],
)
def test_messages_lose_their_thinking(messages: list[Any], kept: list[Any]) -> None:
    document = {"model": "m", "messages": copy.deepcopy(messages), "thinking": {"type": "adaptive"}}

    assert without_in_messages(document)
    assert document == {"model": "m", "messages": kept, "thinking": {"type": "adaptive"}}


@pytest.mark.parametrize(("last", "thinks"), [(USE, False), (TEXT, True)], ids=["a call", "a text"])
def test_a_thinking_budget_goes_only_if_the_last_answer_calls_a_tool(last: Any, thinks: bool) -> None:
    edits = [CLEARING, {"type": "clear_tool_uses_20250919"}]
    document = {
        "messages": [ASK, answer(THINKING, last), RESULT],
        "thinking": BUDGET,
        "context_management": {"edits": edits},
    }

    assert without_in_messages(document)
    assert ("thinking" in document) is thinks
    assert document["context_management"] == {"edits": edits if thinks else edits[1:]}


def test_gemini_calls_get_the_placeholder_and_thoughts_go() -> None:
    parts = [
        {"text": "Hm", "thought": True, "thoughtSignature": "a"},
        {"text": "hi", "thought_signature": "b"},
        {"text": "", "thoughtSignature": "c"},
        {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "d"},
        {"functionCall": {"name": "g", "args": {}}},
    ]
    document = {"contents": [{"role": "model", "parts": parts}, {"role": "model", "parts": [parts[0]]}]}

    assert without_in_contents(document)
    placeholder = "skip_thought_signature_validator"
    kept = [
        {"text": "hi"},
        {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": placeholder},
        {"functionCall": {"name": "g", "args": {}}},
    ]
    assert document == {"contents": [{"role": "model", "parts": kept}]}
    assert not without_in_contents(document), "the placeholder is no signature"


def test_responses_lose_their_reasoning_items() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    document = {"input": [ASK, {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}, call]}

    assert without_in_input(document)
    assert document == {"input": [ASK, call]}


def test_chat_messages_lose_their_reasoning_details_and_geminis_signatures() -> None:
    call: dict[str, Any] = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    signed = {**call, "extra_content": {"google": {"thought_signature": "s"}}}
    details = [{"type": "reasoning.text", "text": "Hm", "signature": "s"}]
    document = {"messages": [ASK, {"role": "assistant", "reasoning_details": details, "tool_calls": [signed]}]}

    assert without_in_chat(document)
    assert document == {"messages": [ASK, {"role": "assistant", "tool_calls": [call]}]}


@pytest.mark.parametrize("without", [without_in_messages, without_in_contents, without_in_input, without_in_chat])
@pytest.mark.parametrize(
    "document",
    [{}, {"messages": [ASK, answer(TEXT, USE)]}, {"messages": "x", "contents": [None], "input": "x"},
     {"messages": [{"role": "assistant", "content": ["x"], "tool_calls": 5}], "contents": [{"parts": "x"}]},
     {"input": [5]}],
)  # fmt: skip
def test_a_request_without_signatures_stays_as_it_is(without: Any, document: dict[str, Any]) -> None:
    given = copy.deepcopy(document)

    assert without(given) is False
    assert given == document
