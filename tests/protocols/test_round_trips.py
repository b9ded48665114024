"""Round trips through each protocol: written and read again, requests, replies and streams keep their meaning."""

from __future__ import annotations

import json
from itertools import pairwise
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given

from llm_gateway.domain.conversation import Completion, Conversation, Image, Text, ToolCall, Turn
from llm_gateway.domain.reply_assembler import ReplyAssembler, chunks_of
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.contract import ReplyContext
from llm_gateway.sse import Splitter
from tests.protocols.conversation_strategies import completions, conversations

CONTEXT = ReplyContext(
    request_id="1", model="model-1", created_s=7, document={"stream_options": {"include_usage": True}}
)
BOTH_SIDES = pytest.mark.parametrize(
    "protocol", [openai_chat, anthropic_messages, openai_responses], ids=["chat", "messages", "responses"]
)


def meaning(conversation: Conversation) -> Any:
    """Return the parts and settings, independent of the split into turns and the formatting of arguments."""
    said: list[tuple[str, Any]] = []
    for turn in conversation.turns:
        for part in turn.parts:
            document = msgspec.to_builtins(part)
            if isinstance(part, ToolCall):
                document["arguments"] = json.loads(part.arguments)
            said.append((turn.role, document))
    settings = msgspec.structs.replace(conversation, turns=[])
    return said, settings


def essence(completion: Completion) -> Any:
    """Return the joined text, the calls, the finish reason and the token counts."""
    [choice] = completion.choices
    calls = [(p.id, p.name, json.loads(p.arguments)) for p in choice.parts if isinstance(p, ToolCall)]
    text = "".join(part.text for part in choice.parts if isinstance(part, Text))
    usage = completion.usage
    return text, calls, choice.finish_reason, (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens)


def expressible(protocol: ModuleType, conversation: Conversation) -> Conversation:
    """Return the conversation as the protocol can express it: Responses has no stop sequences, and always a detail."""
    if protocol is openai_responses:
        for turn in conversation.turns:
            for part in turn.parts:
                if isinstance(part, Image):
                    part.detail = "auto"
        conversation.stop, conversation.max_tokens = [], max(16, conversation.max_tokens or 0)
    return conversation


@BOTH_SIDES
@given(conversation=conversations())
def test_a_request_survives_a_round_trip(protocol: ModuleType, conversation: Conversation) -> None:
    conversation = expressible(protocol, conversation)
    written = protocol.write_request(conversation, "model-1", stream=False)
    document = json.loads(msgspec.json.encode(written.document))

    read = protocol.read_request(document)

    assert (read.dropped, written.dropped) == ((), ())
    assert meaning(read.conversation) == meaning(conversation)


@given(conversation=conversations())
def test_every_conversation_can_be_written_for_gemini(conversation: Conversation) -> None:
    document = gemini.write_request(conversation, "gemini-2.5-pro", stream=True).document

    said = [part for content in document["contents"] for part in content["parts"]]
    turns = [turn for turn in conversation.turns if turn.role != "system"]
    assert len(said) == sum(len(turn.parts) for turn in turns)
    roles = [content["role"] for content in document["contents"]]
    assert all(one != other for one, other in pairwise(roles)), "they alternate"
    texts = [p.text for turn in turns for p in turn.parts if isinstance(p, Text)]
    assert [part["text"] for part in said if "text" in part] == texts


@BOTH_SIDES
@given(completion=completions())
def test_a_reply_survives_a_round_trip(protocol: ModuleType, completion: Completion) -> None:
    body = protocol.write_reply(completion, CONTEXT)

    read = protocol.read_reply(body)

    assert essence(read) == essence(completion)
    assert read.model == "model-1"
    assert not read.usage_estimated


@BOTH_SIDES
@given(completion=completions())
def test_a_stream_survives_a_round_trip(protocol: ModuleType, completion: Completion) -> None:
    writer, reader, assembler = protocol.StreamWriter(CONTEXT), protocol.StreamReader(), ReplyAssembler()
    body = b"".join(writer.write(chunk) for chunk in chunks_of(completion))
    assert not any(end in body for end in (b"data: [DONE]", b"event: message_stop", b"event: response.completed"))

    for event in Splitter(10_000_000).take(body + writer.end()):
        assert not reader.is_done
        for chunk in reader.take(event):
            assembler.take(chunk)

    assert reader.is_done
    assert assembler.is_finished
    read = essence(assembler.completion())
    expected = essence(completion)
    if protocol is openai_responses and expected[2] == "length" and not expected[0]:
        return
    assert read == expected


@given(completion=completions())
def test_a_reply_split_into_chunks_is_assembled_again(completion: Completion) -> None:
    assembler = ReplyAssembler()
    for chunk in chunks_of(completion):
        assembler.take(chunk)

    assert assembler.completion() == completion


@pytest.mark.parametrize("protocol", [openai_chat, anthropic_messages], ids=["chat", "messages"])
def test_a_request_without_messages_is_refused(protocol: ModuleType) -> None:
    with pytest.raises(Exception, match="messages"):
        protocol.read_request({"model": "m", "max_tokens": 5, "messages": []})


def test_a_later_system_text_is_sent_to_claude_as_a_user_message() -> None:
    conversation = Conversation(
        turns=[
            Turn(role="user", parts=[Text(text="one")]),
            Turn(role="system", parts=[Text(text="two")]),
            Turn(role="user", parts=[Text(text="three")]),
        ]
    )
    document = anthropic_messages.write_request(conversation, "claude-haiku-4-5", stream=False).document

    [message] = document["messages"]
    assert [block["text"] for block in message["content"]] == ["one", "two", "three"]
    assert document["max_tokens"] == 32_000
