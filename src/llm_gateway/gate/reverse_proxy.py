"""ASGI middleware for requests that come through a reverse proxy: the client's own address and scheme, a path prefix.

A proxy appends the address of its peer to `X-Forwarded-For`. So the header is read from its right end, and what stands
left of the first address that is no trusted proxy was written by the client:

    X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.0.0.2      connection from 10.0.0.1
                     by the client  ▲       trusted                      trusted
                                    └── the client's address
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias
from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

Network: TypeAlias = IPv4Network | IPv6Network

FORWARDED_HOST = b"x-forwarded-host"
"""Header with the host by which the client called the proxy. It is dropped if the connection is no trusted proxy's."""
KNOWN_ADDRESSES = 4096
"""Addresses whose trust is remembered."""
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?|([^:]*):\d+")
_HOST = re.compile(r"[A-Za-z0-9.\-_]{1,255}(:\d{1,5})?|\[[0-9A-Fa-f:]+\](:\d{1,5})?")
SCHEMES = frozenset({"http", "https"})


def called_host(host: str, forwarded: str = "") -> str:
    """Return the host by which a client called, as far as it is one.

    `host` and `forwarded` are the headers Host and X-Forwarded-Host, the second one only if a trusted proxy sent it.
    """
    hosts = (forwarded.rpartition(",")[2].strip(), host)
    return next((each for each in hosts if _HOST.fullmatch(each)), "localhost:8200")


class ReverseProxy:
    """Passes requests on to `app` as if their client had sent them to the gateway itself.

    Without it a request costs nothing more: leave it out if both arguments are empty.

    Args:
        app: the application, such as the gate.
        trusted: addresses of proxies whose headers are believed. They set the client's address and the scheme, by
            `X-Forwarded-For` and `X-Forwarded-Proto`, or by `Forwarded` (RFC 7239) if there is no `X-Forwarded-For`.
        root_path: prefix such as `/llm`, which is removed from paths that have it; a proxy may have done so.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[Network] = (), root_path: str = "") -> None:
        self._app = app
        self._trusted = tuple(trusted)
        self._root_path = root_path
        self._is_trusted = lru_cache(KNOWN_ADDRESSES)(self._is_in_networks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Change the scope of an HTTP request; pass other ASGI events on."""
        if scope["type"] == "http":
            if self._root_path:
                self._remove_root(scope)
            if self._trusted:
                self._read_headers(scope)
        await self._app(scope, receive, send)

    def _remove_root(self, scope: Scope) -> None:
        root, path = self._root_path, scope["path"]
        if path != root and not path.startswith(f"{root}/"):
            return
        scope["path"] = path[len(root) :] or "/"
        raw: bytes = scope["raw_path"]
        rest = raw.removeprefix(root.encode())
        is_plain = rest != raw and rest[:1] in (b"/", b"")  # else some of the prefix or its slash is encoded
        scope["raw_path"] = (rest or b"/") if is_plain else quote(scope["path"]).encode()

    def _read_headers(self, scope: Scope) -> None:
        peer = scope.get("client")
        if peer is None or not self._is_trusted(peer[0]):
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] != FORWARDED_HOST]
            return
        hops, schemes = _hops_and_schemes(scope["headers"])
        if hops:
            scope["client"] = (self._client_of(peer[0], hops), 0)
        if schemes and schemes[-1].lower() in SCHEMES:
            scope["scheme"] = schemes[-1].lower()

    def _client_of(self, peer: str, hops: list[str]) -> str:
        """Return the last hop that is no trusted proxy; the first one if all are. It ends at what is no address."""
        client = peer
        for hop in reversed(hops):
            address = _address(hop)
            if address is None:
                break
            client = address
            if not self._is_trusted(address):
                break
        return client

    def _is_in_networks(self, text: str) -> bool:
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)


def _hops_and_schemes(headers: Iterable[tuple[bytes, bytes]]) -> tuple[list[str], list[str]]:
    """Return the addresses and the schemes that proxies have written, the nearest proxy's last."""
    found: dict[bytes, list[str]] = {b"x-forwarded-for": [], b"x-forwarded-proto": [], b"forwarded": []}
    for name, value in headers:
        if name in found:
            found[name].append(value.decode("latin-1"))
    hops, schemes, forwarded = (_listed(values) for values in found.values())
    if not hops and forwarded:
        elements = [_parameters(element) for element in forwarded]
        hops = [each.get("for", "") for each in elements]
        schemes = schemes or [each["proto"] for each in elements if "proto" in each]
    return hops, schemes


def _listed(values: Iterable[str]) -> list[str]:
    """Return the elements of comma-separated lists in several headers of one name."""
    return [each.strip() for each in ",".join(values).split(",") if each.strip()]


def _parameters(element: str) -> dict[str, str]:
    """Return the parameters of an element of `Forwarded`: `for="[2001:db8::1]:80";proto=https`."""
    pairs = (part.partition("=") for part in element.split(";"))
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def _address(hop: str) -> str | None:
    """Return the address in a hop, which may have a port and brackets; None for anything else, such as `unknown`."""
    with_port = _WITH_PORT.fullmatch(hop)
    text = (with_port[1] or with_port[2]) if with_port else hop
    try:
        return str(ip_address(text.partition("%")[0]))  # a zone can have any length, and tells nothing elsewhere
    except ValueError:
        return None
