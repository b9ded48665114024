"""Whole replies written for clients: thoughts, tool calls, and parts that only one vendor knows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llm_gateway.domain.conversation import (
    Choice,
    Completion,
    Part,
    Text,
    Thinking,
    ToolCall,
    VendorPart,
)
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols import anthropic_messages, openai_chat
from llm_gateway.protocols.contract import ReplyContext

Document = dict[str, Any]
CONTEXT = ReplyContext(request_id="1", model="m", created_s=7, document={})


def completed(parts: list[Part]) -> Completion:
    return Completion(choices=[Choice(parts=parts)], usage=Usage(input_tokens=1, output_tokens=1))


@pytest.mark.parametrize(
    ("thought", "blocks"),
    [
        (Thinking(text="Hm"), [{"type": "thinking", "thinking": "Hm", "signature": ""}]),
        (Thinking(text="Hm", signature="s"), [{"type": "thinking", "thinking": "Hm", "signature": "s"}]),
        (Thinking(), [{"type": "thinking", "thinking": "", "signature": ""}]),
        (Thinking(redacted="x"), [{"type": "redacted_thinking", "data": "x"}]),
        (
            Thinking(text="Hm", redacted="x"),
            [{"type": "thinking", "thinking": "Hm", "signature": ""}, {"type": "redacted_thinking", "data": "x"}],
        ),
        (Thinking(text="Hm", redacted="gAAAAx"), [{"type": "thinking", "thinking": "Hm", "signature": "gAAAAx"}]),
    ],
    ids=str,
)
def test_thoughts_are_written_as_blocks_of_a_message(thought: Thinking, blocks: list[Document]) -> None:
    body = anthropic_messages.write_reply(completed([thought, Text(text="Hi")]), CONTEXT)

    assert msgspec.json.decode(body)["content"][:-1] == blocks


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("", {}), ("{}", {}), ('{"a": 1}', {"a": 1}), ("[1]", {"value": [1]}), ("5", {"value": 5}),
        ("{", {"invalid_json": "{"}), ('{"a": "\\ud800"}', {"a": "\ufffd"}), ("[" * 5000, {"invalid_json": "[" * 5000}),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_arguments_are_written_as_the_input_of_a_tool_block(arguments: str, given: Document) -> None:
    call = ToolCall(id="a", name="t", arguments=arguments)

    [block] = msgspec.json.decode(anthropic_messages.write_reply(completed([call]), CONTEXT))["content"]

    assert block == {"type": "tool_use", "id": "a", "name": "t", "input": given}


def test_vendor_parts_are_left_out_of_whole_replies() -> None:
    completion = completed([VendorPart(kind="mcp_call"), Text(text="Hi")])

    assert msgspec.json.decode(openai_chat.write_reply(completion, CONTEXT))["choices"][0]["message"]["content"] == "Hi"
    [only] = msgspec.json.decode(anthropic_messages.write_reply(completion, CONTEXT))["content"]
    assert only["text"] == "Hi"
