"""Connection pool for providers that need a fresh credential per request (a cloud's token or signature)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from llm_gateway.domain.catalog import CallToSign, NotAuthorized, UpstreamAuthorizer
from llm_gateway.upstream.connection import Content
from llm_gateway.upstream.pool import CancelledBeforeSend, Pool, RequestNotSent, send_always
from llm_gateway.upstream.response import Response, ResponseStream


class AuthorizedPool(Pool):
    """A pool that awaits `authorize` before each request and adds the header lines that it returns.

    It is a subclass so that calls with a static key, which most are, need no check for it.
    """

    def __init__(
        self,
        authorize: UpstreamAuthorizer,
        root: str,
        headers: dict[str, str],
        *,
        tls: ssl.SSLContext | None,
        pinned: str | None,
        max_body_bytes: int,
    ) -> None:
        super().__init__(root, headers, tls=tls, pinned=pinned, max_body_bytes=max_body_bytes)
        parts = urlsplit(root)
        self._authorize = authorize
        self._url = f"{parts.scheme}://{parts.netloc}{self._base}"

    async def post(
        self,
        path: str,
        body: Content,
        timeout_s: float,
        fields: bytes = b"",
        before_send: Callable[[], None] = send_always,
    ) -> Response:
        """Authorise, then POST like `Pool.post`. Raises RequestNotSent also if the call cannot be authorised."""
        started = self._loop.time()
        fields += await self._authorized("POST", path, body, timeout_s)
        return await super().post(path, body, timeout_s - (self._loop.time() - started), fields, before_send)

    async def open(
        self,
        path: str,
        body: Content,
        timeout_s: float,
        fields: bytes = b"",
        before_send: Callable[[], None] = send_always,
    ) -> ResponseStream:
        """Authorise, then open a stream like `Pool.open`. Raises RequestNotSent also if that cannot be authorised."""
        started = self._loop.time()
        fields += await self._authorized("POST", path, body, timeout_s)
        return await super().open(path, body, timeout_s - (self._loop.time() - started), fields, before_send)

    async def get(self, timeout_s: float, fields: bytes = b"") -> Response:
        """Authorise, then GET like `Pool.get`. Raises RequestNotSent also if the call cannot be authorised."""
        started = self._loop.time()
        fields += await self._authorized("GET", "", b"", timeout_s)
        return await super().get(timeout_s - (self._loop.time() - started), fields)

    async def _authorized(self, method: str, path: str, body: Content, timeout_s: float) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._authorize(CallToSign(method, self._url + path, body))
        except NotAuthorized as error:
            raise RequestNotSent(str(error)) from None
        except TimeoutError:
            raise RequestNotSent("The call was not authorised in time", is_ours=True) from None
        except asyncio.CancelledError:
            if method == "GET":  # the model list: it has no usage record that must tell whether it was sent
                raise
            raise CancelledBeforeSend from None
