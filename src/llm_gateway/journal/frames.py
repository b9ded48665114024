"""One journal entry as bytes, and entries found again in bytes that may be damaged.

    J1 <kind> <request id, 36> <payload length, 8 hex> <CRC-32, 8 hex> <payload> <newline>

The CRC covers the payload and all that stands between the marker and itself. A reader that meets anything else looks
for the next marker whose CRC fits, at any offset: damage takes no other entry with it, and a payload that looks like a
frame is none, because a good frame is stepped over whole.
"""

from __future__ import annotations

from typing import Literal, TypeAlias
from zlib import crc32

import msgspec

Kind: TypeAlias = Literal["I", "O", "S"]
"""Intent (before an upstream call), outcome (after it), settle (before the answer)."""

MARKER = b"J1 "
HEAD_BYTES = 60
"""Bytes before the payload: marker 3, kind and blank 2, id and blank 37, length and blank 9, CRC and blank 9."""

_LENGTH_AT, _CRC_AT = 42, 51


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry and the bytes [start, end) it stood in."""

    kind: str
    request_id: str
    payload: bytes
    start: int
    end: int


class Scan(msgspec.Struct, frozen=True, gc=False):
    """What a buffer held: its good entries in order, the damaged regions between them, and where it ended.

    `end` is behind the last good entry. Bytes after it are damage only if they are not zero: a segment is zeros where
    nothing was written yet.
    """

    entries: list[Entry]
    damage: list[tuple[int, int]]
    end: int


def encode_frame(kind: Kind, request_id: str, payload: bytes) -> bytes:
    """The entry as it stands in a segment."""
    head = f"{kind} {request_id} {len(payload):08x} ".encode()
    return b"%s%s%08x %s\n" % (MARKER, head, crc32(payload, crc32(head)), payload)


def scan(buffer: bytes, start: int = 0) -> Scan:
    """Every good entry of `buffer` from offset `start` on."""
    entries: list[Entry] = []
    damage: list[tuple[int, int]] = []
    offset = end = start
    while True:
        entry = _entry_at(buffer, offset)
        if entry is None:
            offset = buffer.find(MARKER, offset + 1)
            if offset < 0:
                return Scan(entries, damage, end)
            continue
        if entry.start > end:
            damage.append((end, entry.start))
        entries.append(entry)
        offset = end = entry.end


def _entry_at(buffer: bytes, start: int) -> Entry | None:
    payload_at = start + HEAD_BYTES
    if not buffer.startswith(MARKER, start):
        return None
    try:
        length = int(buffer[start + _LENGTH_AT : start + _LENGTH_AT + 8], 16)
        checksum = int(buffer[start + _CRC_AT : start + _CRC_AT + 8], 16)
    except ValueError:
        return None
    end = payload_at + length
    payload = buffer[payload_at:end]
    head = buffer[start + len(MARKER) : start + _CRC_AT]
    if len(payload) != length or crc32(payload, crc32(head)) != checksum or buffer[end : end + 1] != b"\n":
        return None
    return Entry(chr(head[0]), head[2:38].decode("ascii", "replace"), payload, start, end + 1)
