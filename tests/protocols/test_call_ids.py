"""Ids of tool calls that a client repeats in its history: each belongs to one call and one result afterwards."""

from __future__ import annotations

import pytest

from llm_gateway.domain.conversation import Conversation, Part, Text, ToolCall, ToolResult, Turn
from llm_gateway.protocols.call_ids import make_calls_unique


def call(call_id: str) -> ToolCall:
    return ToolCall(id=call_id, name="t", arguments="{}")


def result(call_id: str, text: str = "x") -> ToolResult:
    return ToolResult(call_id=call_id, content=[Text(text=text)])


def unique(*turns: list[Part]) -> list[list[Part]]:
    """Return the parts of the turns afterwards. Calls are the assistant's, results a tool's."""
    conversation = Conversation(turns=[Turn(role="user", parts=parts) for parts in turns])
    return [turn.parts for turn in make_calls_unique(conversation).turns]


@pytest.mark.parametrize(
    "turns",
    [
        [],
        [[Text(text="Hi")]],
        [[call("a"), call("b")], [result("b"), result("a")]],
        [[call("a")], [result("a", "x"), result("a", "y")]],
        [[call("a"), call("a")]],
    ],
    ids=["empty", "no calls", "different ids", "different results", "calls without results"],
)
def test_results_that_do_not_repeat_stay(turns: list[list[Part]]) -> None:
    kept = unique(*turns)

    assert [[part for part in parts if not isinstance(part, ToolCall)] for parts in kept] == [
        [part for part in parts if not isinstance(part, ToolCall)] for parts in turns
    ]


def test_a_repeated_result_is_dropped_and_so_is_a_turn_of_repeated_results_only() -> None:
    assert unique([call("a")], [result("a"), result("a")], [Text(text="y")]) == [
        [call("a")], [result("a")], [Text(text="y")]
    ]  # fmt: skip
    assert unique([call("a")], [result("a")], [result("a")]) == [[call("a")], [result("a")]]


def test_an_id_that_repeats_in_a_later_turn_becomes_another_one_for_the_call_and_its_result() -> None:
    turn: list[list[Part]] = [[call("a")], [result("a")]]

    assert unique(*turn, *turn, [call("a")], [result("a", "y"), result("a", "y")]) == [
        *turn, [call("a_2")], [result("a_2")], [call("a_3")], [result("a_3", "y")]
    ]  # fmt: skip


def test_parallel_calls_with_one_id_are_matched_with_their_results_in_order() -> None:
    assert unique([call("a"), call("a")], [result("a", "x"), result("a", "y")]) == [
        [call("a"), call("a_2")], [result("a", "x"), result("a_2", "y")]
    ]  # fmt: skip


def test_a_new_id_is_not_one_that_another_call_has() -> None:
    assert unique([call("a_2"), call("a"), call("a")]) == [[call("a_2"), call("a"), call("a_3")]]
    assert unique([call("a"), call("a"), call("a_2")]) == [[call("a"), call("a_2"), call("a_2_2")]]
