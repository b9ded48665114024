"""Server-sent events, as bytes: https://html.spec.whatwg.org/multipage/server-sent-events.html. No I/O."""

from __future__ import annotations

import msgspec

COMMENT = b": keep-alive\n\n"
"""Keeps what stands between awake; every client passes over it."""
BOM = b"\xef\xbb\xbf"


class TooLarge(Exception):
    """An event is larger than is taken."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event: its name (empty: `message`), its data, and how it stood on the line, blank line included."""

    name: bytes
    data: bytes
    raw: bytes


class Splitter:
    """Cuts a stream into events, however its bytes are cut."""

    __slots__ = ("_is_first", "_max_event_bytes", "_rest")

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = b""
        self._is_first = True

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now; comments and events without data are passed over.

        Raises:
            TooLarge: one of them is, or what is incomplete has grown so.
        """
        if not (self._rest or self._is_first):
            last = len(data) - 2
            # One whole event of one line, as nearly all are.
            if data.find(b"\n") == last and data[:6] == b"data: " and data[last:] == b"\n\n" and b"\r" not in data:
                if last > self._max_event_bytes:
                    raise TooLarge(self._too_large())
                return [Event(b"", data[6:last], data)]
        data = self._rest + data if self._rest else data
        if self._is_first:
            if len(data) < len(BOM) and BOM.startswith(data):
                self._rest = data
                return []
            self._is_first = False
            data = data.removeprefix(BOM)
        if b"\r" in data:
            data, held = _with_newlines(data)
        else:
            held = b""
        blocks = data.split(b"\n\n")
        self._rest = blocks.pop().lstrip(b"\n") + held
        if len(self._rest) > self._max_event_bytes:
            raise TooLarge(self._too_large())
        return [event for block in blocks if (event := self._event(block)) is not None]

    def end(self) -> list[Event]:
        """The stream is over: what is left, if it is an event whose blank line was left out."""
        rest, self._rest = self._rest.rstrip(b"\r\n"), b""
        event = self._event(rest) if rest else None
        return [event] if event is not None else []

    def _event(self, block: bytes) -> Event | None:
        if len(block) > self._max_event_bytes:
            raise TooLarge(self._too_large())
        if block.startswith(b"data: ") and b"\n" not in block:
            return Event(b"", block[6:], block + b"\n\n")
        name, data = b"", []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value
        return Event(name, b"\n".join(data), block.lstrip(b"\n") + b"\n\n") if data else None

    def _too_large(self) -> str:
        return f"An event of the answer is larger than {self._max_event_bytes} bytes"


def _with_newlines(data: bytes) -> tuple[bytes, bytes]:
    """The data with its lines ended by newlines alone, and a carriage return at its end, perhaps half a line's end."""
    held = b"\r" if data.endswith(b"\r") else b""
    data = data[: len(data) - len(held)]
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), held


def encode_event(data: bytes, name: bytes = b"") -> bytes:
    """An event on the line; `data` without line breaks, as JSON has none."""
    return b"event: %b\ndata: %b\n\n" % (name, data) if name else b"data: %b\n\n" % data
