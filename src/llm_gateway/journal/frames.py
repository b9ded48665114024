r"""Format of journal entries on disk: encode an entry with its checksum, find entries in bytes that may be damaged.

    J1 <CRC-32, 8 hex> <kind> <request id, 36> <payload>\n

The CRC covers all between itself and the newline. A payload is a JSON object on one line, so a newline always ends an
entry, and there is no length field that could be damaged. In a damaged line, `scan` searches for a whole entry at the
end, since a damaged newline joins two lines. A client cannot forge an entry by sending text that looks like one: a good
line is not searched, and the end of a damaged one, cut within a JSON string, is not a JSON object, whatever checksum
the client put before it.
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
_KINDS: dict[bytes, Kind] = {b"I": "I", b"O": "O", b"S": "S"}
_HEAD = re.compile(rb"J1 [0-9a-f]{8} [IOS] ")


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


def encode_frame(kind: Kind, request_id: str, payload: bytes) -> bytes:
    """Return the bytes of an entry as written to a segment, with the closing newline.

    Raises:
        ValueError: the payload contains a newline.
    """
    if NEWLINE in payload:
        raise ValueError("A journal payload is one line of JSON.")
    body = b" ".join((kind.encode(), request_id.encode(), payload))
    return b"J1 %08x %b\n" % (crc32(body), body)


def scan(buffer: bytes, base: int = 0) -> Scan:
    """Find every good entry in `buffer`, which starts at the start of a line, at offset `base` of its segment.

    Bytes after the last newline are an entry cut short and count as damage, except zeros: nothing was written there.
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
    """Return the offset of the first whole entry inside a damaged line, None if it holds no whole entry."""
    for head in _HEAD.finditer(line, 1):
        at = head.start()
        if line[at : at + 12] == b"J1 %08x " % crc32(line[at + 12 :]):
            return at
    return None


def _add(damage: list[tuple[int, int]], start: int, end: int) -> None:
    """Append a damaged region, merged with the last one if they touch."""
    if damage and damage[-1][1] == start:
        start = damage.pop()[0]
    damage.append((start, end))
