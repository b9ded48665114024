"""Tests of request features that a provider lacks: optional ones are dropped and reported, others are refused."""

from __future__ import annotations

from typing import Any

import pytest

from llm_gateway.domain.conversation import (
    Conversation,
    Image,
    Reasoning,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.contract import Unreadable, Unsupported

ASKS = [Turn(role="user", parts=[Text(text="x")])]


@pytest.mark.parametrize(
    ("model", "effort", "sampling"),
    [
        ("claude-3-7-sonnet", None, {"temperature": 0.8, "top_p": 0.5, "top_k": 7}),
        ("claude-sonnet-4-20250514", None, {"temperature": 0.8, "top_p": 0.5, "top_k": 7}),
        ("claude-haiku-4-5", None, {"temperature": 0.8, "top_k": 7}),
        ("claude-haiku-4-5", "low", {}),
        ("claude-opus-5-5", None, {}),
        ("claude-opus-5-5", "low", {}),
        ("another-of-this-dialect", None, {"temperature": 0.8, "top_p": 0.5, "top_k": 7}),
    ],
)
def test_sampling_parameters_that_a_claude_model_rejects_are_dropped(
    model: str, effort: Any, sampling: dict[str, float]
) -> None:
    """Parameters that the model would reject are left out and reported as dropped."""
    reasoning = None if effort is None else Reasoning(effort=effort)
    conversation = Conversation(turns=ASKS, temperature=0.8, top_p=0.5, top_k=7, reasoning=reasoning)
    written = anthropic_messages.write_request(conversation, model, stream=False)

    names = ("temperature", "top_p", "top_k")
    assert {name: written.document[name] for name in names if name in written.document} == sampling
    assert sorted(written.dropped) == sorted(set(names) - set(sampling))


@pytest.mark.parametrize(
    ("given", "openai", "anthropic"),
    [("standard_only", "default", "standard_only"), ("default", "default", "standard_only"), ("flex", "flex", None)],
)
def test_service_tiers_are_renamed_for_each_vendor(given: str, openai: str, anthropic: str | None) -> None:
    conversation = Conversation(turns=ASKS, service_tier=given)
    told = anthropic_messages.write_request(conversation, "claude-haiku-4-5", stream=False)

    assert openai_chat.write_request(conversation, "gpt-4o", stream=False).document["service_tier"] == openai
    assert (told.document.get("service_tier"), "service_tier" in told.dropped) == (anthropic, anthropic is None)


@pytest.mark.parametrize(("budget", "level"), [(1024, "low"), (8192, "high")])
def test_newer_gemini_models_get_a_thinking_level_for_a_budget(budget: int, level: str) -> None:
    conversation = Conversation(turns=ASKS, reasoning=Reasoning(budget_tokens=budget))
    document = gemini.write_request(conversation, "gemini-3-pro", stream=False).document

    assert document["generationConfig"]["thinkingConfig"] == {"includeThoughts": True, "thinkingLevel": level}


def test_attributes_that_a_protocol_cannot_carry_are_reported_as_dropped() -> None:
    turns = [
        Turn(role="user", name="ann", parts=[Image(url="https://example.org/a.png", detail="low")]),
        Turn(role="assistant", parts=[Thinking(text="Hm"), ToolCall(id="c1", name="t", arguments="{}")]),
        Turn(role="tool", parts=[ToolResult(call_id="c1", content=[Text(text="x", cache="5m")], is_error=True)]),
    ]
    conversation = Conversation(turns=turns, tools=[Tool(name="t", strict=True)])

    chat = openai_chat.write_request(conversation, "gpt-4o", stream=False)
    messages = anthropic_messages.write_request(conversation, "claude-haiku-4-5", stream=False)
    google = gemini.write_request(conversation, "gemini-2.5-pro", stream=False)
    assert chat.dropped == ("cache_control", "is_error", "thinking")
    assert messages.dropped == ("detail", "name", "thinking")
    assert google.dropped == ("cache_control", "detail", "name", "strict", "thinking")


def test_signed_thoughts_are_sent_back_to_anthropic() -> None:
    turns = [*ASKS, Turn(role="assistant", parts=[Thinking(text="Hm", signature="sig"), Text(text="Well")]), *ASKS]
    written = anthropic_messages.write_request(Conversation(turns=turns), "claude-haiku-4-5", stream=False)

    assert written.dropped == ()
    assert written.document["messages"][1]["content"][0] == {"type": "thinking", "thinking": "Hm", "signature": "sig"}


def test_nested_fields_that_only_anthropic_knows_are_reported_as_dropped() -> None:
    document = {
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "x"}],
        "output_config": {"effort": "low", "task_budget": {"type": "tokens", "total": 20_000}},
        "tools": [{"name": name, "input_schema": {}, "defer_loading": True} for name in ("a", "b")],
    }
    assert anthropic_messages.read_request(document).dropped == ("output_config.task_budget", "tools.defer_loading")


def test_citations_are_refused_rather_than_dropped() -> None:
    paper = {"type": "document", "source": {"type": "text", "data": "x"}, "citations": {"enabled": True}}
    document = {"max_tokens": 5, "messages": [{"role": "user", "content": [paper]}]}
    with pytest.raises(Unsupported) as caught:
        anthropic_messages.read_request(document)
    assert caught.value.field == "messages[0].content[0].citations"


SOUND = {"type": "input_audio", "input_audio": {"data": "aGVsbG8=", "format": "wav"}}
REFUSAL = {"type": "refusal", "refusal": "No"}


@pytest.mark.parametrize(
    ("read", "document", "field"),
    [
        (openai_chat.read_request, {"messages": [{"role": "system", "content": [SOUND]}]}, "messages[0].content"),
        (
            openai_chat.read_request,
            {"messages": [{"role": "tool", "tool_call_id": "c1", "content": [SOUND]}]},
            "messages[0]",
        ),
        (
            anthropic_messages.read_request,
            {
                "max_tokens": 5,
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "tool_result",
                                "tool_use_id": "c1",
                                "content": [{"type": "thinking", "thinking": "Hm", "signature": "s"}],
                            }
                        ],
                    }
                ],
            },
            "messages[0].content[0]",
        ),
        (openai_responses.read_request, {"input": [{"role": "system", "content": [REFUSAL]}]}, "input[0].content"),
        (
            openai_responses.read_request,
            {"input": [{"type": "function_call_output", "call_id": "c1", "output": [REFUSAL]}]},
            "input[0]",
        ),
    ],
)
def test_parts_that_a_role_may_not_contain_are_refused(read: Any, document: Any, field: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read(document)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("model", "word", "sent"),
    [
        ("o3", "none", "low"),
        ("o4-mini", "max", "high"),
        ("o1", "medium", "medium"),
        ("openai/gpt-5-mini", "none", "minimal"),
        ("gpt-5", "xhigh", "high"),
        ("gpt-5.1", "minimal", "none"),
        ("gpt-5.2", "max", "xhigh"),
        ("gpt-6-sol", "max", "max"),
    ],
)
def test_reasoning_effort_is_replaced_by_the_nearest_that_the_model_accepts(model: str, word: str, sent: str) -> None:
    conversation = Conversation(turns=ASKS, reasoning=Reasoning(effort=word))
    written = openai_chat.write_request(conversation, model, stream=False)

    assert written.document["reasoning_effort"] == sent
    assert written.dropped == (() if word == sent else ("reasoning",))


@pytest.mark.parametrize(
    ("model", "config", "dropped"),
    [
        ("gemini-2.5-flash", {"thinkingBudget": 0}, ()),
        ("gemini-2.5-pro", {"thinkingBudget": 128}, ("reasoning",)),
        ("gemini-3-pro", {"thinkingLevel": "low"}, ("reasoning",)),
    ],
)
def test_gemini_gets_the_least_thinking_that_the_model_allows(model: str, config: Any, dropped: Any) -> None:
    conversation = Conversation(turns=ASKS, reasoning=Reasoning(effort="none"))
    written = gemini.write_request(conversation, model, stream=False)

    assert (written.document["generationConfig"]["thinkingConfig"], written.dropped) == (config, dropped)


def test_hidden_thoughts_are_not_requested_from_gemini() -> None:
    conversation = Conversation(turns=ASKS, reasoning=Reasoning(budget_tokens=2000, show=False))
    document = gemini.write_request(conversation, "gemini-2.5-pro", stream=False).document

    assert document["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 2000}


SAID = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9}


@pytest.mark.parametrize(
    ("read", "field", "document"),
    [
        (openai_chat.read_request, "reasoning_effort", {**SAID, "reasoning_effort": "bogus"}),
        (openai_responses.read_request, "reasoning.effort", {"input": "x", "reasoning": {"effort": "bogus"}}),
        (anthropic_messages.read_request, "output_config.effort", {**SAID, "output_config": {"effort": "bogus"}}),
        (anthropic_messages.read_request, "thinking.type", {**SAID, "thinking": {"type": "bogus"}}),
        (anthropic_messages.read_request, "thinking.type", {**SAID, "thinking": {}}),
    ],
)
def test_unknown_reasoning_words_are_refused(read: Any, field: str, document: Any) -> None:
    refused: Unreadable | Unsupported | None = None
    try:
        read(document)
    except (Unreadable, Unsupported) as error:  # the latter passes one provider over
        refused = error
    assert refused is not None
    assert refused.field == field


def test_an_empty_unknown_field_is_ignored() -> None:
    assert anthropic_messages.read_request({**SAID, "mcp_servers": []}).dropped == ()
