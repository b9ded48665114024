"""Split a connection's bytes into HTTP answers, for both built-in load generators."""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class AnswerReader:
    """Reader of one HTTP answer at a time; each must have a Content-Length."""

    __slots__ = ("_end", "_held")

    def __init__(self) -> None:
        self._held = b""
        self._end = 0

    def feed(self, data: bytes) -> bytes:
        """Add received bytes. Returns the answer once it is complete, else empty bytes."""
        if self._held:
            data = self._held + data
        if not self._end:
            head = data.find(b"\r\n\r\n")
            length = _LENGTH.search(data, 0, head + 2) if head >= 0 else None
            if length is None:
                self._held = data
                return b""
            self._end = head + 4 + int(length[1])
        if len(data) < self._end:
            self._held = data
            return b""
        self._held, self._end = b"", 0
        return data


def is_refusal(answer: bytes) -> bool:
    """Return True if the answer's status is 503."""
    return answer[9:12] == b"503"


def is_ok(answer: bytes) -> bool:
    """Return True if the answer's status is 200."""
    return answer[9:12] == b"200"
