"""Page at `/docs`: it asks for a service key once, then shows the OpenAPI document with Swagger UI.

A browser cannot send the key when it opens an address, so the page is the response with and without a key. It contains
nothing that needs one: its script (page.js) loads the document and Swagger UI's files with the key that was entered.
"""

from __future__ import annotations

from functools import cache
from html import escape
from importlib import resources

from llm_gateway.docs_page.swagger_ui import ASSETS_PACKAGE, SCRIPT, STYLE, find_asset
from llm_gateway.gate.security_headers import hash_source, security_headers
from llm_gateway.gate.sign_in import SignInPage

DEV_KEY_HINT = "In dev mode the key is <code>{key}</code>."
SERVICE_KEY_HINT = (
    "This page needs a key of <code>LLM_GATEWAY_SERVICE_KEYS</code> with the scope <code>read</code> or "
    "<code>admin</code>: ask the operator of this gateway."
)


@cache
def build_page(dev_key: str | None, package: str = ASSETS_PACKAGE) -> SignInPage:
    """Build the page; a process does so once for each `dev_key`, the public development key if it is valid.

    The page names that key. The Content-Security-Policy allows the page's own script and style and those of Swagger UI,
    by their hashes. Without `package`, which contains Swagger UI's files, the page says so once a key is entered.
    """
    hint = SERVICE_KEY_HINT if dev_key is None else DEV_KEY_HINT.format(key=escape(dev_key))
    style, script = _read("page.css"), _read("page.js")
    body = _read("page.html").replace("{hint}", hint).replace("{style}", style).replace("{script}", script)
    allowed = (
        f"script-src {_hashes(script, SCRIPT, package)}; style-src {_hashes(style, STYLE, package)}; "
        # Swagger UI draws its icons from data: URLs.
        "img-src data:; connect-src 'self'; "
    )
    headers = security_headers(allowed, cache_control="private, no-cache")
    return SignInPage(body.encode(), {**headers, "vary": "accept"})


def _read(name: str) -> str:
    return resources.files("llm_gateway.docs_page").joinpath(name).read_text("utf-8")


def _hashes(own: str, asset: str, package: str) -> str:
    """Return the hashes of the page's own source, and of the file of Swagger UI that the page inserts beside it."""
    path = find_asset(asset, package)
    sources = [own.encode(), *([path.read_bytes()] if path is not None else [])]
    return " ".join(map(hash_source, sources))
