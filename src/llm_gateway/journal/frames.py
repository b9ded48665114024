r"""One journal entry as bytes, and entries found again in bytes that may be damaged.

    J1 <CRC-32, 8 hex> <kind> <request id, 36> <payload>\n

The CRC covers all between itself and the newline. A payload is a JSON object on one line, so a newline always ends an
entry, and no length is needed that could be damaged. A reader that meets a damaged line looks for the entry at its end,
since a damaged newline joins two lines. Text from a caller is never an entry: a good line is not looked into, and what
a damaged one ends with, from within a string on, is no JSON object, whatever checksum the caller put before it.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, TypeAlias
from zlib import crc32

import msgspec

Kind: TypeAlias = Literal["I", "O", "S"]
"""Intent (before an upstream call), outcome (after it), settle (before the answer)."""

_KINDS: dict[bytes, Kind] = {b"I": "I", b"O": "O", b"S": "S"}
_HEAD = re.compile(rb"J1 [0-9a-f]{8} [IOS] ")


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry and the bytes [start, end) of its segment it stands in."""

    kind: Kind
    request_id: str
    payload: bytes
    start: int
    end: int


class Scan(NamedTuple):
    """The good entries of some bytes in order, and the damaged regions [start, end) between them."""

    entries: list[Entry]
    damage: list[tuple[int, int]]


def encode_frame(kind: Kind, request_id: str, payload: bytes) -> bytes:
    """The entry as it stands in a segment.

    Raises:
        ValueError: the payload is of more than one line.
    """
    if b"\n" in payload:
        raise ValueError("A journal payload is one line of JSON.")
    body = b"%b %b %b" % (kind.encode(), request_id.encode(), payload)
    return b"J1 %08x %b\n" % (crc32(body), body)


def scan(buffer: bytes, base: int = 0) -> Scan:
    """Every good entry of `buffer`, which starts at offset `base` of its segment and at the start of a line.

    What follows the last newline is an entry cut short, and damage, except for zeros: nothing was written there yet.
    """
    entries: list[Entry] = []
    damage: list[tuple[int, int]] = []
    lines = buffer.split(b"\n")
    tail = lines.pop()
    start = base
    for line in lines:
        end = start + len(line) + 1
        if line[:12] == b"J1 %08x " % crc32(line[12:]) and (kind := _KINDS.get(line[12:13])):
            entries.append(Entry(kind, line[14:50].decode("latin-1"), line[51:], start, end))
        elif (at := _salvage(line)) is not None:
            _add(damage, start, start + at)
            entries += scan(line[at:] + b"\n", start + at).entries
        else:
            _add(damage, start, end)
        start = end
    if cut := tail.strip(b"\0"):
        at = start + tail.index(cut)
        _add(damage, at, at + len(cut))
    return Scan(entries, damage)


def _salvage(line: bytes) -> int | None:
    """Where in a damaged line a whole entry begins."""
    for head in _HEAD.finditer(line, 1):
        at = head.start()
        if line[at : at + 12] == b"J1 %08x " % crc32(line[at + 12 :]):
            return at
    return None


def _add(damage: list[tuple[int, int]], start: int, end: int) -> None:
    """Note a damaged region, as one with the region it follows."""
    if damage and damage[-1][1] == start:
        start = damage.pop()[0]
    damage.append((start, end))
