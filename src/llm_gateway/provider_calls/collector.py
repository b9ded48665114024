"""Send telemetry to the operator's OTLP collector, over connections that stay open.

Its address is not checked as those of providers are: it comes from the environment of the gateway, not over the API,
and a collector usually listens on the gateway's own host or network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic

from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.provider_calls.results import FAULTS, result_of_fault
from llm_gateway.providers.rate_limit_headers import wait_after
from llm_gateway.upstream.pool import Pool, RequestNotSent, tls_context

MAX_BODY_BYTES = 64 * 1024
"""Limit of a response, of which a count and a message are read."""
HTML = b"text/html"


class CollectorResult(UpstreamResult, frozen=True):
    """A response or fault of the collector. `is_page`: it is a page for browsers, so that no collector is there."""

    is_page: bool = False


class Collector:
    """The collector at `endpoint`, a URL to which `/v1/traces` and the like are appended.

    `headers` are sent with every request.
    """

    def __init__(self, endpoint: str, headers: Mapping[str, str]) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._headers = {
            **headers,
            "content-type": "application/x-protobuf",
            "content-encoding": "gzip",
        }
        self._pool: Pool | None = None

    async def post(self, path: str, body: bytes, timeout_s: float) -> CollectorResult:
        """POST a gzipped protobuf message. Never raises for what the network or the collector does."""
        deadline = monotonic() + timeout_s
        try:
            if self._pool is None:
                is_tls = self._endpoint.lower().startswith("https:")
                tls = await asyncio.to_thread(tls_context) if is_tls else None
                self._pool = Pool(self._endpoint, self._headers, tls=tls, pinned=None, max_body_bytes=MAX_BODY_BYTES)
            response = await self._pool.post(path, body, deadline - monotonic())
        except OSError as error:
            if isinstance(error, TimeoutError):
                return _fault(error)
            return _fault(RequestNotSent(f"No certificates can be read: {error.strerror}", is_ours=True))
        except FAULTS as error:
            return _fault(error)
        retry_after = None if response.status == 200 else wait_after(response.headers)
        content_type = response.header(b"content-type") or b""
        return CollectorResult(
            status=response.status,
            body=bytes(response.body),
            retry_after_s=retry_after,
            is_page=content_type.lower().startswith(HTML),
        )

    def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def _fault(error: Exception) -> CollectorResult:
    result = result_of_fault(error)
    return CollectorResult(fault=result.fault, message=result.message)
