"""Make connection pools to providers: check addresses, share one TLS context, authorise calls as accounts need it."""

from __future__ import annotations

import asyncio
import ssl
from functools import partial

from llm_gateway.domain.catalog import Provider, Target
from llm_gateway.upstream.authorized import AuthorizedPool
from llm_gateway.upstream.egress import Egress
from llm_gateway.upstream.pool import Pool, RequestNotSent, tls_context

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Limit of a response that is read whole."""


class PoolFactory:
    """Makes pools of connections; `egress` decides which addresses may be called."""

    def __init__(self, egress: Egress, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self.egress = egress
        self.max_body_bytes = max_body_bytes
        self._tls: ssl.SSLContext | None = None

    async def make(self, provider: Provider, root: str) -> Pool:
        """Return a pool for calls to URLs that begin with `root`.

        Raises:
            AddressRefused: the address may not be called, or (AddressUnknown) its host cannot be resolved.
            RequestNotSent: no certificate authorities can be read.
        """
        pinned = None
        # The embedded model has no base URL; it listens on loopback, which strict egress would refuse.
        if self.egress.strict and not (provider.kind == "local" and provider.base_url is None):
            pinned = await asyncio.to_thread(self.egress.check, root)
        if self._tls is None and root.lower().startswith("https:"):
            try:
                self._tls = await asyncio.to_thread(tls_context)
            except OSError as error:
                raise RequestNotSent(f"No certificates can be read: {error.strerror}", is_ours=True) from None
        target = provider.target or Target(root, "", {})
        make = Pool if target.authorize is None else partial(AuthorizedPool, target.authorize)
        return make(root, target.headers, tls=self._tls, pinned=pinned, max_body_bytes=self.max_body_bytes)
