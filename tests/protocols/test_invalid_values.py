"""Tests of lenient decoding: a reply survives invalid values in every field that does not affect the answer.

"Side fields" are those fields: ids, times, indexes, usage, and all others besides the content.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.usage import Usage
from llm_gateway.protocols import anthropic_messages, lenient_decoding, openai_embeddings
from llm_gateway.protocols.contract import Malformed, ReplyContext
from llm_gateway.sse import Event
from llm_gateway.worker.pipeline.translation import reply_of
from tests.protocols.vendor_replies import (
    DIALECTS,
    Dialect,
    Path,
    changed,
    encoded,
    read_encoded,
    read_stream,
    side_fields,
    text_of,
)
from tests.rows import each_row

ODD: list[Any] = [
    3.0, "3", True, False, 1e30, 10**30, -1, -0.5, None, "", "odd", [], [1], ["x"], {}, {"a": {"b": 1}}, "\ud800",
    float("nan"), float("inf"), "9" * 5000,
]  # fmt: skip
CASES = each_row("name", DIALECTS)


@CASES
@each_row("odd", ODD)
def test_a_whole_answer_survives_an_invalid_side_field(name: str, odd: Any) -> None:
    dialect = DIALECTS[name]
    said = text_of(dialect.read(encoded(dialect.whole)))
    paths = list(side_fields(dialect.whole, dialect.content))
    assert len(paths) > 15
    for path in paths:
        body = encoded(changed(dialect.whole, path, odd))
        assert text_of(dialect.read(body)) == said, path
        reply = reply_of(dialect.read(body))
        assert reply.content == said, path
        msgspec.msgpack.encode(reply)


@CASES
@each_row("odd", ODD)
def test_a_stream_survives_an_invalid_side_field(name: str, odd: Any) -> None:
    dialect = DIALECTS[name]
    said = text_of(read_stream(dialect, dialect.stream)[0])
    paths = [path for path in side_fields(dialect.stream, dialect.content) if len(path) > 1]
    assert len(paths) > 20
    events = list(map(encoded, dialect.stream))
    for path in paths:
        at, *place = path
        assert isinstance(at, int)
        event = encoded(changed(dialect.stream[at], tuple(place), odd))
        completion, is_complete = read_encoded(dialect, [*events[:at], event, *events[at + 1 :]])
        assert text_of(completion) == said, path
        another_choice = path[-1] == "index" and odd == 3.0
        no_reason = name == "gemini" and path[-1] == "finishReason" and odd in (None, "")
        assert is_complete or another_choice or no_reason, path
        msgspec.msgpack.encode(reply_of(completion))


def counted(dialect: Dialect, path: Path, value: Any) -> list[tuple[Usage, bool]]:
    """Return (usage, is estimated) of the whole reply and of the stream in which the count at `path` is `value`."""
    whole = dialect.read(encoded(changed(dialect.whole, (dialect.usage, *path), value)))
    events = [
        changed(event, place, value) if (place := _count_at(event, dialect.usage, path)) else event
        for event in dialect.stream
    ]
    stream, _ = read_stream(dialect, events)
    return [(completion.usage, completion.usage_estimated) for completion in (whole, stream)]


def _count_at(event: Any, usage: str, path: Path) -> Path | None:
    for holder in ((), ("response",), ("message",)):
        found = event
        for name in holder:
            found = found.get(name, {})
        if isinstance(found, dict) and found.get(usage):
            return (*holder, usage, *path)
    return None


@CASES
def test_counts_may_be_whole_floats(name: str) -> None:
    dialect = DIALECTS[name]
    exact = (dialect.read(encoded(dialect.whole)).usage, False)
    for path in (*dialect.totals, *dialect.details):
        if isinstance(value := _at(dialect, path), int):
            assert counted(dialect, path, float(value)) == [exact, exact], path


def _at(dialect: Dialect, path: Path) -> Any:
    value: Any = dialect.whole[dialect.usage]
    for key in path:
        value = value[key]
    return value


@pytest.mark.parametrize("odd", ["true", 1, [1], {"a": 1}], ids=repr)
def test_a_truthy_thought_flag_marks_a_thought(odd: Any) -> None:
    dialect = DIALECTS["gemini"]
    body = encoded(changed(dialect.whole, ("candidates", 0, "content", "parts", 0, "thought"), odd))
    assert text_of(dialect.read(body)) == "Hello! How can I help?"


@CASES
@each_row("odd", ["3", True, 1e30, 10**30, -1, 2.5, [], [3], {"a": 1}, "x"])
def test_usage_with_an_invalid_count_is_estimated(name: str, odd: Any) -> None:
    """An invalid total makes the usage an estimate from the text; an invalid detail leaves the reported totals."""
    dialect = DIALECTS[name]
    totals = dialect.read(encoded(dialect.whole)).usage
    for path in dialect.totals:
        for usage, is_estimated in counted(dialect, path, odd):
            assert is_estimated, path
            assert usage.input_tokens == 0, "input tokens are estimated later, from the request"
            assert 0 < usage.output_tokens < 30, "output tokens are estimated from the text"
    for path in dialect.details:
        if type(odd) is type(_at(dialect, path)) and odd in ([], {"a": 1}):
            continue  # empty details are valid
        for usage, is_estimated in counted(dialect, path, odd):
            assert is_estimated, path
            assert (usage.input_tokens, usage.output_tokens) == (totals.input_tokens, totals.output_tokens), path


@each_row("odd", ODD)
def test_embeddings_survive_an_invalid_side_field(odd: Any) -> None:
    whole = {"object": "list", "data": [{"embedding": [0.5], "index": 0}], "model": "m", "usage": {"prompt_tokens": 8}}
    for path in (("object",), ("model",), ("usage",), ("usage", "prompt_tokens"), ("data", 0, "index")):
        reply = reply_of(openai_embeddings.read_reply(encoded(changed(whole, path, odd))))
        is_count = path == ("usage", "prompt_tokens") and odd == 3.0
        assert reply.usage_estimated is (path[0] == "usage" and not is_count), path
        assert reply.is_cacheable


EVENT = Event(b"", b"", b"")
SURROGATES = {
    "single": (b'"\\ud800"', "\ufffd"),
    "second first": (b'"\\udc00\\ud800"', "\ufffd\ufffd"),
    "pair": (b'"\\ud83d\\ude00"', "\U0001f600"),
    "in bytes": (b'"\xed\xa0\x80"', "\ufffd" * 3),
    "cut character": (b'"\xe2\x82"', "\ufffd"),
}


@CASES
@each_row("kind", SURROGATES)
def test_invalid_characters_are_replaced(name: str, kind: str) -> None:
    """In translated answers; clients of the provider's own protocol receive its bytes unchanged."""
    written, read = SURROGATES[kind]
    dialect = DIALECTS[name]
    said = json.dumps(text_of(read_stream(dialect, dialect.stream)[0])).encode()
    whole = encoded(changed(dialect.whole, _text_at(name), "§"))

    assert read in text_of(dialect.read(whole.replace(json.dumps("§").encode(), written)))
    reader = dialect.reader()
    chunks = []
    for event in dialect.stream:
        chunks += reader.take(msgspec.structs.replace(EVENT, data=encoded(event).replace(said, written)))
    assert [chunk.text for chunk in chunks if chunk.__class__.__name__ == "TextDelta" and chunk.text] == [read]


def _text_at(name: str) -> Path:
    return {
        "chat": ("choices", 0, "message", "content"),
        "messages": ("content", 1, "text"),
        "responses": ("output", 1, "content", 0, "text"),
        "gemini": ("candidates", 0, "content", "parts", 1, "text"),
    }[name]


@CASES
@each_row("odd", [5, True, {"a": 1}, [[1]]])
def test_invalid_content_is_malformed(name: str, odd: Any) -> None:
    dialect = DIALECTS[name]
    with pytest.raises(Malformed, match=r"^Invalid "):
        dialect.read(encoded(changed(dialect.whole, _text_at(name), odd)))


@CASES
@given(document=st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), st.lists, max_leaves=5))
def test_documents_of_any_other_shape_are_malformed(name: str, document: Any) -> None:
    with pytest.raises(Malformed):
        DIALECTS[name].read(encoded(document))
    with pytest.raises(Malformed):
        DIALECTS[name].reader().take(msgspec.structs.replace(EVENT, data=encoded(document)))


@pytest.mark.parametrize("name", ["messages", "gemini", "chat"])
def test_lone_surrogates_in_tool_input_are_replaced(name: str) -> None:
    """Chat completions have the input as JSON text, the others as JSON; Anthropic's clients always get JSON."""
    call = {"name": "f", "args": {"a": "\ud800"}}
    body = {
        "messages": {"content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": "\ud800"}}]},
        "gemini": {"candidates": [{"content": {"parts": [{"functionCall": call}]}, "finishReason": "STOP"}]},
        "chat": {
            "choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": '{"a":"\\ud800"}'}}]}}]
        },
    }[name]
    completion = DIALECTS[name].read(encoded(body))
    context = ReplyContext(request_id="1", model="m", created_s=7, document={})

    [block] = json.loads(anthropic_messages.write_reply(completion, context))["content"]
    assert block["input"] == {"a": "\ufffd"}


def test_invalid_json_arguments_are_passed_on_unchanged() -> None:
    assert lenient_decoding.arguments_object('{"a": "\\ud800') == {"invalid_json": '{"a": "\\ud800'}
