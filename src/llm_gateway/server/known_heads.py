"""Find the end of a request without parsing it: only where every parser must agree on it.

That takes some microseconds. Most clients send the same head again and again, so the answer is kept for as many heads
as `MOST_HEADS`, which makes it one of the cheapest steps of a refusal.
"""

from __future__ import annotations

import re

SAFE = (b"GET ", b"HEAD")
MOST_HEADS = 1024
MOST_HEAD_BYTES = 2048
"""Longest head that is kept: with `MOST_HEADS` of them 2 MB."""
UNKNOWN = -1
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*(?=\r\n)", re.IGNORECASE)
_PLAIN = re.compile(rb"[A-Z]++ [!-~]++ HTTP/1\.1\r\n(?:[!#-'*+\-.0-9A-Z^_`a-z|~]++:[^\r\n\0]*+\r\n)++\r\n")
"""A head in which every parser, also a proxy's that takes a bare LF for the end of a line, sees the same headers."""
_UNUSUAL = re.compile(
    rb"\r\n(?:(?:transfer-encoding|expect|upgrade):|connection:(?![ \t]*keep-alive[ \t]*\r\n)"
    rb"|content-length:(?![ \t]*\d{1,9}[ \t]*\r\n))",
    re.IGNORECASE,
)


def body_length(head: bytes) -> int:
    """Return the length of the body that follows `head`; `UNKNOWN` if it is not certain."""
    if _PLAIN.fullmatch(head) is None or _UNUSUAL.search(head) is not None:
        return UNKNOWN
    lengths = _LENGTH.findall(head)
    return int(lengths[0]) if len(lengths) == 1 else UNKNOWN


class KnownHeads:
    """The heads of requests whose end is certain, GET and HEAD excepted, with the lengths of their bodies."""

    def __init__(self) -> None:
        self._lengths: dict[bytes, int] = {}

    def missing(self, data: bytes) -> int:
        """Return how many bytes of a request are missing after `data`; less than 0 if that is not certain."""
        end = data.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        head = data[:end]
        length = self._lengths.get(head)
        if length is None:
            length = self._learn(head)
            if length == UNKNOWN:
                return UNKNOWN
        return end + length - len(data)

    def _learn(self, head: bytes) -> int:
        length = UNKNOWN if head.startswith(SAFE) else body_length(head)
        if length != UNKNOWN and len(head) <= MOST_HEAD_BYTES:
            if len(self._lengths) >= MOST_HEADS:
                self._lengths.clear()
            self._lengths[head] = length
        return length

    def clear(self) -> None:
        """Forget all heads; they can hold clients' keys."""
        self._lengths.clear()
