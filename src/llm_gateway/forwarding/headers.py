"""Headers of forwarded requests and responses: those for one connection only are not passed on (RFC 9110, 7.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.types import Scope

from llm_gateway.errors import Invalid
from llm_gateway.forwarding.caller_header import IDENTITY, write_identity
from llm_gateway.gate.body import WITH_BODY

Headers = list[tuple[bytes, bytes]]

ONE_CONNECTION = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
NOT_SENT = ONE_CONNECTION | {IDENTITY, b"content-length", b"expect"}
"""Headers of a client that are not forwarded. The worker's server has answered `Expect` itself, if it came."""
_BREAK = re.compile(rb"[\r\n\0]")
NOT_RETURNED = ONE_CONNECTION | {b"date"}
"""Headers of a response that are not passed on. The worker's server adds its own Date."""


def request_head(scope: Scope) -> bytes:
    """Return request line and headers for the control process, with the caller's identity.

    Raises:
        Invalid: a line break in one would begin another header or request, with an identity of the client's choice.
    """
    target: bytes = scope["raw_path"]
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    lines = [b"%b %b HTTP/1.1" % (scope["method"].encode("ascii"), target)]
    given: Headers = scope["headers"]
    dropped = NOT_SENT | _named_by_connection(given)
    lines += [b"%b: %b" % pair for pair in given if pair[0] not in dropped]
    if not any(name == b"host" for name, _ in given):
        lines.append(b"host: control")  # HTTP/1.1 requires one; `RestoreCaller` removes it
    if scope["method"] in WITH_BODY:
        lines.append(b"transfer-encoding: chunked" if is_chunked(scope) else b"content-length: " + _length(given))
    lines.append(b"%b: %b" % (IDENTITY, write_identity(scope)))
    if any(_BREAK.search(line) for line in lines):
        raise Invalid("The request's address or one of its headers has a line break or a NUL character.")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def is_chunked(scope: Scope) -> bool:
    """Return whether the length of the request's body is not known in advance."""
    return any(name == b"transfer-encoding" for name, _ in scope["headers"])


def chunk(piece: bytes) -> bytes:
    """Return a piece of a body with its chunk framing; the last chunk for b"" (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def response_headers(status: int, received: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers of a response to pass on, with names in lower case.

    After a 413 the client's connection is closed, as errors of the data plane do: it may still be sending the body.
    """
    headers = [(name.lower(), value) for name, value in received]
    dropped = NOT_RETURNED | _named_by_connection(headers)
    passed = [pair for pair in headers if pair[0] not in dropped]
    if status == 413:
        passed.append((b"connection", b"close"))
    return passed


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """Return the names of headers that Connection declares to be for one connection; Host cannot be one of them."""
    values = [value for name, value in headers if name == b"connection"]
    return frozenset(name.strip().lower() for value in values for name in value.split(b",")) - {b"host"}


def _length(headers: Headers) -> bytes:
    return next((value for name, value in headers if name == b"content-length"), b"0")
