r"""Format of journal entries on disk: encode an entry with its checksum, find entries in bytes that may be damaged.

    J2 <CRC-32, 8 hex> <kind> <request id, 36> <payload>\n

The CRC covers all between itself and the newline, and starts with the segment's number. A payload is a JSON object on
one line, so a newline always ends an entry, and there is no length field that could be damaged. In a damaged line,
`scan` searches for a whole entry at the end, since a damaged newline joins two lines. A client cannot forge an entry by
sending text that looks like one: a good line is not searched, and the end of a damaged one, cut within a JSON string,
is not a JSON object, whatever checksum the client put before it.

A segment's file may have been written before, under an earlier number: what is left of that is stale. CRCs of the same
bytes with different starts always differ, so an intact stale entry is never taken for one of this segment.

Version 0.1.0 wrote `J1` and a CRC that starts with 0. Its files were never written twice.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, TypeAlias
from zlib import crc32

import msgspec

Kind: TypeAlias = Literal["I", "O", "S"]
"""Intent (before an upstream call), outcome (after it), settle (before the answer to the client)."""

NEWLINE = ord(b"\n")
"""An integer: to look for `b"\\n"` in bytes takes several times as long."""

MARK = b"J2 "
"""Bytes at the start of each entry's line."""

FRAME_BYTES = 13
"""Bytes that `seal` adds to an entry: mark, checksum, space and newline."""

_KINDS: dict[bytes, Kind] = {b"I ": "I", b"O ": "O", b"S ": "S"}
_HEAD = re.compile(rb"J[12] [0-9a-f]{8} [IOS] ")
_CHECKSUM = re.compile(rb"J[12] [0-9a-f]{8} ")
_HEAD_BYTES = 12


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry, found at bytes [start, end) of its segment."""

    kind: Kind
    request_id: str
    payload: bytes
    start: int
    end: int


class Scan(NamedTuple):
    """Result of a scan: the good entries in order, and the damaged byte ranges [start, end) between them."""

    entries: list[Entry]
    damage: list[tuple[int, int]]


def encode_entry(kind: Kind, request_id: str, payload: bytes) -> bytes:
    """Return an entry without its checksum, for `seal`.

    Raises:
        ValueError: the payload contains a newline.
    """
    if NEWLINE in payload:
        raise ValueError("A journal payload is one line of JSON.")
    return b" ".join((kind.encode(), request_id.encode(), payload))


def seal(entry: bytes, segment: int) -> bytes:
    """Return the bytes of an entry as written to segment number `segment`, with the closing newline."""
    return b"J2 %08x %b\n" % (crc32(entry, segment), entry)


def encode_frame(kind: Kind, request_id: str, payload: bytes, segment: int = 1) -> bytes:
    """Encode and seal an entry.

    Raises:
        ValueError: the payload contains a newline.
    """
    return seal(encode_entry(kind, request_id, payload), segment)


def scan(buffer: bytes, base: int = 0, *, segment: int = 1, is_recycled: bool = False) -> Scan:
    """Find every good entry in `buffer`, which starts at the start of a line, at offset `base` of its segment.

    Bytes after the last newline are an entry cut short and count as damage, except zeros: nothing was written there.
    `is_recycled`: the file may hold stale bytes, so that entries of version 0.1.0, which bear no number, are damage.
    """
    entries: list[Entry] = []
    damage: list[tuple[int, int]] = []
    lines = buffer.split(b"\n")
    tail = lines.pop()
    start = base
    for line in lines:
        end, body = start + len(line) + 1, line[_HEAD_BYTES:]
        # The test of `_is_whole`, first without a call, since nearly every line is a good one of the version of now.
        is_whole = line[:_HEAD_BYTES] == b"J2 %08x " % crc32(body, segment) or _is_whole(line, segment, is_recycled)
        if is_whole and (kind := _KINDS.get(body[:2])):
            entries.append(Entry(kind, body[2:38].decode("latin-1"), body[39:], start, end))
        elif (at := _salvage(line, segment, is_recycled)) is not None:
            _add(damage, start, start + at)
            entries += scan(line[at:] + b"\n", start + at, segment=segment, is_recycled=is_recycled).entries
        else:
            _add(damage, start, end)
        start = end
    if cut := tail.strip(b"\0"):
        at = start + tail.index(cut)
        _add(damage, at, at + len(cut))
    return Scan(entries, damage)


def sealed_for(line: bytes) -> int:
    """Return the number of the segment that this line, without its newline, was sealed for, if it is intact.

    The result for a damaged line is any 32-bit number. It is the only start of the CRC that gives the line's checksum:
    for a fixed length the CRC is linear in its start, so the system of 32 equations is solved bit by bit.

    Raises:
        ValueError: the line does not begin with a mark and a whole checksum.
    """
    if not _CHECKSUM.match(line):
        raise ValueError("The line does not begin with a mark and a whole checksum.")
    body = line[_HEAD_BYTES:]
    wanted = int(line[3:11], 16) ^ crc32(body)
    zeros = bytes(len(body))
    none = crc32(zeros)
    columns = [(crc32(zeros, 1 << bit) ^ none, 1 << bit) for bit in range(32)]
    number = 0
    for bit in range(32):
        at = next(index for index, (value, _) in enumerate(columns) if value >> bit & 1)
        pivot, start = columns.pop(at)
        columns = [(v ^ pivot, s ^ start) if v >> bit & 1 else (v, s) for v, s in columns]
        if wanted >> bit & 1:
            wanted, number = wanted ^ pivot, number ^ start
    return number


def _is_whole(line: bytes, segment: int, is_recycled: bool) -> bool:
    head, body = line[:_HEAD_BYTES], line[_HEAD_BYTES:]
    return head == b"J2 %08x " % crc32(body, segment) or (not is_recycled and head == b"J1 %08x " % crc32(body))


def _salvage(line: bytes, segment: int, is_recycled: bool) -> int | None:
    """Return the offset of the first whole entry inside a damaged line, None if it holds no whole entry."""
    for head in _HEAD.finditer(line, 1):
        if _is_whole(line[head.start() :], segment, is_recycled):
            return head.start()
    return None


def _add(damage: list[tuple[int, int]], start: int, end: int) -> None:
    """Append a damaged region, merged with the last one if they touch."""
    if damage and damage[-1][1] == start:
        start = damage.pop()[0]
    damage.append((start, end))
