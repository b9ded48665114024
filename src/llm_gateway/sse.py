"""Parse and encode server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html. No I/O."""

from __future__ import annotations

import msgspec

COMMENT = b": keep-alive\n\n"
"""A comment line, which clients ignore: sent during silence so that proxies do not close the connection."""
LF, CR = b"\n\r"
"""As integers: to look for `b"\\n"` in bytes takes several times as long as to look for 10."""
BOM = b"\xef\xbb\xbf"
"""The UTF-8 byte order mark, which the specification allows at the beginning of a stream."""


class TooLarge(Exception):
    """An event exceeds the size limit."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """A server-sent event: name (empty for `message`), data, and the bytes of the event including the blank line."""

    name: bytes
    data: bytes
    raw: bytes


class Splitter:
    r"""An incremental parser: call `take` with each chunk of bytes, in any segmentation, and `end` at the end.

        splitter = Splitter(max_event_bytes=1_000_000)
        splitter.take(b"data: 1\n")     # []
        splitter.take(b"\ndata: 2\n")   # [Event(b"", b"1", b"data: 1\n\n")]
        splitter.end()                  # [Event(b"", b"2", b"data: 2\n\n")]

    Runs in time linear in the stream's length: bytes already searched for an event's end are not searched again.
    """

    __slots__ = ("_ends_with_cr", "_held", "_is_first", "_max_event_bytes")

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._held = bytearray()  # the incomplete event, its line ends normalised to \n
        self._ends_with_cr = False  # the last chunk ended with \r, which may be the first half of \r\n
        self._is_first = True

    def take(self, data: bytes) -> list[Event]:
        """Return the events that `data` completes; drop comments and events without data.

        Raises:
            TooLarge: an event, complete or not, exceeds `max_event_bytes`.
        """
        if not (self._held or self._ends_with_cr or self._is_first):
            last = len(data) - 2
            # Fast path: nearly every chunk is one complete event with a single data line.
            if data.find(b"\n") == last and data[:6] == b"data: " and data[last:] == b"\n\n" and CR not in data:
                if last > self._max_event_bytes:
                    raise TooLarge(self._too_large())
                return [Event(b"", data[6:last], data)]
        if self._ends_with_cr or CR in data:
            data = self._with_newlines(data)
        return self._add(data)

    def _add(self, data: bytes) -> list[Event]:
        held = self._held
        searched = max(len(held) - 1, 0)  # the blank line may begin with the last byte held
        if held or self._is_first:
            held += data
            if self._is_first and not self._is_past_bom(held):
                return []
            is_complete = held.find(b"\n\n", searched) >= 0
            data = bytes(held) if is_complete else b""
            if is_complete and data.find(b"\n") == len(data) - 2 and data.startswith(b"data: "):
                self._held = bytearray()  # one event, as nearly always: a large one is not copied more often than that
                return [self._checked(Event(b"", data[6:-2], data))]
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
        """Drop a byte order mark at the beginning of the stream; return False while the bytes may be half of one."""
        if len(held) < len(BOM) and BOM.startswith(held):
            return False
        self._is_first = False
        if held.startswith(BOM):
            del held[: len(BOM)]
        return True

    def _with_newlines(self, data: bytes) -> bytes:
        r"""Normalise line ends to \n; hold back a \r at the end of `data`, since a \n may follow."""
        if self._ends_with_cr:
            data = b"\r" + data
        self._ends_with_cr = data.endswith(b"\r")
        if self._ends_with_cr:
            data = data[:-1]
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def end(self) -> list[Event]:
        """Return the last event of a stream that ended without the blank line after it.

        The specification discards such an event; here it may hold the end of a billed answer.
        """
        rest = bytes(self._held).rstrip(b"\n")
        self._held = bytearray()
        event = self._event(rest) if rest else None
        return [event] if event is not None else []

    def _event(self, block: bytes) -> Event | None:
        if len(block) > self._max_event_bytes:
            raise TooLarge(self._too_large())
        if block.startswith(b"data: ") and LF not in block:
            return Event(b"", block[6:], block + b"\n\n")
        name, data = b"", []
        for line in block.split(b"\n"):
            if line.startswith(b"data: "):  # in one copy, since it can be large
                data.append(line[6:])
                continue
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value
        return Event(name, b"\n".join(data), block.lstrip(b"\n") + b"\n\n") if data else None

    def _checked(self, event: Event) -> Event:
        if len(event.raw) - 2 > self._max_event_bytes:
            raise TooLarge(self._too_large())
        return event

    def _too_large(self) -> str:
        return f"An event of the provider's answer is larger than {self._max_event_bytes} bytes"


def encode_event(data: bytes, name: bytes = b"") -> bytes:
    """Encode an event. `data` must not contain line breaks, as encoded JSON never does."""
    return b"event: %b\ndata: %b\n\n" % (name, data) if name else b"data: %b\n\n" % data
