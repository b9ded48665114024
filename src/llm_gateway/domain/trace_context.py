"""Trace context of a request, as W3C Trace Context defines it: the headers `traceparent` and `tracestate`.

The spans of a request are made later from its usage record, so their ids follow from it: those of the request and of
an attempt are the last 8 bytes of its id (a UUIDv7, of which these are random). A request without a `traceparent`
begins a trace, whose id is that of the request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

MOST_STATE_BYTES = 2048
"""Longest `tracestate` that is passed on. W3C demands 512 bytes or more (section 3.3.1.5)."""
SAMPLED = 1
"""The bit of the flags by which a caller says that it records the trace (section 3.2.2.5.1)."""
_IDS = rb"(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}"
_VERSION_00 = re.compile(rb"00-%b-[0-9a-f]{2}" % _IDS)
_LATER = re.compile(rb"(?!00|ff)[0-9a-f]{2}-(%b)-([0-9a-f]{2})(?:-.*)?" % _IDS)
_STATE = re.compile(rb"[\t\x20-\x7e]+")


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """A valid `traceparent`, in version 00, and the `tracestate` as it came, which is checked once it is sent."""

    traceparent: str
    received_tracestate: bytes = b""

    def header_lines(self, attempt_id: str) -> bytes:
        """Return the header lines for the call of an attempt, whose span is the parent of what the provider does.

        A `tracestate` that is too long, or would be no header line, is left out.
        """
        lines = f"traceparent: {self.traceparent[:36]}{span_id(attempt_id)}{self.traceparent[52:]}\r\n".encode()
        state = self.received_tracestate
        if len(state) > MOST_STATE_BYTES or not _STATE.fullmatch(state):
            return lines
        return lines + b"tracestate: %b\r\n" % state


def span_id(identifier: str) -> str:
    """Return the id of the span of a request or an attempt, 16 hexadecimal digits, given the UUID of either."""
    return identifier[19:23] + identifier[24:]


def read_trace_context(headers: Mapping[bytes, bytes]) -> TraceContext | None:
    """Return the trace context of a request; None without a valid `traceparent`, which is then ignored (section 4.3).

    A later version is read as far as version 00 goes, and only the flag `sampled` of it is kept (sections 3.2.4, 4.3).
    """
    value = headers.get(b"traceparent")
    if value is None:
        return None
    traceparent = value.decode() if _VERSION_00.fullmatch(value) else _read_later(value)
    return None if traceparent is None else TraceContext(traceparent, headers.get(b"tracestate", b""))


def _read_later(value: bytes) -> str | None:
    """Return a `traceparent` of a later version in version 00, None if it is not valid."""
    found = _LATER.fullmatch(value)
    if found is None:
        return None
    return f"00-{found[1].decode()}-{int(found[2], 16) & SAMPLED:02x}"


def without_repeated(headers: dict[bytes, bytes], lines: list[tuple[bytes, bytes]]) -> None:
    """Correct the trace context of headers of which some came more than once; `lines` are all of them.

    More than one `traceparent` is not valid; several `tracestate` are one list (section 3.3.1.1, RFC 9110 section 5.3).
    """
    if sum(name == b"traceparent" for name, _ in lines) > 1:
        del headers[b"traceparent"]
    if b"tracestate" in headers:
        headers[b"tracestate"] = b",".join([value for name, value in lines if name == b"tracestate"])
