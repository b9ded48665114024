"""Tests that reading a request takes linear time: 16 times as many parts take about 16 times as long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llm_gateway.protocols.registry import PROTOCOLS
from tests.protocols.test_linear import is_linear

CALL = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
RESULT = {"role": "function", "name": "f", "content": "r"}


def function_results(count: int) -> dict[str, Any]:
    return {"messages": [CALL, *[RESULT] * count]}


def functions_in_turns(count: int) -> dict[str, Any]:
    return {"messages": [CALL, RESULT] * count}


def calls_with_and_without_ids(count: int) -> dict[str, Any]:
    """Return calls whose ids are those that the gateway would give to the calls without ids."""
    named = [{"functionCall": {"id": f"call_{number}", "name": "f"}} for number in range(count, 2 * count)]
    return {"contents": [{"role": "model", "parts": [*named, *[{"functionCall": {"name": "f"}}] * count]}]}


def allowed_functions(count: int) -> dict[str, Any]:
    names = [f"f{number}" for number in range(count)]
    calling = {"mode": "ANY", "allowedFunctionNames": names}
    return {
        "contents": [{"parts": [{"text": "x"}]}],
        "tools": [{"functionDeclarations": [{"name": name} for name in names]}],
        "toolConfig": {"functionCallingConfig": calling},
    }


@pytest.mark.parametrize(
    ("protocol", "request_of"),
    [
        ("openai_chat", function_results),
        ("openai_chat", functions_in_turns),
        ("gemini_content", calls_with_and_without_ids),
        ("gemini_content", allowed_functions),
    ],
)
def test_reading_a_part_of_a_request_costs_the_same_among_many(
    protocol: str, request_of: Callable[[int], dict[str, Any]]
) -> None:
    documents: dict[int, dict[str, Any]] = {}

    def read(count: int) -> None:
        if count not in documents:
            documents[count] = request_of(count)
        PROTOCOLS[protocol].read_request(documents[count])

    assert is_linear(read)
