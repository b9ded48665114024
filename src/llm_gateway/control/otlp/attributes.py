"""Encode attributes (`KeyValue` of opentelemetry/proto/common/v1): the key once at import, frequent values once each.

An attribute is returned with its length before it, and without the tag of the field that it becomes in a span, an
event, a log record or a data point: `joined` puts the tags between them.
"""

from __future__ import annotations

from collections.abc import Iterable

from llm_gateway.control.otlp.protobuf import double, field_of_bytes, int64, varint, with_length

MOST_CACHED, LONGEST_CACHED = 2_000, 128
"""Texts of an attribute that are kept encoded, and the longest of them in characters. A full cache starts anew.
Integers below the first are kept, too."""
LONGEST_TEXT = 1_000
"""Bytes of a text; a longer one is cut off."""


class Attribute:
    """An attribute's key. `name` is in the semantic conventions, or begins with `llm_gateway.`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._key = field_of_bytes(1, name.encode()) + b"\x12"
        self._size = len(self._key)
        self._longest = 127 - self._size - 3
        """Bytes of the longest text with which all lengths have one byte."""
        self._number = varint(self._size + 10) + self._key + b"\x09\x21"
        self._cached: dict[str, bytes] = {}
        self._integers: dict[int, bytes] = {}
        self._false, self._true = (self._encoded(b"\x10" + flag) for flag in (b"\x00", b"\x01"))

    def text(self, value: str) -> bytes:
        """Return the attribute with a text that differs from record to record."""
        try:
            encoded = value.encode()
        except UnicodeEncodeError:  # a lone surrogate of a client's JSON
            encoded = value.encode("utf-8", "replace")
        size = len(encoded)
        if size <= self._longest:
            return b"%c%b%c\x0a%c%b" % (self._size + size + 3, self._key, size + 2, size, encoded)
        if size > LONGEST_TEXT:
            encoded = encoded[:LONGEST_TEXT].decode("utf-8", "ignore").encode()
        return self._encoded(b"\x0a%b%b" % (varint(len(encoded)), encoded))

    def name_of(self, value: str) -> bytes:
        """Return the attribute with a text of which there are few: a model, a key, a service."""
        found = self._cached.get(value)
        if found is None:
            found = self.text(value)
            if len(value) <= LONGEST_CACHED:
                if len(self._cached) >= MOST_CACHED:
                    self._cached.clear()
                self._cached[value] = found
        return found

    def integer(self, value: int) -> bytes:
        """Return the attribute with an integer."""
        found = self._integers.get(value)
        if found is None:
            found = self._encoded(b"\x18" + int64(value))
            if 0 <= value < MOST_CACHED:
                self._integers[value] = found
        return found

    def number(self, value: float) -> bytes:
        """Return the attribute with a floating-point number."""
        return self._number + double(value)

    def flag(self, *, value: bool) -> bytes:
        """Return the attribute with a truth value."""
        return self._true if value else self._false

    def texts(self, values: Iterable[str]) -> bytes:
        """Return the attribute with a list of texts."""
        items = b"".join([field_of_bytes(1, field_of_bytes(1, value.encode("utf-8", "replace"))) for value in values])
        return self._encoded(field_of_bytes(5, items))

    def _encoded(self, value: bytes) -> bytes:
        """Return the attribute, given the only field of its `AnyValue`."""
        return with_length(b"%b%b" % (self._key, with_length(value)))


def joined(tag: bytes, attributes: list[bytes]) -> bytes:
    """Return the fields of these attributes, each behind the tag."""
    return tag + tag.join(attributes) if attributes else b""
