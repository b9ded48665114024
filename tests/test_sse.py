"""Server-sent events parsed from a byte stream that arrives in pieces of any size."""

from __future__ import annotations

from collections.abc import Iterator
from time import process_time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm_gateway.sse import Event, Splitter, TooLarge, encode_event

LINES = st.sampled_from(
    [b"data: a", b"data:b", b"data", b"event: e", b": comment", b"id: 1", b"", b"data: \xe2\x80\xa8"]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def expected(stream: bytes) -> list[tuple[bytes, bytes]]:
    """Return name and data of each event, parsed line by line as the HTML standard describes."""
    lines = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    events: list[tuple[bytes, bytes]] = []
    name, data = b"", list[bytes]()
    for line in [*lines, b""]:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
        elif not line:
            if data:
                events.append((name, b"\n".join(data)))
            name, data = b"", []
    return events


def pieces(stream: bytes, cuts: list[int]) -> Iterator[bytes]:
    at = 0
    for cut in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
        if cut > at:
            yield stream[at:cut]
            at = cut


def split(parts: Iterator[bytes], max_event_bytes: int = 1_000_000) -> list[Event]:
    splitter = Splitter(max_event_bytes)
    return [event for part in parts for event in splitter.take(part)] + splitter.end()


@given(
    st.lists(st.tuples(LINES, ENDS), max_size=20),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.lists(st.integers(0, 300), max_size=40),
)
@example([(b"data: a", b"\r\n"), (b"", b"\r\n"), (b"data:b", b"\r"), (b"", b"\r")], b"\xef\xbb\xbf", list(range(300)))
def test_events_do_not_depend_on_the_cuts_of_the_stream(
    lines: list[tuple[bytes, bytes]], mark: bytes, cuts: list[int]
) -> None:
    stream = mark + b"".join(line + end for line, end in lines)

    found = split(pieces(stream, cuts))

    assert [(event.name, event.data) for event in found] == expected(stream)
    assert all(event.raw.endswith(b"\n\n") and event.data.split(b"\n")[0] in event.raw for event in found)


@pytest.mark.parametrize("size", [1, 7, 1000, 10_000_000])
def test_an_event_above_the_limit_is_rejected_before_it_is_complete(size: int) -> None:
    stream = b"data: " + b"x" * 100_000
    parts = (stream[at : at + size] for at in range(0, len(stream), size))

    with pytest.raises(TooLarge, match="larger than 50000 bytes"):
        split(parts, 50_000)


def test_blank_lines_and_comments_are_not_buffered() -> None:
    splitter = Splitter(1000)

    for _ in range(10_000):
        assert splitter.take(b"\n") == splitter.take(b"\r\n") == splitter.take(b": keep-alive\n\n") == []

    assert splitter.take(encode_event(b"1", b"e")) == [Event(b"e", b"1", b"event: e\ndata: 1\n\n")]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_cost_per_piece_does_not_grow_with_the_event(line_end: bytes) -> None:
    """500 KB cost as much per 1-byte piece as 50 KB; searching the whole buffer each time would cost ten times that."""

    def seconds_per_piece(size: int) -> float:
        splitter = Splitter(4_000_000)
        splitter.take(b"data: ")
        start = process_time()
        for _ in range(size):
            splitter.take(b"x")
        taken = process_time() - start
        [event] = splitter.take(line_end * 2 + b"d") + splitter.take(b"ata: 1")
        assert len(event.data) == size
        return taken / size

    small = min(seconds_per_piece(50_000) for _ in range(3))
    assert seconds_per_piece(500_000) < 4 * small
