"""Read request bodies, limited in bytes and JSON values each, and in bytes over all requests in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import Receive

from llm_gateway.errors import CodingNotSupported, GatewayError, PayloadTooLarge
from llm_gateway.gate.in_flight import InFlight
from llm_gateway.json_outline import SMALL_BYTES

WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
"""Methods whose body the management API reads; it ignores those of others."""
MAX_BODY_BYTES = 4 * 1024 * 1024
"""Limit of the gateway's own API; the vendors' paths have LLM_GATEWAY_MAX_BODY_BYTES."""


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


async def read_body(receive: Receive, in_flight: InFlight, most_bytes: int = MAX_BODY_BYTES) -> bytes | bytearray:
    """Return the whole body of a request. Its length is held in `in_flight`; the caller must release it.

    A large body is a bytearray: to join its pieces at the end would stop the event loop for 20 ms at 32 MiB.

    Raises:
        PayloadTooLarge: the body is larger than `most_bytes` (up to twice as much, or 5 s of it, is read and dropped).
        Overloaded: the bodies in flight are at their cap; the rest of this one is dropped in the same way.
        ClientGone: the client disconnected.
    """
    message = await receive()
    chunks: list[bytes] = []
    large: bytearray | None = None
    held = size = 0
    try:
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > most_bytes:
                raise PayloadTooLarge(f"The body is larger than {most_bytes} bytes: send less.")
            in_flight.hold(size - held)
            held = size
            more_body = message.get("more_body", False)
            if size > SMALL_BYTES:
                large = bytearray(b"".join(chunks)) if large is None else large
                large += chunk
                if not more_body:
                    return large
            else:
                chunks.append(chunk)
                if not more_body:
                    return chunk if len(chunks) == 1 else b"".join(chunks)
            message = await receive()
    except BaseException as error:  # edge: bytes of a failed read must not stay counted
        in_flight.release(held)
        chunks.clear()
        if isinstance(error, GatewayError) and message.get("more_body", False):
            large = None
            await _drop_rest(receive, size, 2 * most_bytes, in_flight.drop_s)
        raise


async def _drop_rest(receive: Receive, size: int, most_bytes: int, drop_s: float) -> None:
    try:
        async with asyncio.timeout(drop_s):
            while size <= most_bytes:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
