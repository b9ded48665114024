"""Documents of an identity provider: its metadata and its public keys, kept in memory and fetched again when needed.

Sources: OpenID Connect Discovery 1.0, sections 3 and 4; RFC 7517 for the set of keys.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.identity.errors import ProviderUnusable

WELL_KNOWN = "/.well-known/openid-configuration"
KEPT_S = 3600.0
"""Seconds for which documents are used."""
LONGEST_KEPT_S = 24 * 3600.0
"""Seconds for which keys are used while the provider does not answer."""
AGAIN_S = 10.0
"""Seconds between two fetches of the keys for tokens that name an unknown one: made-up tokens must not make the gateway
call the provider each time."""
FAILED_S = 3.0
"""Seconds after a failed fetch in which none is made."""
MOST_KEYS = 100
Document = dict[str, Any]


class Calls(Protocol):
    """Calls to the provider (`provider_calls/identity_provider.py`)."""

    def get(self, url: str) -> Awaitable[UpstreamResult]:
        """GET a document."""


class Provider:
    """The identity provider with this issuer. `clock` returns seconds."""

    def __init__(self, issuer: str, calls: Calls, clock: Callable[[], float] = time.monotonic) -> None:
        self.issuer = issuer
        self._calls = calls
        self._clock = clock
        self._lock = asyncio.Lock()
        self._metadata: tuple[float, Document] | None = None
        self._keys: tuple[float, list[Document]] | None = None
        self._failure: tuple[float, ProviderUnusable] | None = None

    async def metadata(self) -> Document:
        """Return the provider's metadata for the sign-in of people.

        Raises:
            ProviderUnusable: it cannot be fetched, or is not valid.
        """
        from authlib.oidc.discovery import OpenIDProviderMetadata  # noqa: PLC0415 - see the package

        async with self._lock:
            found = await self._current_metadata()
        try:
            for field in ("authorization_endpoint", "token_endpoint"):
                _endpoint(found, field, self.issuer)
            OpenIDProviderMetadata(found).validate_response_types_supported()
        except (ValueError, TypeError, AttributeError) as error:
            self._metadata = None  # it may be mended soon
            raise ProviderUnusable(f"The identity provider's metadata is not valid: {error}.") from None
        except ProviderUnusable:
            self._metadata = None
            raise
        return found

    async def keys(self, wanted: Callable[[Document], bool]) -> list[Document]:
        """Return the public keys that are wanted (RFC 7517), after a new fetch if none of those in memory is.

        Raises:
            ProviderUnusable: the keys cannot be fetched, or are not valid.
        """
        found, age = self._known(wanted)
        if found and age <= KEPT_S:
            return found  # a fetch for a made-up key does not delay the others
        async with self._lock:
            found, age = self._known(wanted)
            if age > KEPT_S or (not found and age > AGAIN_S):
                try:
                    url = _endpoint(await self._current_metadata(), "jwks_uri", self.issuer)
                    known = _keys_in(await self._fetch(url, "keys"))
                except ProviderUnusable:
                    if found and age <= LONGEST_KEPT_S:
                        return found
                    raise
                self._keys = (self._clock(), known)
                found = [key for key in known if wanted(key)]
            return found

    def _known(self, wanted: Callable[[Document], bool]) -> tuple[list[Document], float]:
        """Return the wanted keys in memory, and the seconds since they were fetched."""
        fetched_at, known = self._keys or (float("-inf"), [])
        return [key for key in known if wanted(key)], self._clock() - fetched_at

    async def _current_metadata(self) -> Document:
        if self._metadata is not None and self._clock() - self._metadata[0] <= KEPT_S:
            return self._metadata[1]
        found = await self._fetch(self.issuer.rstrip("/") + WELL_KNOWN, "metadata")
        if found.get("issuer") != self.issuer:
            raise ProviderUnusable("The identity provider's metadata names another issuer than the gateway's settings.")
        _endpoint(found, "jwks_uri", self.issuer)
        self._metadata = (self._clock(), found)
        return found

    async def _fetch(self, url: str, what: str) -> Document:
        """Return a document. Who comes within seconds of a failure gets that, and need not wait for another one."""
        if self._failure is not None and self._clock() - self._failure[0] < FAILED_S:
            raise self._failure[1]
        try:
            return await self._fetch_now(url, what)
        except ProviderUnusable as error:
            self._failure = (self._clock(), error)
            raise

    async def _fetch_now(self, url: str, what: str) -> Document:
        result = await self._calls.get(url)
        if result.fault is not None:
            raise ProviderUnusable(f"The identity provider does not answer ({result.message}): try again later.")
        document = decoded(result)
        if result.status != 200 or document is None:
            raise ProviderUnusable(
                f"The identity provider answered the request for its {what} with status {result.status}"
                f"{'' if document is not None else ' and no JSON object'}: try again later."
            )
        return document


def decoded(result: UpstreamResult) -> Document | None:
    """Return the JSON object of a response, None if it has none."""
    try:
        found = json.loads(bytes(result.body))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _endpoint(metadata: Document, field: str, issuer: str) -> str:
    """Return an address of the metadata.

    Raises:
        ProviderUnusable: the metadata has no such address, or one by http where the issuer has https.
    """
    url = metadata.get(field)
    schemes = ("https", "http") if urlsplit(issuer).scheme == "http" else ("https",)
    if not isinstance(url, str) or urlsplit(url).scheme not in schemes or not urlsplit(url).hostname:
        raise ProviderUnusable(f"The identity provider's metadata has no {field} that can be called.")
    return url


def _keys_in(document: Document) -> list[Document]:
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise ProviderUnusable("The identity provider's set of keys is not valid.")
    return [key for key in keys[:MOST_KEYS] if isinstance(key, dict) and key.get("use", "sig") == "sig"]
