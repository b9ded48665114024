"""Call an identity provider: GET its documents, and POST forms to its token endpoint, over new connections.

The operator names the provider, so its address may be private; connections to it are those of `upstream`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from urllib.parse import urlencode

from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.provider_calls.results import FAULTS, result_of_fault, result_of_response
from llm_gateway.upstream.pool import Pool, tls_context

MAX_BODY_BYTES = 1024 * 1024
"""Bytes of a response that are read at most."""


class IdentityProviderCalls:
    """Calls over new connections, which are closed afterwards, each within `timeout_s` seconds. They never raise."""

    def __init__(self, timeout_s: float = 5.0) -> None:
        self._timeout_s = timeout_s

    async def get(self, url: str) -> UpstreamResult:
        """GET a document."""
        return await self._call(url, {"accept": "application/json"}, None)

    async def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> UpstreamResult:
        """POST a form."""
        fields = {"accept": "application/json", "content-type": "application/x-www-form-urlencoded", **headers}
        return await self._call(url, fields, urlencode(form).encode())

    async def _call(self, url: str, headers: dict[str, str], body: bytes | None) -> UpstreamResult:
        pool: Pool | None = None
        deadline = monotonic() + self._timeout_s
        try:
            tls = await asyncio.to_thread(tls_context) if url.lower().startswith("https:") else None
            pool = Pool(url, headers, tls=tls, pinned=None, max_body_bytes=MAX_BODY_BYTES)
            left = deadline - monotonic()
            return result_of_response(await (pool.get(left) if body is None else pool.post("", body, left)))
        except FAULTS as error:
            return result_of_fault(error)
        except ValueError as error:  # what the provider's metadata name is no URL
            return UpstreamResult(fault="not_sent", message=str(error))
        except OSError as error:
            return UpstreamResult(fault="not_sent", message=f"No certificates can be read: {error.strerror}")
        finally:
            if pool is not None:
                pool.close()
