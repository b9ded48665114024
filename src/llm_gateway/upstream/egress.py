"""Egress rules against SSRF: check provider URLs and resolved addresses, and choose the address to connect to.

In production only https URLs with public addresses pass, or hosts that the operator allows.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import urlsplit

from llm_gateway.upstream.addresses import is_public


class AddressRefused(Exception):
    """An upstream URL or address that must not be called in production; the message is a sentence for the operator."""


class AddressUnknown(AddressRefused):
    """The host does not resolve now, so that its addresses cannot be checked."""


Resolve: TypeAlias = Callable[[str, int], list[str]]
"""Return the addresses of a host and port; see `resolve`."""


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, in the system's order of preference (RFC 6724). Blocks.

    Raises:
        OSError: the host does not resolve.
        UnicodeError: `host` is not a valid host name.
    """
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Egress:
    """The rules for upstream URLs. `strict` (production): https to public addresses, or any URL of `private_hosts`."""

    def __init__(
        self, *, strict: bool, private_hosts: frozenset[str] = frozenset(), resolve: Resolve = resolve
    ) -> None:
        self.strict = strict
        self._private_hosts = private_hosts
        self._resolve = resolve

    def check(self, url: str, pinned: str | None = None) -> str | None:
        """Return the address to which connections must be pinned; None if they need not be. Blocks to resolve the host.

        Pinning prevents that the name resolves to another address after this check (DNS rebinding). The result stays
        `pinned` as long as that is among the host's addresses, since a resolver may return others each time.

        Raises:
            AddressRefused: the URL must not be called, or its host does not resolve (`AddressUnknown`).
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 443
        except ValueError as error:
            raise AddressRefused(f"{url} cannot be called: {error}.") from None
        host = (parts.hostname or "").lower()
        if not self.strict or host in self._private_hosts:
            return None
        if parts.scheme != "https":
            raise AddressRefused(
                f"{host} must be called over https in production: write https://, or name the host in "
                "LLM_GATEWAY_ALLOWED_PRIVATE_HOSTS if it is one of your own network that speaks plain http."
            )
        try:
            addresses = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise AddressUnknown(f"{host} does not resolve: {error}.") from None
        for address in addresses:
            if not is_public(address):
                raise AddressRefused(
                    f"{host} is at {address}, which is not a public address: "
                    "to allow it, add the host to LLM_GATEWAY_ALLOWED_PRIVATE_HOSTS."
                )
        if pinned in addresses:
            return pinned
        # The resolver puts the reachable address family first; within a family, its order may change with each call.
        return min(address for address in addresses if (":" in address) == (":" in addresses[0]))
