"""Write protobuf messages as bytes (protobuf.dev/programming-guides/encoding), and read the few fields of an answer.

A field is its tag followed by its value; a message is its fields one after the other. The tags below have field numbers
under 16, so that each is one byte: `number << 3 | wire type`.
"""

from __future__ import annotations

import struct

_ONE_BYTE = [bytes([number]) for number in range(128)]
_FIXED = struct.Struct("<Q")
_DOUBLE = struct.Struct("<d")


def varint(number: int) -> bytes:
    """Return a number of at least 0 as a varint."""
    if number < 128:
        return _ONE_BYTE[number]
    if number < 16384:
        return b"%c%c" % (number & 127 | 128, number >> 7)
    found = bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def tag(field: int, wire_type: int) -> bytes:
    """Return the tag of a field."""
    return varint(field << 3 | wire_type)


def field_of_bytes(field: int, content: bytes) -> bytes:
    """Return a field that holds a message, a string or bytes."""
    size = len(content)
    if field < 16 and size < 128:
        return b"%c%c%b" % (field << 3 | 2, size, content)
    return b"%b%b%b" % (tag(field, 2), varint(size), content)


def with_length(content: bytes) -> bytes:
    """Return a message preceded by its length, as it follows a tag."""
    size = len(content)
    return b"%c%b" % (size, content) if size < 128 else varint(size) + content


def fixed64(number: int) -> bytes:
    """Return the value of a field `fixed64`."""
    return _FIXED.pack(number)


def double(number: float) -> bytes:
    """Return the value of a field `double`."""
    return _DOUBLE.pack(number)


def int64(number: int) -> bytes:
    """Return the value of a field `int64`; a negative one has ten bytes."""
    return varint(number if number >= 0 else number + (1 << 64))


def read_fields(message: bytes) -> dict[int, int | bytes]:
    """Return the fields of a message by their numbers; of a repeated one the last.

    Raises:
        ValueError: it is no message, or has a field of a kind that OTLP's answers do not have.
    """
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        if key & 7 == 0:
            found[key >> 3], at = _read_varint(message, at)
        elif key & 7 == 2:
            size, at = _read_varint(message, at)
            if at + size > len(message):
                raise ValueError("a field is cut off")
            found[key >> 3], at = message[at : at + size], at + size
        else:
            raise ValueError("a field has an unknown kind")
    return found


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a number is cut off")
        byte = message[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
