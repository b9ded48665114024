"""Where upstream calls may go, as a defence against names that lead into our own network."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import urlsplit

from llm_gateway.upstream.addresses import is_public


class AddressRefused(Exception):
    """An upstream address that production must not call; the message is a sentence for the operator."""


class AddressUnknown(AddressRefused):
    """The host does not resolve now, which says nothing about where it is."""


Resolve: TypeAlias = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, the one that is best reached from here first. Blocks.

    Raises:
        OSError: it does not resolve.
        UnicodeError: it cannot be the name of a host.
    """
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Egress:
    """Where upstream calls may go. `strict` (production): https to public addresses, or to `private_hosts`."""

    def __init__(
        self, *, strict: bool, private_hosts: frozenset[str] = frozenset(), resolve: Resolve = resolve
    ) -> None:
        self.strict = strict
        self._private_hosts = private_hosts
        self._resolve = resolve

    def check(self, url: str, pinned: str | None = None) -> str | None:
        """The address the connection must be pinned to; None when it need not be. Resolves names: blocks.

        It stays `pinned` as long as that is one of the host's addresses: a host may show others at every look.

        Raises:
            AddressRefused: the URL may not be called, or its host does not resolve.
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
                    "name the host in LLM_GATEWAY_ALLOWED_PRIVATE_HOSTS if it is meant."
                )
        if pinned in addresses:
            return pinned
        # One family is the reachable one, and the resolver puts it first; within it the order may change at every call.
        return min(address for address in addresses if (":" in address) == (":" in addresses[0]))
