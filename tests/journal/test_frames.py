from __future__ import annotations

from zlib import crc32

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm_gateway.journal.frames import FRAME_BYTES, Entry, Kind, encode_entry, encode_frame, scan, seal, sealed_for
from tests.journal.samples import HEAD_BYTES, frame, request_id

KINDS: list[Kind] = ["I", "O", "S"]
LOOKALIKE = encode_frame("S", request_id(9), b"{}")[:-1].decode()
texts = st.one_of(st.text(max_size=30), st.sampled_from(["J2 ", "J2 00000000 S ", LOOKALIKE, LOOKALIKE + "\n", "\0"]))
payloads = st.dictionaries(texts, texts, max_size=3).map(msgspec.json.encode)
entries = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 10**11), payloads), min_size=1, max_size=6)
Parts = list[tuple[Kind, int, bytes]]


def lay(parts: Parts) -> tuple[bytes, list[Entry]]:
    """Return the bytes of some entries, and the entries that `scan` must find in them."""
    buffer, found = b"", []
    for kind, number, payload in parts:
        start = len(buffer)
        buffer += frame(kind, number, payload)
        found.append(Entry(kind, request_id(number), payload, start, len(buffer)))
    return buffer, found


def test_a_frame_is_one_line_with_a_checksum_over_all_that_follows_it() -> None:
    body = b"S " + request_id(1).encode() + b' {"id":"x"}'

    assert encode_frame("S", request_id(1), b'{"id":"x"}') == b"J2 %08x " % crc32(body, 1) + body + b"\n"
    assert encode_frame("S", request_id(1), b'{"id":"x"}', 7) == b"J2 %08x " % crc32(body, 7) + body + b"\n"
    assert len(encode_frame("S", request_id(1), b"")) == len(encode_entry("S", request_id(1), b"")) + FRAME_BYTES
    assert len(encode_frame("S", request_id(1), b"")) == HEAD_BYTES + 1


def test_a_payload_with_a_newline_is_rejected() -> None:
    with pytest.raises(ValueError, match="one line"):
        encode_frame("S", request_id(1), b"a\nb")


@given(entries, st.integers(0, 1000), st.integers(0, 50))
def test_written_entries_are_read_back(parts: Parts, base: int, zeros: int) -> None:
    buffer, written = lay(parts)

    found = scan(buffer + bytes(zeros), base)

    assert found.entries == [Entry(e.kind, e.request_id, e.payload, e.start + base, e.end + base) for e in written]
    assert found.damage == []


def test_zeros_hold_no_entries_and_no_damage() -> None:
    assert scan(b"") == ([], [])
    assert scan(bytes(100)) == ([], [])


@given(entries, st.data())
def test_a_flipped_bit_loses_at_most_its_own_entry(parts: Parts, data: st.DataObject) -> None:
    buffer, written = lay(parts)
    at = data.draw(st.integers(0, len(buffer) - 1))
    damaged = bytearray(buffer)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))

    found = scan(bytes(damaged) + bytes(10))

    hit = next(entry for entry in written if entry.start <= at < entry.end)
    assert found.entries == [entry for entry in written if entry is not hit]
    assert found.damage == [(hit.start, hit.end)]


@given(entries, st.data())
def test_a_cut_loses_at_most_the_entry_it_cuts(parts: Parts, data: st.DataObject) -> None:
    buffer, written = lay(parts)
    cut = data.draw(st.integers(0, len(buffer)))

    found = scan(buffer[:cut] + bytes(10))

    whole = [entry for entry in written if entry.end <= cut]
    end = whole[-1].end if whole else 0
    assert found.entries == whole
    assert [start for start, _ in found.damage] == ([end] if buffer[end:cut].strip(b"\0") else [])


@given(entries, entries, st.binary(max_size=200))
@example([("I", 1, b"{}")], [("S", 1, b"{}")], bytes(200))
@example([("I", 1, b"{}")], [("S", 1, b"{}")], b"J2 " * 60)
@example([("I", 1, b"{}")], [("S", 1, b"{}")], b"\nJ2 00000000 \n")
def test_garbage_between_entries_loses_no_entry(before: Parts, after: Parts, garbage: bytes) -> None:
    first, head = lay(before)
    second, _ = lay(after)

    found = scan(first + garbage + second)

    assert found.entries == head + scan(second, len(first + garbage)).entries
    assert found.damage == ([(len(first), len(first + garbage))] if garbage else [])


def test_bytes_after_the_last_newline_are_damage_except_the_zeros_around_them() -> None:
    good = frame("S", 1, b"{}")

    assert scan(good + b"\0\0J2 0\0ab\0\0", 10).damage == [(10 + len(good) + 2, 10 + len(good) + 9)]


def test_an_unknown_kind_is_damage() -> None:
    body = b"X " + request_id(1).encode() + b" {}"
    line = b"J2 %08x %b\n" % (crc32(body, 1), body)

    assert scan(line) == ([], [(0, len(line))])


def test_adjacent_damage_is_one_region() -> None:
    good = frame("S", 1, b"{}")

    assert scan(b"x\ny\n" + good + b"z\nrest").damage == [(0, 4), (4 + len(good), 10 + len(good))]


@given(entries, entries, st.integers(1, 2**31), st.integers(1, 2**31))
def test_stale_entries_of_any_other_number_are_not_read(stale: Parts, parts: Parts, before: int, segment: int) -> None:
    old = b"".join(encode_frame(kind, request_id(number), payload, before) for kind, number, payload in stale)
    new = b"".join(encode_frame(kind, request_id(number), payload, segment) for kind, number, payload in parts)

    found = scan(new + old, segment=segment, is_recycled=True)

    count = len(parts) if before != segment else len(parts) + len(stale)
    assert [entry.request_id for entry in found.entries] == [request_id(n) for _, n, _ in [*parts, *stale]][:count]
    assert found.damage == ([(len(new), len(new + old))] if before != segment else [])


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1))
def test_the_number_that_an_intact_entry_was_sealed_for_is_found(entry: bytes, segment: int) -> None:
    assert sealed_for(seal(entry, segment)[:-1]) == segment


def test_an_entry_of_version_0_1_0_is_read_except_in_a_file_that_was_written_before() -> None:
    body = b"S " + request_id(1).encode() + b" {}"
    line = b"J1 %08x %b\n" % (crc32(body), body)

    assert [entry.request_id for entry in scan(line, segment=4).entries] == [request_id(1)]
    assert scan(line, segment=4, is_recycled=True) == ([], [(0, len(line))])
