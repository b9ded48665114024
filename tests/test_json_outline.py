"""Outlines of large documents: they are read like the documents, and give them back; slices are short."""

from __future__ import annotations

import base64
import json
import random
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.json_outline import LONG_BYTES, HeldTexts, Outline, TooManyValues, outline_of, scan

MOST = 64 * 1024 * 1024
SLICE_S = 0.010
"""CPU seconds of the longest slice that is accepted: 2 ms on a quiet core, with room for a busy one."""


def outlined(body: bytes, **options: Any) -> Outline:
    """Run the scan to its end."""
    slices = scan(bytearray(body), most_bytes=MOST, **options)
    while True:
        try:
            next(slices)
        except StopIteration as done:
            outline: Outline = done.value
            return outline


def restored(outline: Outline, written: Any) -> Any:
    """Return a document that was written from an outline, with its long strings."""
    return json.loads(outline.held.restored(msgspec.json.encode(written)))


def decoded(outline: Outline) -> Any:
    return msgspec.json.decode(bytes(outline.text))


LONG = st.builds(
    lambda unit, more: unit * (LONG_BYTES // len(unit.encode()) + more),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.integers(0, 9),
)
WHOLE = st.characters(exclude_categories=["Cs"])
KEYS = st.sampled_from(["model", "stream", "messages", "mod\u0065l", "a", "é", '"', "\\"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=4
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(WHOLE, max_size=8) | LONG,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
SPACES = st.sampled_from(["", " ", "\n", "\t \r\n"])


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """JSON objects with repeated keys, escapes in keys and values, any spaces, and long strings."""
    pairs = draw(st.lists(st.tuples(KEYS, VALUES, st.booleans()), max_size=6))
    is_ascii, space = draw(st.booleans()), draw(SPACES)
    comma, colon = f",{space}", f"{space}:{space}"
    fields = [
        (_escaped(key) if is_escaped else json.dumps(key, ensure_ascii=is_ascii))
        + colon
        + json.dumps(value, ensure_ascii=is_ascii, separators=(comma, colon))
        for key, value, is_escaped in pairs
    ]
    return f"{space}{{{space}{comma.join(fields)}{space}}}{space}".encode("utf-8", "surrogatepass")


def _escaped(key: str) -> str:
    """Return a key with each of its UTF-16 units escaped."""
    units = key.encode("utf-16-be", "surrogatepass").hex()
    return '"' + "".join([f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)]) + '"'


@given(texts())
def test_an_outline_has_the_fields_that_the_decoder_finds_and_gives_the_document_back(body: bytes) -> None:
    whole, outline = msgspec.json.decode(body), outlined(body)
    document = decoded(outline)
    assert list(document) == list(whole)
    short = {name: value for name, value in whole.items() if len(json.dumps(value)) < LONG_BYTES}
    assert {name: document[name] for name in short} == short
    assert restored(outline, document) == whole
    assert len(outline.text) < len(body) or not outline.held


@given(texts(), st.integers(0, 2000), st.sampled_from(["\x00", '"', "\\", "\x80", "}", "\\ud83d", ""]))
def test_what_the_decoder_refuses_has_no_outline_that_it_accepts(body: bytes, at: int, flaw: str) -> None:
    broken = body[: at % (len(body) + 1)] + flaw.encode("latin-1")
    try:
        whole = msgspec.json.decode(broken)
    except (msgspec.DecodeError, UnicodeError):
        outline = outlined(broken)
        with pytest.raises((msgspec.DecodeError, UnicodeError)):
            decoded(outline)
    else:
        assert restored(outlined(broken), decoded(outlined(broken))) == whole


@pytest.mark.parametrize("flaw", [b"\n", b"\xff", b"\\x", b"\\ud83d", b"\\u12g4", b"\xc3"], ids=ascii)
def test_a_flaw_in_the_rest_of_a_long_string_is_found(flaw: bytes) -> None:
    body = b'{"a": "%b%b%b"}' % (b"x" * LONG_BYTES, flaw, b"y" * LONG_BYTES)
    with pytest.raises((msgspec.DecodeError, UnicodeError)):
        msgspec.json.decode(body)
    assert not outlined(body).is_valid


PICTURE = base64.b64encode(random.Random(1).randbytes(60_000)).decode()
TEXT = 'He said "no\\yes".\n' * 2000


def test_a_string_in_a_string_is_escaped_once_more() -> None:
    """The arguments of a tool call are JSON in a string, at the next level in a string of that."""
    outline = outlined(json.dumps({"input": {"text": TEXT}}).encode())
    inner = msgspec.json.encode(decoded(outline)["input"]).decode()
    twice = msgspec.json.encode({"arguments": inner}).decode()
    assert json.loads(restored(outline, {"arguments": inner})["arguments"]) == {"text": TEXT}
    assert json.loads(json.loads(restored(outline, [twice])[0])["arguments"]) == {"text": TEXT}


def test_base64_that_was_converted_is_converted_to_its_end() -> None:
    given = PICTURE.replace("+", "-").replace("/", "_")
    outline = outlined(json.dumps({"data": given}).encode())
    data = decoded(outline)["data"].translate(str.maketrans("-_", "+/"))
    assert restored(outline, {"url": f"data:image/png;base64,{data}"}) == {"url": f"data:image/png;base64,{PICTURE}"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("arguments", f"x{PICTURE}"),
        ("thoughtSignature", PICTURE),
        ("content", json.dumps({"a": TEXT})),
        ("content", f"\n [{TEXT}"),
        ("data", "gw1." + PICTURE),
        ("data", base64.b64encode(TEXT.encode()).decode()),
        ("file_data", "data:text/plain;base64," + PICTURE),
    ],
)
def test_a_string_that_the_gateway_reads_to_its_end_stays_whole(name: str, text: str) -> None:
    body = json.dumps({name: text}).encode()
    assert outlined(body).text == body
    assert outlined(json.dumps({text: 1}).encode()).held.length == 0


def test_marks_of_others_are_left_alone() -> None:
    """A client that repeats a mark it has seen gets nothing of another document."""
    first = outlined(json.dumps({"a": TEXT}).encode())
    mark = decoded(first)["a"]
    second = outlined(json.dumps({"b": mark, "c": PICTURE}).encode())
    assert restored(second, decoded(second)) == {"b": mark, "c": PICTURE}
    assert HeldTexts().restored(bytes(first.text)) == first.text


def test_the_length_of_the_rests_makes_up_for_what_an_estimate_does_not_see() -> None:
    for text, length in ((TEXT, len(TEXT)), ("word " * 9000, 45_000), (PICTURE, 2600)):
        outline = outlined(json.dumps({"a": text}).encode())
        seen = len(decoded(outline)["a"]) + outline.held.length
        assert seen == pytest.approx(length, rel=0.1)


def test_long_lists_of_numbers_are_shortened_where_only_the_outline_is_read() -> None:
    answer = {"data": [{"embedding": [0.25, -1e-05] * 1536, "index": n} for n in range(40)], "usage": {"prompt": 12}}
    outline = outlined(json.dumps(answer).encode(), is_thinned=True)
    assert len(outline.text) < len(json.dumps(answer)) // 4
    document = decoded(outline)
    assert ([each["index"] for each in document["data"]], document["usage"]) == (list(range(40)), {"prompt": 12})


async def test_an_outline_that_would_be_too_large_is_not_made() -> None:
    body = bytearray(json.dumps([TEXT[:9000]] * 400).encode())
    assert (await outline_of(body, most_bytes=1_000_000)).text == b""
    assert (await outline_of(body, most_bytes=len(body))).text == body


MEBIBYTES = 2
SHAPES = {
    "picture": b'{"a": "%b"}' % (b"iVBORw0KGgo" * (MEBIBYTES * 2**20 // 11)),
    "escapes": b'{"a": "%b"}' % (b"\\u00e9\\n" * (MEBIBYTES * 2**20 // 8)),
    "quotes": b'{"a": "%b"}' % (b'\\"' * (MEBIBYTES * 2**19)),
    "unicode": b'{"a": "%b"}' % ("é😀".encode() * (MEBIBYTES * 2**20 // 6)),
    "strings": b"[%b0]" % (b'"",' * (MEBIBYTES * 2**20 // 3)),
    "objects": b"[%b0]" % (b'{"a":"b"},' * (MEBIBYTES * 2**20 // 10)),
    "nested": b"[" * (MEBIBYTES * 2**20),
    "spaces": b" " * (MEBIBYTES * 2**20),
    "messages": json.dumps([{"role": "user", "content": "x" * 500}] * (MEBIBYTES * 2000)).encode(),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_slice_takes_long_whatever_the_document_is(shape: str) -> None:
    """The event loop is free between two slices: a wait of 20 ms is the limit."""
    longest, slices = 0.0, scan(bytearray(SHAPES[shape]), most_bytes=2**21)
    started = time.thread_time()
    for _ in slices:
        longest = max(longest, time.thread_time() - started)
        started = time.thread_time()
    assert max(longest, time.thread_time() - started) < SLICE_S


def test_too_many_values_end_the_scan_early() -> None:
    slices = scan(bytearray(SHAPES["objects"]), most_bytes=0, most_values=20_000)
    seen: list[None] = []
    with pytest.raises(TooManyValues):
        seen.extend(slices)
    assert len(seen) < 10
