"""Tests of thinking settings for Claude models: budget within the client's token limit, and when thinking is off."""

from __future__ import annotations

from typing import Any

import pytest

from llm_gateway.domain.conversation import (
    Conversation,
    Reasoning,
    ResponseFormat,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from llm_gateway.protocols.anthropic_messages import write_request
from llm_gateway.protocols.contract import Unsupported

OLDER, NEWER = "claude-haiku-4-5", "claude-opus-5-5"
ASKS = [Turn(role="user", parts=[Text(text="x")])]
CALL = ToolCall(id="c1", name="t", arguments="{}")
RESULT = Turn(role="tool", parts=[ToolResult(call_id="c1", content=[Text(text="r")])])
TOOLS = [Tool(name="t")]


def written(model: str = OLDER, turns: Any = None, **fields: Any) -> Any:
    return write_request(Conversation(turns=turns or ASKS, **fields), model, stream=False)


@pytest.mark.parametrize(
    ("limit", "effort", "budget", "max_tokens"),
    [
        (None, "high", 16384, 32_000),
        (40_000, "high", 16384, 40_000),
        (8000, "high", 4000, 8000),
        (100, "low", None, 100),
    ],
)
def test_thinking_budget_and_answer_stay_within_the_clients_limit(
    limit: int | None, effort: str, budget: int | None, max_tokens: int
) -> None:
    told = written(max_tokens=limit, reasoning=Reasoning(effort=effort))

    assert told.document.get("thinking", {}).get("budget_tokens") == budget
    assert told.document["max_tokens"] == max_tokens
    assert ("reasoning" in told.dropped) == (budget is None)


@pytest.mark.parametrize(
    ("turns", "thinks"),
    [
        ([*ASKS, Turn(role="assistant", parts=[CALL]), RESULT], False),
        ([*ASKS, Turn(role="assistant", parts=[CALL]), RESULT, *ASKS], False),
        ([*ASKS, Turn(role="assistant", parts=[Thinking(text="Hm"), CALL]), RESULT], False),
        ([*ASKS, Turn(role="assistant", parts=[Thinking(text="Hm", signature="s"), CALL]), RESULT], True),
        ([*ASKS, Turn(role="assistant", parts=[CALL]), RESULT, Turn(role="assistant", parts=[Text(text="y")])], True),
    ],
)
def test_thinking_is_off_if_the_thoughts_before_a_tool_call_are_lost(turns: Any, thinks: bool) -> None:
    told = written(turns=turns, tools=TOOLS, reasoning=Reasoning(effort="low"))

    assert ("thinking" in told.document, "reasoning" in told.dropped) == (thinks, not thinks)


def test_thinking_is_off_if_a_tool_call_is_required() -> None:
    forced = ToolChoice(mode="required")
    told = written(tools=TOOLS, tool_choice=forced, reasoning=Reasoning(effort="low"))

    assert ("thinking" in told.document, told.document["tool_choice"]) == (False, {"type": "any"})
    assert told.dropped == ("reasoning",)
    with pytest.raises(Unsupported) as caught:
        written(NEWER, tools=TOOLS, tool_choice=forced)
    assert caught.value.field == "tool_choice"
    assert written("claude-opus-4-8", tools=TOOLS, tool_choice=forced).document["tool_choice"] == {"type": "any"}


def test_thinking_is_not_disabled_for_newer_models() -> None:
    told = written(NEWER, reasoning=Reasoning(effort="none"))
    assert ("thinking" in told.document, told.dropped) == (False, ("reasoning",))

    shown = written(NEWER, reasoning=Reasoning(effort="low", show=True))
    assert shown.document["thinking"] == {"type": "adaptive", "display": "summarized"}


@pytest.mark.parametrize(
    ("reasoning", "effort", "dropped"),
    [
        (Reasoning(effort="minimal"), "low", ("reasoning",)),
        (Reasoning(effort="max"), "max", ()),
        (Reasoning(effort="low", budget_tokens=30_000), "low", ()),
        (Reasoning(budget_tokens=2048), "low", ()),
        (Reasoning(budget_tokens=5000), "medium", ()),
        (Reasoning(budget_tokens=30_000), "high", ()),
        (Reasoning(show=True), None, ()),
    ],
)
def test_newer_models_get_the_effort_nearest_to_an_unknown_word_or_to_a_budget(
    reasoning: Reasoning, effort: str | None, dropped: tuple[str, ...]
) -> None:
    told = written(NEWER, reasoning=reasoning)

    assert (told.document.get("output_config", {}).get("effort"), told.dropped) == (effort, dropped)
    assert told.document["thinking"]["type"] == "adaptive"


def test_the_json_tool_is_required_if_thinking_is_off() -> None:
    told = written(format=ResponseFormat(), reasoning=Reasoning(effort="none"))
    assert told.document["tool_choice"] == {"type": "tool", "name": "json_answer"}


def test_tools_are_left_out_if_none_may_be_called() -> None:
    told = written(
        tools=TOOLS, tool_choice=ToolChoice(mode="none"), format=ResponseFormat(), reasoning=Reasoning(effort="low")
    )
    assert [tool["name"] for tool in told.document["tools"]] == ["json_answer"]


def test_blank_texts_are_dropped_and_tool_results_come_first() -> None:
    turns = [
        *ASKS,
        Turn(role="assistant", parts=[Text(text="\n\n"), CALL]),
        Turn(role="developer", parts=[Text(text="note")]),
        RESULT,
    ]
    [_, called, results] = written(turns=turns, tools=TOOLS).document["messages"]

    assert [block["type"] for block in called["content"]] == ["tool_use"]
    assert [block["type"] for block in results["content"]] == ["tool_result", "text"]
    with pytest.raises(Unsupported) as caught:
        written(turns=[Turn(role="user", parts=[Text(text=" ")])])
    assert caught.value.field == "messages"


def test_a_reduced_temperature_is_reported_as_dropped() -> None:
    told = written(temperature=1.7)
    assert (told.document["temperature"], told.dropped) == (1.0, ("temperature",))
