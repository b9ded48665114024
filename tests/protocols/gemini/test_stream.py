"""Streams of streamGenerateContent: written as events or as one JSON array, and read."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.conversation import (
    ChoiceEnd,
    Chunk,
    Completion,
    RefusalDelta,
    ReplyStart,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    UsageUpdate,
    VendorPartDelta,
)
from llm_gateway.domain.reply_assembler import ReplyAssembler, chunks_of
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols import gemini
from llm_gateway.protocols.contract import UpstreamError
from llm_gateway.sse import Splitter, encode_event
from tests.protocols.gemini.replies import CONTEXT, completions, plain

HIDING = msgspec.structs.replace(CONTEXT, document={})
CALL: list[Chunk] = [ToolStart(call=0, id="a", name="t", signature="c2ln"), ToolDelta(call=0, arguments='{"a"')]
WRITERS = pytest.mark.parametrize("writer", [gemini.StreamWriter, gemini.ArrayWriter], ids=["events", "array"])


def documents(body: bytes) -> list[dict[str, Any]]:
    """Return the documents of a stream in either format."""
    if body.startswith(b"["):
        found: list[dict[str, Any]] = json.loads(body)
        return found
    return [json.loads(event.data) for event in Splitter(10_000_000).take(body)]


def streamed(*chunks: Chunk, context: Any = CONTEXT) -> list[dict[str, Any]]:
    """Return the documents of a complete stream of these chunks."""
    writer = gemini.StreamWriter(context)
    return documents(b"".join(writer.write(chunk) for chunk in chunks) + writer.end())


def said(*chunks: Chunk, context: Any = CONTEXT) -> list[list[Any]]:
    """Return the parts in each event except the last one."""
    return [
        part
        for document in streamed(*chunks, context=context)[:-1]
        for candidate in document["candidates"]
        for part in [candidate["content"]["parts"]]
    ]


def read_back(body: bytes) -> tuple[Completion, bool]:
    """Return the reply that `StreamReader` reads from a stream, and whether the stream is complete."""
    reader, assembler = gemini.StreamReader(), ReplyAssembler()
    for document in documents(body):
        for event in Splitter(10_000_000).take(encode_event(json.dumps(document).encode())):
            for chunk in reader.take(event):
                assembler.take(chunk)
    return assembler.completion(), assembler.is_finished


@WRITERS
@given(completion=completions())
def test_a_stream_is_read_as_the_complete_reply(writer: Any, completion: Completion) -> None:
    stream = writer(CONTEXT)
    body = b"".join(stream.write(chunk) for chunk in chunks_of(completion)) + stream.end()

    read, is_finished = read_back(body)
    assert plain(read) == plain(completion) == plain(gemini.read_reply(gemini.write_reply(completion, CONTEXT)))
    assert (read.usage, read.id, read.model) == (completion.usage, "request-1", "model-1")
    assert is_finished


@given(completion=completions(), data=st.data())
def test_chunks_of_any_size_give_the_same_reply(completion: Completion, data: st.DataObject) -> None:
    stream, body = gemini.StreamWriter(CONTEXT), b""
    for chunk in chunks_of(completion):
        for piece in cut(chunk, data.draw(st.integers(1, 5))):
            body += stream.write(piece)

    assert plain(read_back(body + stream.end())[0]) == plain(completion)


def cut(chunk: Chunk, size: int) -> list[Chunk]:
    """Split a chunk into smaller ones; the last one has the signature."""
    if isinstance(chunk, TextDelta | ThinkingDelta) and len(chunk.text) > size:
        first: Chunk
        if isinstance(chunk, TextDelta):
            first = TextDelta(text=chunk.text[:size], choice=chunk.choice)
        else:
            first = ThinkingDelta(text=chunk.text[:size], choice=chunk.choice)
        return [first, *cut(msgspec.structs.replace(chunk, text=chunk.text[size:]), size)]
    if isinstance(chunk, ToolDelta) and len(chunk.arguments) > size:
        first = msgspec.structs.replace(chunk, arguments=chunk.arguments[:size])
        return [first, *cut(msgspec.structs.replace(chunk, arguments=chunk.arguments[size:]), size)]
    return [chunk]


def test_a_stream_is_written_as_generate_content_responses() -> None:
    usage = Usage(input_tokens=5, output_tokens=3)
    found = streamed(
        ReplyStart(model="gpt-4o"),
        TextDelta(text="Hel"),
        TextDelta(text="lo"),
        ChoiceEnd(reason="length"),
        UsageUpdate(usage=usage),
    )
    common = {"modelVersion": "gpt-4o", "responseId": "request-1"}

    def candidate(text: str, **more: Any) -> dict[str, Any]:
        return {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **more}

    assert found == [
        {"candidates": [candidate("Hel")], **common},
        {"candidates": [candidate("lo")], **common},
        {
            "candidates": [candidate("", finishReason="MAX_TOKENS")],
            **common,
            "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 8},
        },
    ]


def test_events_are_written_as_server_sent_events() -> None:
    writer = gemini.StreamWriter(CONTEXT)
    body = writer.write(TextDelta(text="Hi"))

    assert body.startswith(b'data: {"candidates":')
    assert body.endswith(b"}\n\n")
    assert writer.close() == b""


def test_an_array_is_written_element_by_element() -> None:
    writer = gemini.ArrayWriter(CONTEXT)
    pieces = [writer.write(TextDelta(text="Hi")), writer.write(TextDelta(text="!")), writer.end()]

    assert [piece[:4] for piece in pieces] == [b'[{"c', b"\n,\r\n", b"\n,\r\n"]
    assert pieces[-1].endswith(b"}\n]\n")
    assert len(json.loads(b"".join(pieces))) == 3


def test_an_array_with_keep_alive_bytes_is_valid_json() -> None:
    writer = gemini.ArrayWriter(CONTEXT)
    alive = writer.keep_alive
    body = alive + writer.write(TextDelta(text="Hi")) + alive + writer.write(TextDelta(text="!")) + alive + writer.end()

    assert len(json.loads(body)) == 3


def test_keep_alive_bytes_do_not_change_the_events() -> None:
    writer = gemini.StreamWriter(CONTEXT)
    alive = writer.keep_alive
    events = Splitter(1000).take(alive + writer.write(TextDelta(text="Hi")) + alive + writer.write(TextDelta(text="!")))

    assert [json.loads(event.data)["candidates"][0]["content"]["parts"] for event in events] == [
        [{"text": "Hi"}],
        [{"text": "!"}],
    ]


@WRITERS
def test_events_of_the_provider_are_passed_on(writer: Any) -> None:
    stream = writer(CONTEXT)
    events = [{"candidates": [], "own": number} for number in range(3)]
    raw = [encode_event(json.dumps(event).encode()) for event in events]
    raw[1] = b"data: {\ndata: " + json.dumps(events[1]).encode()[1:] + b"\n\n"
    body = (
        b"".join(stream.passthrough_event(piece) for piece in raw)
        + stream.passthrough_event(b": comment\n\n")
        + stream.close()
    )

    body = body.replace(b": comment\n\n", b"") if writer is gemini.StreamWriter else body
    assert documents(body) == events


@WRITERS
def test_an_array_without_an_event_is_empty(writer: Any) -> None:
    assert writer(CONTEXT).close() == (b"[]\n" if writer is gemini.ArrayWriter else b"")


@WRITERS
@pytest.mark.parametrize("is_begun", [True, False])
def test_a_stream_that_fails_ends_with_the_error(writer: Any, is_begun: bool) -> None:
    stream = writer(CONTEXT)
    body = stream.write(TextDelta(text="Hi")) if is_begun else b""
    [*before, last] = documents(body + stream.error("The provider failed", "provider_error"))

    assert len(before) == is_begun
    assert list(last) == ["error"], "google-genai expects it at the beginning"
    assert (last["error"]["code"], last["error"]["status"]) == (502, "UNAVAILABLE")
    assert last["error"]["message"] == "The provider failed"
    with pytest.raises(UpstreamError, match="The provider failed") as caught:
        read_back(encode_event(json.dumps(last).encode()))
    assert caught.value.type == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("code", "status", "word"),
    [("overloaded", 503, "UNAVAILABLE"), ("deadline_exceeded", 504, "DEADLINE_EXCEEDED"), ("other", 500, "INTERNAL")],
)
def test_an_error_within_a_stream_has_googles_status(code: str, status: int, word: str) -> None:
    [document] = documents(gemini.StreamWriter(CONTEXT).error("x", code))

    assert (document["error"]["code"], document["error"]["status"]) == (status, word)


def test_an_open_call_is_not_written_if_the_stream_fails() -> None:
    writer = gemini.StreamWriter(CONTEXT)

    assert b"".join(writer.write(chunk) for chunk in CALL) == b""
    assert b"functionCall" not in writer.error("x", "provider_error")


@pytest.mark.parametrize("after", [[TextDelta(text="x")], [ChoiceEnd(reason="tool_calls")], []])
def test_a_call_is_written_once_it_is_complete(after: list[Chunk]) -> None:
    call = {"functionCall": {"id": "a", "name": "t", "args": {"a": 1}}, "thoughtSignature": "c2ln"}

    assert said(*CALL, ToolDelta(call=0, arguments=": 1}"), *after)[0] == [call]


def test_interleaved_calls_are_written_one_after_the_other() -> None:
    found = said(
        ToolStart(call=0, id="a", name="t"),
        ToolStart(call=1, id="b", name="u"),
        ToolDelta(call=0, arguments='{"x"'),
        ToolDelta(call=1, arguments='{"y"'),
        ToolDelta(call=0, arguments=": 1}"),
        ToolDelta(call=1, arguments=": 2}"),
        ChoiceEnd(reason="tool_calls"),
    )

    assert [part["functionCall"] for [part] in found] == [
        {"id": "a", "name": "t", "args": {"x": 1}},
        {"id": "b", "name": "u", "args": {"y": 2}},
    ]


def test_calls_of_several_choices_are_kept_apart() -> None:
    documents = streamed(
        ToolStart(call=0, id="a", name="t", choice=0),
        ToolStart(call=0, id="b", name="t", choice=1),
        ToolDelta(call=0, arguments='{"x": 0}', choice=0),
        ToolDelta(call=0, arguments='{"x": 1}', choice=1),
        ChoiceEnd(reason="tool_calls", choice=1),
        ChoiceEnd(reason="tool_calls", choice=0),
    )
    calls = {
        candidate["index"]: candidate["content"]["parts"][0]["functionCall"]["args"]
        for document in documents[:-1]
        for candidate in document["candidates"]
    }

    assert calls == {0: {"x": 0}, 1: {"x": 1}}
    assert [candidate["index"] for candidate in documents[-1]["candidates"]] == [0, 1]


def test_arguments_without_a_call_are_dropped() -> None:
    assert said(ToolDelta(call=3, arguments="{}"), TextDelta(text="x")) == [[{"text": "x"}]]


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (TextDelta(text=""), []),
        (TextDelta(text="", signature="c2ln"), [[{"text": "", "thoughtSignature": "c2ln"}]]),
        (RefusalDelta(text="No"), [[{"text": "No"}]]),
        (VendorPartDelta(kind="audio"), []),
        (ThinkingDelta(text=""), []),
        (ThinkingDelta(text="Hm"), [[{"text": "Hm", "thought": True}]]),
    ],
)
def test_chunks_are_written_as_parts(chunk: Chunk, expected: list[Any]) -> None:
    assert said(chunk) == expected


def test_thoughts_are_omitted_unless_requested() -> None:
    chunks: list[Chunk] = [ThinkingDelta(text="Hm"), ThinkingDelta(signature="c2ln"), TextDelta(text="So")]

    assert said(*chunks, context=HIDING) == [[{"text": "So"}]]
    assert len(said(*chunks)) == 3


def test_a_signature_contains_the_whole_thought() -> None:
    [_, _, [part]] = said(ThinkingDelta(text="H"), ThinkingDelta(text="m"), ThinkingDelta(signature="c2ln"))
    contents = [{"parts": [{"text": "x"}]}, {"role": "model", "parts": [part]}]

    assert part["text"] == ""
    assert gemini.read_request({"contents": contents}).conversation.turns[1].parts == [
        Thinking(text="Hm", signature="c2ln")
    ]


def test_logprobs_are_written_with_their_text() -> None:
    logprobs = {"content": [{"token": "H", "logprob": -0.5, "top_logprobs": []}]}
    [first, last] = streamed(TextDelta(text="H", logprobs=logprobs), ChoiceEnd())

    assert first["candidates"][0]["logprobsResult"]["chosenCandidates"] == [{"token": "H", "logProbability": -0.5}]
    assert "logprobsResult" not in last["candidates"][0]


def test_a_stream_without_content_has_one_event() -> None:
    [document] = streamed(ReplyStart(), ChoiceEnd(reason="content_filter"))

    [candidate] = document["candidates"]
    assert candidate["finishReason"] == "SAFETY"
    assert "usageMetadata" not in document


# Google's own streams


def generated(*parts: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """Return the document of an event as Google sends it."""
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    return {"candidates": [candidate | ({"finishReason": finish} if finish else {})], "responseId": "r", **more}


def body_of(*events: dict[str, Any]) -> bytes:
    """Return the bytes of a stream, with CRLF line ends as Google sends them."""
    return b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in events)


def test_a_stream_of_google_is_read() -> None:
    usage = {"promptTokenCount": 4, "candidatesTokenCount": 3, "thoughtsTokenCount": 2, "totalTokenCount": 9}
    completion, is_finished = read_back(
        body_of(
            generated({"text": "Hm", "thought": True}, modelVersion="gemini-3-pro"),
            generated({"text": "Hel"}),
            generated({"text": "lo"}),
            generated({"text": "", "thoughtSignature": "c2ln"}),
            generated({"functionCall": {"name": "t", "args": {"a": 1}}, "thoughtSignature": "b3RoZXI="}),
            generated({"text": ""}, finish="STOP", usageMetadata=usage),
        )
    )
    assert is_finished
    [choice] = completion.choices
    assert choice.parts == [
        Thinking(text="Hm"),
        Text(text="Hello", signature="c2ln"),
        ToolCall(id="call_r_0_0", name="t", arguments='{"a": 1}', signature="b3RoZXI="),
    ]
    assert choice.finish_reason == "tool_calls"
    assert completion.usage == Usage(input_tokens=4, output_tokens=5, reasoning_tokens=2)
    assert (completion.id, completion.model) == ("r", "gemini-3-pro")


def test_a_signature_after_its_text_belongs_to_it_in_a_complete_reply_too() -> None:
    text, signature = {"text": "Hello"}, {"text": "", "thoughtSignature": "c2ln"}
    stream, _ = read_back(body_of(generated(text), generated(signature, finish="STOP")))
    whole = gemini.read_reply(json.dumps(generated({**text, "thoughtSignature": "c2ln"}, finish="STOP")).encode())

    assert stream.choices == whole.choices


@pytest.mark.parametrize(
    "events",
    [[generated({"text": "Hel"})], [generated({"text": "Hel"}), generated({"text": "lo"})], [{"responseId": "r"}]],
)
def test_a_stream_that_was_cut_is_not_complete(events: list[dict[str, Any]]) -> None:
    assert not read_back(body_of(*events))[1]


def test_a_stream_of_several_choices_is_complete_when_each_choice_is() -> None:
    def event(index: int, finish: str | None) -> dict[str, Any]:
        return {"candidates": [{"content": {"parts": [{"text": "x"}]}, "index": index, "finishReason": finish}]}

    begun = [event(0, None), event(1, None), event(0, "STOP")]
    assert not read_back(body_of(*begun))[1]
    assert read_back(body_of(*begun, event(1, "STOP")))[1]


def test_an_error_within_a_stream_of_google_is_raised() -> None:
    error = {"error": {"code": 503, "message": "The model is overloaded", "status": "UNAVAILABLE"}}

    with pytest.raises(UpstreamError, match="overloaded") as caught:
        read_back(body_of(generated({"text": "Hel"}), error))
    assert caught.value.type == "UNAVAILABLE"
