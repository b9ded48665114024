"""Tests of replies without text: complete ones are answers in every protocol, truncated ones are errors."""

from __future__ import annotations

import json
from typing import Any

import anthropic as anthropic_sdk
import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from llm_gateway.domain.reply_assembler import ReplyAssembler
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.contract import Malformed, ReplyContext
from llm_gateway.sse import Event, Splitter
from llm_gateway.worker.pipeline.translation import reply_of
from tests.protocols.vendor_replies import DIALECTS, encoded, read_stream, text_of
from tests.rows import each_row

COUNTED = Usage(input_tokens=19, output_tokens=10)
CHAT_USAGE = {"prompt_tokens": 19, "completion_tokens": 10}
USAGE = {"input_tokens": 19, "output_tokens": 10}
GEMINI_USAGE = {"promptTokenCount": 19, "candidatesTokenCount": 10}


def chat(message: Any, reason: str | None = "stop") -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": reason}], "usage": CHAT_USAGE}


def message(*blocks: Any, reason: str | None = "end_turn") -> dict[str, Any]:
    return {"content": list(blocks), "stop_reason": reason, "usage": USAGE}


def generated(content: Any, reason: str | None = "STOP") -> dict[str, Any]:
    return {"candidates": [{"content": content, "finishReason": reason}], "usageMetadata": GEMINI_USAGE}


THINKING = {"type": "thinking", "thinking": "Hm", "signature": "s"}
REASONING = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]}
THOUGHT = {"text": "Hm", "thought": True}
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "chat null": ("chat", chat({"content": None})),
    "chat empty": ("chat", chat({"content": ""})),
    "chat absent": ("chat", chat({})),
    "chat no parts": ("chat", chat({"content": []})),
    "chat thoughts": ("chat", chat({"content": None, "reasoning_content": "Hm"})),
    "chat other reasoning": ("chat", chat({"content": "", "reasoning": "Hm"})),
    "chat eos": ("chat", chat({"content": None}, "eos")),
    "messages none": ("messages", message()),
    "messages null": ("messages", {**message(), "content": None}),
    "messages empty": ("messages", message({"type": "text", "text": ""})),
    "messages thoughts": ("messages", message(THINKING)),
    "messages stop sequence": ("messages", message(reason="stop_sequence")),
    "responses none": ("responses", {"status": "completed", "output": [], "usage": USAGE}),
    "responses absent": ("responses", {"status": "completed", "usage": USAGE}),
    "responses thoughts": ("responses", {"status": "completed", "output": [REASONING], "usage": USAGE}),
    "responses empty": (
        "responses",
        {"status": "completed", "output": [{"type": "message", "content": []}], "usage": USAGE},
    ),
    "gemini none": ("gemini", generated({"role": "model"})),
    "gemini null": ("gemini", generated(None)),
    "gemini no parts": ("gemini", generated({"parts": []})),
    "gemini empty": ("gemini", generated({"parts": [{"text": ""}]})),
    "gemini thoughts": ("gemini", generated({"parts": [THOUGHT]})),
}
UNENDED = {
    "chat": chat({"content": None}, None),
    "messages": message(reason=None),
    "responses": {"status": "in_progress", "output": [], "usage": USAGE},
    "gemini": generated({"parts": []}, None),
}


def chat_chunk(delta: Any, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


CHAT_COUNTS = {"choices": [], "usage": CHAT_USAGE}
ROLE = chat_chunk({"role": "assistant", "content": ""})
BEGUN: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
}
STARTED = {"type": "message_start", "message": {**BEGUN, "usage": {"input_tokens": 19, "output_tokens": 0}}}
STOPPED = {"type": "message_stop"}
CREATED = {"type": "response.created", "response": {"id": "resp_1"}}
COMPLETED = {"type": "response.completed", "response": {"status": "completed", "usage": USAGE}}


def ended(reason: str | None) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 10}}


STREAMS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "chat reason": ("chat", [ROLE, chat_chunk({}, "stop"), CHAT_COUNTS]),
    "chat at once": ("chat", [chat_chunk({}, "stop"), CHAT_COUNTS]),
    "chat end alone": ("chat", [ROLE, CHAT_COUNTS]),
    "chat null": ("chat", [chat_chunk({"content": None}), chat_chunk({"content": None}, "stop"), CHAT_COUNTS]),
    "chat thoughts": ("chat", [chat_chunk({"reasoning_content": "Hm"}), chat_chunk({}, "stop"), CHAT_COUNTS]),
    "messages reason": ("messages", [STARTED, ended("end_turn"), STOPPED]),
    "messages end alone": ("messages", [STARTED, ended(None), STOPPED]),
    "messages empty": (
        "messages",
        [
            STARTED,
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_stop", "index": 0},
            ended("end_turn"),
            STOPPED,
        ],
    ),
    "messages thoughts": (
        "messages",
        [
            STARTED,
            {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
            {"type": "content_block_stop", "index": 0},
            ended("end_turn"),
            STOPPED,
        ],
    ),
    "responses": ("responses", [CREATED, COMPLETED]),
    "responses thoughts": (
        "responses",
        [CREATED, {"type": "response.reasoning_summary_text.delta", "delta": "Hm"}, COMPLETED],
    ),
    "gemini": ("gemini", [generated({"parts": []})]),
    "gemini no content": ("gemini", [generated(None)]),
    "gemini thoughts": ("gemini", [generated({"parts": [THOUGHT]}, None), generated({"parts": [{"text": ""}]})]),
}
CUT: dict[str, list[dict[str, Any]]] = {
    "chat": [ROLE],
    "messages": [STARTED],
    "responses": [CREATED],
    "gemini": [generated({"parts": []}, None)],
}
SURFACES = {"chat": openai_chat, "messages": anthropic_messages, "responses": openai_responses}
CONTEXT = ReplyContext(request_id="1", model="m", created_s=7, document={"stream_options": {"include_usage": True}})


@pytest.mark.parametrize("kind", WHOLE)
def test_a_complete_reply_without_text_is_an_answer_with_exact_tokens(kind: str) -> None:
    name, document = WHOLE[kind]
    body = encoded(document)
    completion = DIALECTS[name].read(body)
    replies = [reply_of(completion), reply_of(completion, body)]
    for reply in replies:
        assert (reply.content, reply.finish_reason) == ("", "stop")
        assert (reply.usage, reply.usage_estimated) == (COUNTED, False)
        assert not reply.is_cacheable


FILTERED: dict[str, dict[str, Any]] = {
    "chat": chat({"content": "Half of"}, "content_filter"),
    "messages": message({"type": "text", "text": "Half of"}, reason="refusal"),
    "responses": {
        "status": "incomplete",
        "incomplete_details": {"reason": "content_filter"},
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Half of"}]}],
        "usage": USAGE,
    },
    "gemini": generated({"parts": [{"text": "Half of"}]}, "SAFETY"),
}


@pytest.mark.parametrize("name", FILTERED)
def test_a_filtered_answer_is_served_and_billed_but_not_cached(name: str) -> None:
    completion = DIALECTS[name].read(encoded(FILTERED[name]))
    for reply in (reply_of(completion), reply_of(completion, encoded(FILTERED[name]))):
        assert (reply.finish_reason, reply.usage, reply.usage_estimated) == ("content_filter", COUNTED, False)
        assert not reply.is_cacheable
    assert text_of(completion) == "Half of"


@pytest.mark.parametrize("kind", WHOLE)
def test_usage_of_an_empty_reply_without_counts_is_estimated(kind: str) -> None:
    name, document = WHOLE[kind]
    body = encoded({field: value for field, value in document.items() if not field.startswith("usage")})
    reply = reply_of(DIALECTS[name].read(body))
    assert (reply.usage, reply.usage_estimated) == (Usage(output_tokens=1), True)


@pytest.mark.parametrize("name", UNENDED)
def test_an_empty_reply_without_a_finish_reason_is_malformed(name: str) -> None:
    body = encoded(UNENDED[name])
    with pytest.raises(Malformed, match="The answer has no content"):
        DIALECTS[name].read(body)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_without_text_is_an_answer_with_exact_tokens(kind: str) -> None:
    name, events = STREAMS[kind]
    completion, is_complete = read_stream(DIALECTS[name], events)

    assert is_complete
    assert (text_of(completion), completion.choices[0].finish_reason) == ("", "stop")
    assert (completion.usage, completion.usage_estimated) == (COUNTED, False)
    assert not reply_of(completion).is_cacheable


@pytest.mark.parametrize("name", CUT)
def test_an_empty_stream_that_was_cut_is_not_complete(name: str) -> None:
    reader, assembler = DIALECTS[name].reader(), ReplyAssembler()
    for event in CUT[name]:
        for chunk in reader.take(Event(b"", encoded(event), b"")):
            assembler.take(chunk)

    assert not reader.is_done
    assert not assembler.is_finished


@pytest.mark.parametrize(
    ("name", "end"), [("chat", b"[DONE]"), ("messages", encoded(STOPPED)), ("responses", b"[DONE]")]
)
def test_an_end_marker_without_a_beginning_gives_no_chunks(name: str, end: bytes) -> None:
    assert DIALECTS[name].reader().take(Event(b"", end, b"")) == []


def test_text_held_back_for_json_comes_with_the_end_of_the_stream() -> None:
    reader = anthropic_messages.StreamReader(wants_json=True)
    text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "{}"}}
    chunks = [chunk for event in (STARTED, text, STOPPED) for chunk in reader.take(Event(b"", encoded(event), b""))]

    assert [getattr(chunk, "text", None) for chunk in chunks] == [None, "{}", None]


@each_row("surface", SURFACES)
@each_row("kind", WHOLE)
def test_each_sdk_reads_a_reply_without_text(kind: str, surface: str) -> None:
    name, document = WHOLE[kind]
    written = json.loads(SURFACES[surface].write_reply(DIALECTS[name].read(encoded(document)), CONTEXT))

    if surface == "chat":
        [choice] = ChatCompletion.model_validate(written).choices
        assert (choice.message.content, choice.finish_reason) == ("", "stop")
    elif surface == "messages":
        made = anthropic_sdk.types.Message.model_validate(written)
        assert made.stop_reason in ("end_turn", "stop_sequence")
        assert [block.text for block in made.content if block.type == "text" and block.text] == []
        assert (made.usage.input_tokens, made.usage.output_tokens) == (19, 10)
    else:
        response = Response.model_validate(written)
        assert (response.status, response.output_text) == ("completed", "")


@each_row("surface", SURFACES)
@each_row("kind", STREAMS)
def test_a_stream_without_text_ends_validly_in_each_protocol(kind: str, surface: str) -> None:
    name, events = STREAMS[kind]
    reader, writer = DIALECTS[name].reader(), SURFACES[surface].StreamWriter(CONTEXT)
    body = b""
    for data in [*map(encoded, events), *([b"[DONE]"] if name == "chat" else [])]:
        body += b"".join(writer.write(chunk) for chunk in reader.take(Event(b"", data, b"")))
    body += writer.end()

    told, assembler = SURFACES[surface].StreamReader(), ReplyAssembler()
    written = Splitter(1_000_000).take(body)
    for event in written:
        for chunk in told.take(event):
            assembler.take(chunk)
    assert told.is_done
    assert assembler.is_finished
    assert (text_of(assembler.completion()), assembler.usage) == ("", COUNTED)
    names = [event.name.decode() for event in written]
    if surface == "messages":
        assert (names[0], names[-2:]) == ("message_start", ["message_delta", "message_stop"])
        assert names.count("content_block_start") == names.count("content_block_stop")
    elif surface == "responses":
        assert (names[:2], names[-1]) == (["response.created", "response.in_progress"], "response.completed")


@pytest.mark.parametrize(("surface", "index"), [("messages", 1), ("responses", 7), ("chat", 0)])
def test_the_first_choice_to_arrive_is_written_whatever_its_index(surface: str, index: int) -> None:
    reader, writer = gemini.StreamReader(), SURFACES[surface].StreamWriter(CONTEXT)
    event = {"candidates": [{"index": index, "content": {"parts": [{"text": "Hello"}]}, "finishReason": "STOP"}]}

    written = b"".join(writer.write(chunk) for chunk in reader.take(Event(b"", encoded(event), b"")))

    assert b"Hello" in written
