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
    """Cuts a stream of bytes into events, however the bytes are cut into pieces.

    Linear in the stream's length: bytes that were searched for an event's end are not searched again.
    """

    __slots__ = ("_ends_with_cr", "_held", "_is_first", "_max_event_bytes")

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._held = bytearray()  # the incomplete event, its lines ended by newlines alone
        self._ends_with_cr = False  # the stream so far ended with a carriage return, which may be half a line's end
        self._is_first = True

    def take(self, data: bytes) -> list[Event]:
        """Return the events that `data` completes; comments and events without data are dropped.

        Raises:
            TooLarge: an event, complete or not, is larger than the limit.
        """
        if not (self._held or self._ends_with_cr or self._is_first):
            last = len(data) - 2
            # One whole event of one line, as nearly all are.
            if data.find(b"\n") == last and data[:6] == b"data: " and data[last:] == b"\n\n" and b"\r" not in data:
                if last > self._max_event_bytes:
                    raise TooLarge(self._too_large())
                return [Event(b"", data[6:last], data)]
        if self._ends_with_cr or b"\r" in data:
            data = self._with_newlines(data)
        return self._add(data)

    def _add(self, data: bytes) -> list[Event]:
        held = self._held
        searched = max(len(held) - 1, 0)
        if held or self._is_first:
            held += data
            if self._is_first and not self._is_past_bom(held):
                return []
            is_complete = held.find(b"\n\n", searched) >= 0
            data = bytes(held) if is_complete else b""
        else:
            is_complete = b"\n\n" in data
            if not is_complete:
                held += data.lstrip(b"\n")
        blocks = data.split(b"\n\n") if is_complete else []
        if blocks:
            self._held = held = bytearray(blocks.pop().lstrip(b"\n"))
        if len(held) > self._max_event_bytes:
            raise TooLarge(self._too_large())
        return [event for block in blocks if (event := self._event(block)) is not None]

    def _is_past_bom(self, held: bytearray) -> bool:
        """Drop a byte order mark at the stream's beginning; False while these bytes may be a part of one."""
        if len(held) < len(BOM) and BOM.startswith(held):
            return False
        self._is_first = False
        if held.startswith(BOM):
            del held[: len(BOM)]
        return True

    def _with_newlines(self, data: bytes) -> bytes:
        """End lines by newlines alone; keep back a carriage return at the end, since a newline may follow."""
        if self._ends_with_cr:
            data = b"\r" + data
        self._ends_with_cr = data.endswith(b"\r")
        if self._ends_with_cr:
            data = data[:-1]
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def end(self) -> list[Event]:
        """Return the last event if the stream ended without the blank line that should follow it."""
        rest = bytes(self._held).rstrip(b"\n")
        self._held = bytearray()
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


def encode_event(data: bytes, name: bytes = b"") -> bytes:
    """An event on the line; `data` without line breaks, as JSON has none."""
    return b"event: %b\ndata: %b\n\n" % (name, data) if name else b"data: %b\n\n" % data
