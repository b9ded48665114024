"""Tests of Google's embeddings protocol: usage of passed-through replies, and translation to and from OpenAI's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.usage import Usage
from llm_gateway.protocols import gemini_embeddings
from llm_gateway.protocols.contract import Malformed, ReplyContext, Unreadable, Unsupported

CONTEXT = ReplyContext(request_id="1", model="m", created_s=7, document={})


def content(*texts: str) -> dict[str, Any]:
    """Build a content with one part for each text."""
    return {"parts": [{"text": text} for text in texts]}


@pytest.mark.parametrize(
    ("document", "expected", "dropped"),
    [
        ({"content": content("x")}, {"input": ["x"]}, ()),
        ({"model": "models/m", "content": content("x", "y")}, {"input": ["x\ny"]}, ()),
        (
            {"content": content("x"), "taskType": "RETRIEVAL_DOCUMENT", "title": "t", "output_dimensionality": 8},
            {"input": ["x"], "dimensions": 8},
            ("taskType", "title"),
        ),
        (
            {"requests": [{"content": content(one), "outputDimensionality": 8} for one in "ab"]},
            {"input": ["a", "b"], "dimensions": 8},
            (),
        ),
        (
            {"requests": [{"content": content("a")}, {"content": content("b"), "task_type": "X"}]},
            {"input": ["a", "b"]},
            ("taskType",),
        ),
    ],
)  # fmt: skip
def test_a_request_is_translated_for_openai(
    document: dict[str, Any], expected: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    written = gemini_embeddings.to_openai(document, "m")

    assert (written.document, written.dropped) == ({"model": "m", **expected}, dropped)


@pytest.mark.parametrize(
    ("document", "error", "field"),
    [
        ({}, Unreadable, "content"),
        ({"requests": []}, Unreadable, "requests"),
        ({"requests": ["x"]}, Unreadable, "requests[0]"),
        ({"requests": [{}]}, Unreadable, "requests[0].content"),
        ({"content": {"parts": []}}, Unreadable, "content.parts"),
        ({"content": content("x"), "outputDimensionality": "8"}, Unreadable, "outputDimensionality"),
        (
            {"requests": [{"content": content("x"), "outputDimensionality": one} for one in (1, 2)]},
            Unsupported,
            "requests.outputDimensionality",
        ),
        ({"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": ""}}]}}, Unsupported, "content"),
    ],
)
def test_a_request_that_openai_cannot_express_is_refused(
    document: dict[str, Any], error: type[Exception], field: str
) -> None:
    with pytest.raises(error) as caught:
        gemini_embeddings.to_openai(document, "m")
    assert caught.value.field == field  # type: ignore[attr-defined]


@given(vectors=st.lists(st.lists(st.floats(-1, 1), max_size=3), min_size=1, max_size=4), data=st.data())
def test_embeddings_from_openai_are_sorted_by_index(vectors: list[list[float]], data: st.DataObject) -> None:
    listed = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(vectors)]
    body = json.dumps({"data": data.draw(st.permutations(listed)), "model": "m"}).encode()

    batch = json.loads(gemini_embeddings.from_openai(body, is_batch=True))
    assert batch == {"embeddings": [{"values": one} for one in vectors]}
    single = json.loads(gemini_embeddings.from_openai(body, is_batch=False))
    assert single == {"embedding": {"values": vectors[0]}}
    gemini_embeddings.read_reply(json.dumps(batch).encode())


@pytest.mark.parametrize("body", [b"{}", b'{"data": []}', b'{"data": [{"embedding": "AAAA"}]}', b"x"])
def test_an_invalid_reply_from_openai_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        gemini_embeddings.from_openai(body, is_batch=True)


@pytest.mark.parametrize(
    ("document", "usage", "is_estimated"),
    [
        ({"embedding": {"values": [1]}}, Usage(), True),
        ({"embedding": {"values": [1]}, "usageMetadata": {"promptTokenCount": 7}}, Usage(input_tokens=7), False),
        ({"embeddings": [{"values": [1]}], "usageMetadata": {"promptTokenCount": 7}}, Usage(input_tokens=7), False),
        ({"embeddings": [], "usageMetadata": {"promptTokenCount": -7}}, Usage(), True),
        ({"embeddings": [], "usageMetadata": "odd"}, Usage(), True),
    ],
)
def test_usage_is_read_from_a_reply(document: dict[str, Any], usage: Usage, is_estimated: bool) -> None:
    completion = gemini_embeddings.read_reply(json.dumps(document).encode())

    assert (completion.usage, completion.usage_estimated, completion.choices) == (usage, is_estimated, [])


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"embedding": null}', b'{"embeddings": 5}'])
def test_an_invalid_reply_from_google_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        gemini_embeddings.read_reply(body)


def test_embeddings_are_not_read_as_conversations() -> None:
    with pytest.raises(Unsupported):
        gemini_embeddings.read_request({"content": content("x")})
    with pytest.raises(Unsupported):
        gemini_embeddings.write_reply(gemini_embeddings.read_reply(b'{"embeddings": []}'), CONTEXT)
