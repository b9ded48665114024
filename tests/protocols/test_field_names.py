"""Tests of field names in error messages: each protocol's own name for a field of the conversation."""

from __future__ import annotations

import pytest

from llm_gateway.protocols.registry import field_name


@pytest.mark.parametrize(
    ("protocol", "field", "name"),
    [
        ("openai_chat", "reasoning", "reasoning_effort"),
        ("openai_chat", "seed", "seed"),
        ("openai_responses", "image", "input"),
        ("openai_responses", "messages", "input"),
        ("anthropic_messages", "stop", "stop_sequences"),
        ("anthropic_messages", "tool_result", "messages"),
        ("generate", "stop", "stop"),
    ],
)
def test_a_field_is_named_as_its_protocol_does(protocol: str, field: str, name: str) -> None:
    assert field_name(protocol, field) == name
