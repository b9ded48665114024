"""Round trips of requests through Google's format: everything that it can express is kept."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given

from llm_gateway.domain.conversation import Conversation, Part, Text, ToolCall, ToolResult, Turn
from llm_gateway.protocols import gemini
from tests.protocols.conversation_strategies import conversations
from tests.protocols.test_linear import is_linear


def meaning(conversation: Conversation) -> Any:
    """Return the conversation with calls numbered in order instead of ids, so that generated ids compare equal."""
    places: dict[str, int] = {}
    said: list[Any] = []
    for turn in conversation.turns:
        for part in turn.parts:
            if isinstance(part, ToolCall):
                places[part.id] = len(places)
                said.append((turn.role, places[part.id], part.name, json.loads(part.arguments)))
            elif isinstance(part, ToolResult):
                said.append((turn.role, places[part.call_id], part.content, part.is_error))
            else:
                said.append((turn.role, part))
    return said, msgspec.structs.replace(conversation, turns=[])


@given(conversation=conversations())
def test_a_conversation_is_the_same_after_writing_and_reading(conversation: Conversation) -> None:
    written = gemini.write_request(conversation, "gemini-2.5-pro", stream=False)
    read = gemini.read_request(json.loads(msgspec.json.encode(written.document)))

    assert (written.dropped, read.dropped) == ((), ())
    assert meaning(read.conversation) == meaning(conversation)


@given(conversation=conversations())
def test_a_request_is_the_same_after_reading_and_writing(conversation: Conversation) -> None:
    document = gemini.write_request(conversation, "gemini-3-pro", stream=False).document
    read = gemini.read_request(json.loads(msgspec.json.encode(document))).conversation

    assert gemini.write_request(read, "gemini-3-pro", stream=False).document == document


def test_signatures_of_texts_and_calls_are_kept() -> None:
    parts: list[Part] = [
        Text(text="So", signature="c2ln"),
        ToolCall(id="call_0", name="t", arguments="{}", signature="Y2FsbA=="),
        ToolCall(id="call_1", name="u", arguments="{}"),
    ]
    turns = [Turn(role="user", parts=[Text(text="x")]), Turn(role="assistant", parts=parts)]
    document = gemini.write_request(Conversation(turns=turns), "gemini-2.5-pro", stream=False).document

    assert gemini.read_request(document).conversation.turns == turns


def test_the_time_to_read_contents_grows_linearly() -> None:
    call = {"role": "model", "parts": [{"functionCall": {"name": "t"}}]}
    result = {"role": "user", "parts": [{"functionResponse": {"name": "t", "response": {}}}]}
    chunk = {"role": "model", "parts": [{"text": "x"}]}
    thought = {"role": "model", "parts": [{"text": "x", "thought": True}]}

    def read(count: int) -> None:
        asked = {"role": "user", "parts": [{"text": "x"}]}
        calls = [call] * (count // 8)
        contents = [asked, *[chunk] * count, *[thought] * count, *calls, *[result] * len(calls)]
        found = gemini.read_request({"contents": contents}).conversation
        assert len(found.turns) == 3

    assert is_linear(read)
