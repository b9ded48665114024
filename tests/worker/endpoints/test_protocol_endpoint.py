"""Endpoints of vendors' protocols: fields read as their descriptors say, heartbeats, and passed-on events."""

from __future__ import annotations

from typing import Any

import pytest

from llm_gateway.protocols.contract import RawEvent, ReplyContext
from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.sse import COMMENT
from llm_gateway.worker.endpoints.protocol_endpoint import ProtocolEventWriter
from llm_gateway.worker.pipeline.output_limit import DEFAULT_MAX_TOKENS, output_limit

GOOGLE = PROTOCOLS["gemini_content"]


@pytest.mark.parametrize(
    ("protocol", "document", "tokens"),
    [
        ("openai_chat", {}, DEFAULT_MAX_TOKENS),
        ("openai_chat", {"max_tokens": 5, "max_completion_tokens": 7, "n": 3}, 21),
        ("openai_chat", {"max_output_tokens": 5}, DEFAULT_MAX_TOKENS),
        ("openai_chat", {"max_tokens": True, "n": 129}, DEFAULT_MAX_TOKENS),
        ("openai_chat", {"max_tokens": 10**9}, 10_000_000),
        ("openai_responses", {"max_output_tokens": 5, "n": 3}, 5),
        ("openai_embeddings", {"max_tokens": 5}, 0),
        ("gemini_embeddings", {}, 0),
        ("anthropic_messages", {"max_tokens": 5}, 5),
        ("gemini_content", {}, DEFAULT_MAX_TOKENS),
        ("gemini_content", {"generationConfig": {"maxOutputTokens": 5, "candidateCount": 3}}, 15),
        ("gemini_content", {"generation_config": {"max_output_tokens": 5, "candidate_count": 3}}, 15),
        ("gemini_content", {"generationConfig": "odd"}, DEFAULT_MAX_TOKENS),
        ("gemini_content", {"generationConfig": {"maxOutputTokens": "5"}}, DEFAULT_MAX_TOKENS),
    ],
)
def test_the_output_limit_is_read_from_the_protocols_fields(
    protocol: str, document: dict[str, Any], tokens: int
) -> None:
    assert output_limit(document, PROTOCOLS[protocol]) == tokens


def writer(name: str, query: bytes = b"") -> ProtocolEventWriter:
    """Return the event writer of a stream in the protocol `name`."""
    protocol = PROTOCOLS[name]
    assert protocol.stream_writer is not None
    context = ReplyContext(request_id="1", model="m", created_s=7, document={}, query=query)
    return ProtocolEventWriter(protocol, protocol.stream_writer(context), {})


@pytest.mark.parametrize("name", ["openai_chat", "openai_responses", "anthropic_messages"])
def test_heartbeats_of_event_streams_are_comments(name: str) -> None:
    assert (writer(name).keep_alive, writer(name).content_type[:17]) == (COMMENT, b"text/event-stream")


@pytest.mark.parametrize(
    ("query", "content_type"),
    [
        (b"alt=sse", b"text/event-stream; charset=utf-8"),
        (b"key=x&$alt=sse", b"text/event-stream; charset=utf-8"),
        (b"%24alt=sse", b"text/event-stream; charset=utf-8"),
        (b"", b"application/json; charset=utf-8"),
        (b"alt=json", b"application/json; charset=utf-8"),
        (b"alt=SSE&salt=sse", b"application/json; charset=utf-8"),
        (b"\xff=%ff", b"application/json; charset=utf-8"),
    ],
)
def test_heartbeats_of_geminis_array_are_empty_lines(query: bytes, content_type: bytes) -> None:
    made = writer("gemini_content", query)
    assert (made.keep_alive, made.content_type) == (b"\n", content_type)


class Native:
    """A relay of a provider that speaks the client's protocol."""

    is_native = True
    provider, model, route, dropped = "p", "m", b"priority", ()
    window, queued_ms, budget = None, 0, ()


def test_gemini_events_become_the_elements_of_an_array() -> None:
    raw_events = [
        RawEvent(b'data: {"a":1}\n\n', []),
        RawEvent(b'event: x\ndata: {"b":\ndata: 2}\n\n', []),
        RawEvent(b": c\n\n", []),
    ]
    relay: Any = Native()
    array, events = writer("gemini_content"), writer("gemini_content", b"alt=sse")
    for each in (array, events):
        each.opened(relay)

    answer: Any = None
    assert array.take(raw_events) + array.end(answer) == b'[{"a":1}\n,\r\n{"b":\n2}\n]\n'
    assert events.take(raw_events) + events.end(answer) == b"".join(raw_event.raw for raw_event in raw_events)
