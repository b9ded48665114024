"""Trace context of W3C: valid values, invalid ones, later versions, and the headers of a call."""

from __future__ import annotations

import pytest

from llm_gateway.domain.trace_context import MOST_STATE_BYTES, read_trace_context, span_id, without_repeated
from llm_gateway.domain.uuid7 import new_id

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALID = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (VALID, VALID),
        (f"00-{TRACE}-{PARENT}-03", f"00-{TRACE}-{PARENT}-03"),
        (f"01-{TRACE}-{PARENT}-03", VALID),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-brings", VALID),
        (f"{VALID}-more", None),
        (f"cc-{TRACE}-{PARENT}-01.more", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE[1:]}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}-1", None),
        (f"0-{TRACE}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}-0x", None),
        (f"{VALID}\n", None),
        ("", None),
        ("-" * 5000, None),
    ],
)
def test_a_traceparent_is_read_or_ignored(sent: str, read: str | None) -> None:
    context = read_trace_context({b"traceparent": sent.encode()})

    assert (context and context.traceparent) == read


def test_a_call_has_the_trace_of_the_client_and_the_span_of_its_attempt() -> None:
    context = read_trace_context({b"traceparent": VALID.encode(), b"tracestate": b"a=1,b=2"})
    attempt = new_id()

    assert context is not None
    lines = context.header_lines(attempt).decode()

    assert lines == f"traceparent: 00-{TRACE}-{span_id(attempt)}-01\r\ntracestate: a=1,b=2\r\n"
    assert bytes.fromhex(span_id(attempt)) == bytes.fromhex(attempt.replace("-", ""))[8:]


def test_the_longest_tracestate_is_sent() -> None:
    context = read_trace_context({b"traceparent": VALID.encode(), b"tracestate": b"a" * MOST_STATE_BYTES})

    assert context is not None
    assert b"tracestate: %b\r\n" % (b"a" * MOST_STATE_BYTES) in context.header_lines(new_id())


@pytest.mark.parametrize("state", [b"", b"a=1\r\nx: y", b"caf\xc3\xa9", b"a" * (MOST_STATE_BYTES + 1)])
def test_a_tracestate_that_cannot_be_sent_is_dropped(state: bytes) -> None:
    context = read_trace_context({b"traceparent": VALID.encode(), b"tracestate": state})

    assert context is not None
    assert b"tracestate" not in context.header_lines(new_id())


def test_a_state_alone_is_no_context() -> None:
    assert read_trace_context({b"tracestate": b"a=1"}) is None


def test_a_repeated_traceparent_is_ignored_and_states_are_joined() -> None:
    lines = [(b"traceparent", VALID.encode()), (b"tracestate", b"a=1"), (b"x", b"1"), (b"tracestate", b"b=2")]
    headers = dict(lines)
    without_repeated(headers, lines)
    assert headers == {b"traceparent": VALID.encode(), b"tracestate": b"a=1,b=2", b"x": b"1"}

    lines.append((b"traceparent", VALID.encode()))
    headers = dict(lines)
    without_repeated(headers, lines)
    assert headers == {b"tracestate": b"a=1,b=2", b"x": b"1"}
