"""Encrypted reasoning of the Responses API survives a turn at each client, and is left out at other vendors."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.conversation import Chunk, Completion
from llm_gateway.domain.reply_assembler import ReplyAssembler, chunks_of
from llm_gateway.domain.request import ClientRequest
from llm_gateway.protocols import anthropic_messages, gemini, openai_responses
from llm_gateway.protocols.contract import ReplyContext
from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.sse import Event, Splitter
from llm_gateway.worker.pipeline.translation import Translation
from tests.upstream.responses_api import events, response
from tests.worker.pipeline.fakes import provider, request

OPENAIS, OTHERS = "gAAAAAmock1", "xai-blob/+="
SEALS = pytest.mark.parametrize("seal", [OPENAIS, OTHERS])
SUMMARIES = pytest.mark.parametrize("wants_summary", [True, False], ids=["summary", "no summary"])
WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False}
THINKS = {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
CONTEXT = ReplyContext(request_id="1", model="m", created_s=7, document={**THINKS, "thinking": {"type": "adaptive"}})


def vendors_reply(seal: str, *, wants_summary: bool) -> dict[str, Any]:
    """Return a response with reasoning, sealed by `seal`, and a tool call."""
    asked: dict[str, Any] = {
        "model": "gpt-5.4",
        "input": "x",
        "tools": [TOOL],
        "include": ["reasoning.encrypted_content"],
    }
    asked["reasoning"] = {"summary": "auto"} if wants_summary else {}
    whole = response("ok", 1, "resp_1", asked)
    whole["output"][0]["encrypted_content"] = seal
    return whole


def read(whole: dict[str, Any], *, stream: bool) -> list[Chunk]:
    if not stream:
        return chunks_of(openai_responses.read_reply(json.dumps(whole).encode()))
    reader = openai_responses.StreamReader()
    return [chunk for event in events(whole) for chunk in reader.take(Event(b"", json.dumps(event).encode(), b""))]


def assembled(chunks: list[Chunk]) -> Completion:
    assembler = ReplyAssembler()
    for chunk in chunks:
        assembler.take(chunk)
    return assembler.completion()


def told(protocol: ModuleType, chunks: list[Chunk], *, stream: bool, context: ReplyContext = CONTEXT) -> Any:
    """Return the reply as the client gets it: a document, or the data of the events."""
    if not stream:
        return json.loads(protocol.write_reply(assembled(chunks), context))
    writer = protocol.StreamWriter(context)
    body = b"".join([writer.write(chunk) for chunk in chunks]) + writer.end()
    return [json.loads(event.data) for event in Splitter(10**6).take(body)]


def blocks_in(reply: Any) -> list[Any]:
    """Return the content blocks of a message, put together from its events as Anthropic's SDK does."""
    if isinstance(reply, dict):
        return list(reply["content"])
    blocks: list[Any] = []
    for event in reply:
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta" and blocks[-1]["type"] == "thinking":
            delta = event["delta"]
            blocks[-1]["thinking"] += delta.get("thinking", "")
            blocks[-1]["signature"] += delta.get("signature", "")
    return blocks


def messages_request(blocks: list[Any]) -> dict[str, Any]:
    use = next(block for block in blocks if block["type"] == "tool_use")
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "sunny"}
    return {
        "max_tokens": 99,
        "messages": [
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "content": blocks},
            {"role": "user", "content": [result]},
        ],
    }


def gemini_request(reply: Any) -> dict[str, Any]:
    documents = reply if isinstance(reply, list) else [reply]
    parts = [part for each in documents for part in each["candidates"][0].get("content", {}).get("parts", ())]
    call = next(part["functionCall"] for part in parts if "functionCall" in part)
    result = {"functionResponse": {"name": call["name"], "response": {"result": "sunny"}}}
    return {
        "contents": [
            {"role": "user", "parts": [{"text": "Where?"}]},
            {"role": "model", "parts": parts},
            {"role": "user", "parts": [result]},
        ]
    }


def sent(protocol: str, document: dict[str, Any], kind: str, model: str, *protocols: str) -> Any:
    """Return the body of the upstream call for this request."""

    def read_document(given: Any) -> Any:
        found = PROTOCOLS[protocol].read_request(given)
        return found.conversation, found.dropped

    made = provider(kind=kind, models=(model,), protocols=protocols or None)
    asked = request(client_request=ClientRequest(protocol, document, read_document))
    return json.loads(Translation().call(asked, Candidate.of(made, model)).body)


def reasoning_in(body: Any) -> list[Any]:
    return [item["encrypted_content"] for item in body["input"] if item["type"] == "reasoning"]


@SEALS
@SUMMARIES
@WAYS
def test_a_messages_client_sends_the_vendors_reasoning_back(seal: str, wants_summary: bool, stream: bool) -> None:
    chunks = read(vendors_reply(seal, wants_summary=wants_summary), stream=stream)
    blocks = blocks_in(told(anthropic_messages, chunks, stream=stream))

    asked = messages_request(blocks)
    body = sent("anthropic_messages", asked, "openai", "gpt-5.4", "openai_responses")

    assert [block["type"] for block in blocks] == ["thinking" if wants_summary else "redacted_thinking", "tool_use"]
    assert [item["type"] for item in body["input"]] == ["message", "reasoning", "function_call", "function_call_output"]
    assert reasoning_in(body) == [seal]
    assert body["input"][1]["summary"] == ([{"type": "summary_text", "text": "I look it up."}] if wants_summary else [])


@WAYS
@pytest.mark.parametrize(
    ("document", "is_shown"),
    [
        ({}, False),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "adaptive"}}, True),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, True),
    ],
    ids=str,
)
def test_reasoning_without_text_is_shown_only_to_clients_that_asked_for_thinking(
    document: dict[str, Any], is_shown: bool, stream: bool
) -> None:
    """Many programs read `content[0].text`."""
    context = ReplyContext(request_id="1", model="m", created_s=7, document=document)
    chunks = read(vendors_reply(OPENAIS, wants_summary=False), stream=stream)
    blocks = blocks_in(told(anthropic_messages, chunks, stream=stream, context=context))

    assert (blocks[0]["type"] == "redacted_thinking") is is_shown


@SEALS
@SUMMARIES
@WAYS
def test_anthropic_is_not_sent_the_reasoning_of_a_responses_provider(
    seal: str, wants_summary: bool, stream: bool
) -> None:
    chunks = read(vendors_reply(seal, wants_summary=wants_summary), stream=stream)
    asked = messages_request(blocks_in(told(anthropic_messages, chunks, stream=stream)))

    body = sent("anthropic_messages", asked, "anthropic", "claude-haiku-4-5")

    assert [block["type"] for block in body["messages"][1]["content"]] == ["tool_use"]
    chat = sent("anthropic_messages", asked, "openai", "gpt-4o")
    assert seal not in json.dumps(chat)


@SEALS
@SUMMARIES
@WAYS
def test_a_gemini_client_sends_the_vendors_reasoning_back(seal: str, wants_summary: bool, stream: bool) -> None:
    chunks = read(vendors_reply(seal, wants_summary=wants_summary), stream=stream)
    asked = gemini_request(told(gemini, chunks, stream=stream))

    assert reasoning_in(sent("gemini_content", asked, "openai", "gpt-5.4", "openai_responses")) == [seal]
    foreign = sent("gemini_content", asked, "anthropic", "claude-haiku-4-5")
    assert [block["type"] for block in foreign["messages"][1]["content"]] == ["tool_use"]


@SEALS
@WAYS
def test_a_cached_answer_gives_a_responses_client_the_content_as_its_vendor_made_it(seal: str, stream: bool) -> None:
    chunks = read(vendors_reply(seal, wants_summary=True), stream=stream)
    reply = told(openai_responses, chunks, stream=stream)

    output = reply[-1]["response"]["output"] if stream else reply["output"]
    assert output[0]["encrypted_content"] == seal
