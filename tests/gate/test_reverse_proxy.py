"""Requests through a reverse proxy: whose address is believed, and which paths lose their prefix."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from starlette.types import Receive, Scope, Send

from llm_gateway.gate.reverse_proxy import ReverseProxy
from tests.rows import each_row

TRUSTED = tuple(map(ip_network, ("10.0.0.0/8", "2001:db8::/32")))
CLIENTS: dict[str, tuple[str, dict[str, str], str]] = {
    "a stranger's header": ("192.0.2.1", {"x-forwarded-for": "6.6.6.6"}, "192.0.2.1"),
    "no header": ("10.0.0.1", {}, "10.0.0.1"),
    "one hop": ("10.0.0.1", {"x-forwarded-for": "203.0.113.7"}, "203.0.113.7"),
    "the rightmost stranger": ("10.0.0.1", {"x-forwarded-for": "6.6.6.6, 203.0.113.7,10.0.0.2"}, "203.0.113.7"),
    "several headers": ("10.0.0.1", {"x-forwarded-for": "6.6.6.6", "X-forwarded-for": "203.0.113.7"}, "203.0.113.7"),
    "only proxies": ("10.0.0.1", {"x-forwarded-for": "10.0.0.3, 10.0.0.2"}, "10.0.0.3"),
    "no address": ("10.0.0.1", {"x-forwarded-for": "203.0.113.7, unknown"}, "10.0.0.1"),
    "no address farther": ("10.0.0.1", {"x-forwarded-for": "6.6.6.6, \xff, 10.0.0.2"}, "10.0.0.2"),
    "with a port": ("10.0.0.1", {"x-forwarded-for": "203.0.113.7:4711"}, "203.0.113.7"),
    "IPv6": ("2001:db8::1", {"x-forwarded-for": "2001:db9::7"}, "2001:db9::7"),
    "IPv6 with a port": ("2001:db8::1", {"x-forwarded-for": "[2001:db9::7]:80"}, "2001:db9::7"),
    "IPv6 with a zone": ("2001:db8::1", {"x-forwarded-for": "fe80::1%" + "A" * 500}, "fe80::1"),
    "IPv4 on an IPv6 socket": ("::ffff:10.0.0.1", {"x-forwarded-for": "203.0.113.7"}, "203.0.113.7"),
    "Forwarded": ("10.0.0.1", {"forwarded": 'for=6.6.6.6, For="[2001:db9::7]:80";proto=https;by=x'}, "2001:db9::7"),
    "Forwarded without for": ("10.0.0.1", {"forwarded": "proto=https"}, "10.0.0.1"),
    "both": ("10.0.0.1", {"forwarded": "for=6.6.6.6", "x-forwarded-for": "203.0.113.7"}, "203.0.113.7"),
    "much": ("10.0.0.1", {"forwarded": "a" * 60_000, "x-forwarded-for": ",;=" * 20_000}, "10.0.0.1"),
    "many": ("10.0.0.1", {"x-forwarded-for": "10.0.0.2," * 6_000}, "10.0.0.2"),
}
PATHS: dict[str, tuple[str, bytes, str, bytes]] = {
    "kept by the proxy": ("/llm/v1/models", b"/llm/v1/models", "/v1/models", b"/v1/models"),
    "removed by the proxy": ("/v1/models", b"/v1/models", "/v1/models", b"/v1/models"),
    "alone": ("/llm", b"/llm", "/", b"/"),
    "alone with a slash": ("/llm/", b"/llm/", "/", b"/"),
    "of another path": ("/llmx/v1", b"/llmx/v1", "/llmx/v1", b"/llmx/v1"),
    "twice": ("/llm/llm/v1", b"/llm/llm/v1", "/llm/v1", b"/llm/v1"),
    "with an encoded slash": ("/llm/v1/models", b"/llm%2Fv1/models", "/v1/models", b"/v1/models"),
    "encoded": ("/llm/a b", b"/%6Clm/a%20b", "/a b", b"/a%20b"),
}


async def passed(proxied: dict[str, Any], **rules: Any) -> dict[str, Any]:
    """Return the scope that the application behind the middleware gets."""
    got: list[dict[str, Any]] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        got.append(dict(scope))

    async def unused(*_: Any) -> Any: ...

    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in proxied.pop("headers", {}).items()]
    path = {"path": "/", "raw_path": b"/", "scheme": "http", "client": ("10.0.0.1", 5)}
    await ReverseProxy(app, **rules)({"type": "http", "headers": headers, **path, **proxied}, unused, unused)
    return got[0]


@each_row(("peer", "headers", "client"), CLIENTS.values())
async def test_the_client_is_the_last_address_that_is_no_trusted_proxy(
    peer: str, headers: dict[str, str], client: str
) -> None:
    scope = await passed({"client": (peer, 5), "headers": headers}, trusted=TRUSTED)
    assert scope["client"][0] == client


@each_row(("path", "raw", "shown", "shown_raw"), PATHS.values())
async def test_a_paths_prefix_is_removed_once(path: str, raw: bytes, shown: str, shown_raw: bytes) -> None:
    scope = await passed({"path": path, "raw_path": raw}, root_path="/llm")
    assert (scope["path"], scope["raw_path"]) == (shown, shown_raw)


async def test_scheme_and_host_are_believed_from_trusted_proxies_only() -> None:
    headers = {"x-forwarded-proto": "HTTPS", "x-forwarded-host": "llm.example", "host": "gateway:8200"}
    scope = await passed({"headers": headers}, trusted=TRUSTED)
    assert scope["scheme"] == "https"
    assert (b"x-forwarded-host", b"llm.example") in scope["headers"]
    scope = await passed({"headers": headers, "client": ("192.0.2.1", 5)}, trusted=TRUSTED)
    assert (scope["scheme"], scope["client"]) == ("http", ("192.0.2.1", 5))
    assert (b"x-forwarded-host", b"llm.example") not in scope["headers"]
    for unfit in ("javascript", "ws", ""):
        assert (await passed({"headers": {"x-forwarded-proto": unfit}}, trusted=TRUSTED))["scheme"] == "http"
    scope = await passed({"headers": {"forwarded": "for=1.2.3.4;proto=https"}}, trusted=TRUSTED)
    assert (scope["scheme"], scope["client"]) == ("https", ("1.2.3.4", 0))
