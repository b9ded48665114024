"""Send a message to the operator's webhook, by the rules for calls to providers: addresses are checked, no redirects.

It is signed as Standard Webhooks describes (github.com/standard-webhooks/standard-webhooks, spec, "Signature scheme"):
HMAC-SHA256 over `id.timestamp.body`, in base64.
"""

from __future__ import annotations

import asyncio
import hmac
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from time import monotonic

from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.provider_calls.results import FAULTS, result_of_fault, result_of_response
from llm_gateway.upstream.egress import Egress
from llm_gateway.upstream.pool import Pool, RequestNotSent, tls_context

MAX_BODY_BYTES = 64 * 1024
"""Bytes of a response that are read."""
PREFIX = "whsec_"
"""Start of a secret that is base64, as libraries of Standard Webhooks make it."""


def signing_key(secret: str) -> bytes:
    """Return the key of a secret: decoded base64 behind `whsec_`, else the text itself."""
    if secret.startswith(PREFIX):
        try:
            return b64decode(secret.removeprefix(PREFIX), validate=True)
        except NotBase64:
            pass
    return secret.encode()


def signature(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> str:
    """Return the value of the header `webhook-signature`."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return f"v1,{b64encode(hmac.digest(key, signed, 'sha256')).decode()}"


class Webhook:
    """The receiver of messages at `url`. `egress` decides which addresses may be called."""

    def __init__(self, url: str, secret: str, egress: Egress) -> None:
        self._url = url
        self._key = signing_key(secret)
        self._egress = egress

    async def post(self, message_id: str, body: bytes, timestamp_s: int, timeout_s: float) -> UpstreamResult:
        """POST a signed message. Never raises for what the network or the receiver does."""
        headers = signed_headers(self._key, message_id, timestamp_s, body)
        return await post_message(self._url, headers, body, self._egress, timeout_s)


def signed_headers(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message that is signed with a key."""
    headers = unsigned_headers(message_id, timestamp_s)
    return headers | {"webhook-signature": signature(key, message_id, timestamp_s, body)}


def unsigned_headers(message_id: str, timestamp_s: int) -> dict[str, str]:
    """Return the headers of a message to a receiver without a secret."""
    return {"content-type": "application/json", "webhook-id": message_id, "webhook-timestamp": str(timestamp_s)}


async def post_message(
    url: str, headers: dict[str, str], body: bytes, egress: Egress, timeout_s: float
) -> UpstreamResult:
    """POST over a new connection. Follows no redirect, and never raises for what the network or the receiver does."""
    pool: Pool | None = None
    deadline = monotonic() + timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            pinned = await asyncio.to_thread(egress.check, url)
            tls = await asyncio.to_thread(tls_context) if url.lower().startswith("https:") else None
        pool = Pool(url, headers, tls=tls, pinned=pinned, max_body_bytes=MAX_BODY_BYTES)
        return result_of_response(await pool.post("", body, deadline - monotonic()))
    except OSError as error:
        if isinstance(error, TimeoutError):
            return result_of_fault(error)
        return result_of_fault(RequestNotSent(f"No certificates can be read: {error.strerror}", is_ours=True))
    except FAULTS as error:
        return result_of_fault(error)
    finally:
        if pool is not None:
            pool.close()
