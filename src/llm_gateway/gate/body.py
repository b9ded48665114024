"""Read request bodies, limited in bytes and JSON values each, and in bytes over all requests in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import Receive

from llm_gateway.errors import CodingNotSupported, GatewayError, PayloadTooLarge
from llm_gateway.gate.in_flight import InFlight
from llm_gateway.gate.value_limit import check_number_of_values

WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
"""Methods whose body the management API reads; it ignores those of others."""
MAX_BODY_BYTES = 4 * 1024 * 1024
DROP_BYTES = 2 * MAX_BODY_BYTES


class ClientGone(Exception):
    """The client disconnected before its request was complete, so that no response can be sent."""


def refuse_compressed(headers: Mapping[bytes, bytes]) -> None:
    """Check that the body is sent as it is.

    Raises:
        CodingNotSupported: its Content-Encoding names a coding.
    """
    coding = headers.get(b"content-encoding", b"identity")
    if coding.lower() != b"identity":
        raise CodingNotSupported(
            f"The body is compressed (Content-Encoding: {coding.decode('latin-1')}): send it without, as plain JSON."
        )


async def read_body(receive: Receive, in_flight: InFlight) -> bytes:
    """Return the whole body of a request. Its length is held in `in_flight`; the caller must release it.

    Raises:
        PayloadTooLarge: the body is larger than 4 MiB (up to 8 MiB or 5 s of it are read and dropped), or it contains
            more than 200,000 JSON values.
        Overloaded: the bodies in flight are at their cap; the rest of this one is dropped in the same way.
        ClientGone: the client disconnected.
    """
    message = await receive()
    chunks: list[bytes] = []
    held = size = 0
    try:
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise PayloadTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes: send less.")
            in_flight.hold(size - held)
            held = size
            more_body = message.get("more_body", False)
            chunks.append(chunk)
            if not more_body:
                body = chunk if len(chunks) == 1 else b"".join(chunks)
                check_number_of_values(body)
                return body
            message = await receive()
    except BaseException as error:  # edge: bytes of a failed read must not stay counted
        in_flight.release(held)
        chunks.clear()
        if isinstance(error, GatewayError) and message.get("more_body", False):
            await _drop_rest(receive, size, in_flight.drop_s)
        raise


async def _drop_rest(receive: Receive, size: int, drop_s: float) -> None:
    try:
        async with asyncio.timeout(drop_s):
            while size <= DROP_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
