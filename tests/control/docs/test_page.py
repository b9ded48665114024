"""GET /docs: a page that asks for the key, then loads the document and Swagger UI's files from the gateway with it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from llm_gateway.control.docs.routes import docs_page_router, docs_router
from llm_gateway.control.management.app import build_management
from llm_gateway.docs_page.page import build_page
from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.gate.in_flight import InFlight
from tests.application.driver import DEV_KEY, READS_ONLY, Client, assert_problem, ignore

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
ASSETS = {"/docs/swagger-ui.css": "text/css", "/docs/swagger-ui-bundle.js": "text/javascript"}


class Page(HTMLParser):
    """Elements of an HTML page: the attributes by tag, and the texts of its style and script."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.sources: dict[str, str] = {}
        self.feed(body.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.attributes.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note the text of a style or script."""
        if self.cdata_elem is not None:
            self.sources[self.cdata_elem] = self.sources.get(self.cdata_elem, "") + data

    def tags(self, name: str) -> list[dict[str, str | None]]:
        """Return the attributes of each element of this name."""
        return [attributes for tag, attributes in self.attributes if tag == name]


def policy_of(headers: Any) -> dict[str, str]:
    parts = (part.strip().partition(" ") for part in headers["content-security-policy"].split(";"))
    return {name: sources for name, _, sources in parts}


def hashed(content: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"


@READS_ONLY
async def test_the_page_is_the_same_with_and_without_a_key(reader: Client) -> None:
    opened = await reader.call("GET", "/docs")
    asked = await Client(reader.app, key=None).call("GET", "/docs", headers=BROWSER)
    assert (opened.status, opened.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (asked.status, asked.headers["www-authenticate"]) == (401, "Bearer")
    assert asked.body == opened.body
    own = {"content-type", "content-security-policy", "x-content-type-options", "referrer-policy", "cache-control",
           "vary"}  # fmt: skip
    assert {name: asked.headers[name] for name in own} == {name: opened.headers[name] for name in own}
    assert_problem(await Client(reader.app, key=None).call("GET", "/docs"), 401, "unauthorized")


@READS_ONLY
async def test_the_page_runs_and_loads_nothing_but_what_the_gateway_serves(reader: Client) -> None:
    page = await reader.call("GET", "/docs")
    assert "://" not in page.body.decode()
    assert re.findall(r'(?:src|href)="([^"]*)"', page.body.decode()) == ["data:,"]
    sources = Page(page.body).sources
    loaded = {tag: [hashed(sources[tag].encode())] for tag in ("script", "style")}
    for path, media_type in ASSETS.items():
        assert f'"{path}"' in sources["script"]
        asset = await reader.call("GET", path)
        assert (asset.status, asset.headers["content-type"].partition(";")[0]) == (200, media_type)
        assert int(asset.headers["content-length"]) == len(asset.body) > 100
        loaded["script" if path.endswith(".js") else "style"].append(hashed(asset.body))
        asset.body.decode("utf-8")  # the page hashes and inserts it as text
    assert policy_of(page.headers) == {
        "default-src": "'none'", "script-src": " ".join(loaded["script"]), "style-src": " ".join(loaded["style"]),
        "img-src": "data:", "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'",
        "frame-ancestors": "'none'",
    }  # fmt: skip


@READS_ONLY
async def test_all_that_the_page_loads_needs_the_key(reader: Client) -> None:
    for path in (*ASSETS, "/openapi.json"):
        assert_problem(await Client(reader.app, key=None).call("GET", path, headers=BROWSER), 401, "unauthorized")


@READS_ONLY
async def test_the_page_asks_for_the_key_in_a_form_that_sends_it_nowhere(reader: Client) -> None:
    page = Page((await reader.call("GET", "/docs")).body)
    assert page.tags("form") == [{}]
    [key] = page.tags("input")
    assert (key["type"], key["id"], key["autocomplete"], "name" in key) == ("password", "key", "off", False)
    assert {"autofocus", "required"} <= set(key)
    assert page.tags("label") == [{"for": "key"}]
    assert {"id": "problem", "role": "alert"} in page.tags("p")
    assert page.tags("meta")[1] == {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    assert "color-scheme: light dark" in page.sources["style"]


@READS_ONLY
async def test_the_script_keeps_the_key_for_the_tab_only_and_sends_it_in_the_header_only(reader: Client) -> None:
    script = Page((await reader.call("GET", "/docs")).body).sources["script"]
    assert set(re.findall(r"(?:local|session)Storage\.\w+", script)) == {
        "sessionStorage.setItem", "sessionStorage.getItem", "sessionStorage.removeItem", "localStorage.removeItem",
    }  # fmt: skip
    assert script.count("fetch(") == 1
    assert 'fetch(location.origin + root + path, { headers: { "X-Service-Key": key } })' in script
    for name in ("document.cookie", "innerHTML", "eval(", "persistAuthorization"):
        assert name not in script


@READS_ONLY
async def test_what_the_page_uses_of_swagger_ui_has_the_same_names_there(reader: Client) -> None:
    sources = Page((await reader.call("GET", "/docs")).body).sources
    bundle = (await reader.call("GET", "/docs/swagger-ui-bundle.js")).body.decode()
    used = set(re.findall(r"\.(response[a-z_-]*|scheme-container|authorization__btn)\b", "".join(sources.values())))
    assert used == {
        "response", "response-col_status", "response-col_description", "response-col_description__inner",
        "response-col_links", "scheme-container", "authorization__btn",
    }  # fmt: skip
    for name in (*used, "data-code", "SwaggerUIBundle", "preauthorizeApiKey"):
        assert name in bundle
        assert name in "".join(sources.values())
    assert "html.dark-mode" in (await reader.call("GET", "/docs/swagger-ui.css")).body.decode()
    schemes = (await reader.call("GET", "/openapi.json")).json["components"]["securitySchemes"]
    assert 'preauthorizeApiKey("ServiceKey", key)' in sources["script"]
    assert schemes["ServiceKey"] == {"type": "apiKey", "in": "header", "name": "X-Service-Key"}


def test_the_page_names_the_public_development_key_only_if_it_is_valid() -> None:
    assert f"In dev mode the key is <code>{DEV_KEY}</code>." in build_page(DEV_KEY).body.decode()
    other = build_page(None).body.decode()
    assert DEV_KEY not in other
    assert "LLM_GATEWAY_SERVICE_KEYS" in other
    assert "{" + "hint}" not in other


@READS_ONLY
@pytest.mark.parametrize("path", [*ASSETS, "/openapi.json"])
async def test_what_the_page_loads_can_do_nothing_when_opened_by_itself(reader: Client, path: str) -> None:
    headers = (await reader.call("GET", path)).headers
    assert policy_of(headers) == {
        "default-src": "'none'", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'"
    }  # fmt: skip
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "private" in headers["cache-control"]


@READS_ONLY
@pytest.mark.parametrize(
    "path",
    [
        "/docs/",
        "/docs/x",
        "/docs/../core.py",
        "/docs/%2e%2e/core.py",
        "/docs/redoc.standalone.js",
        "/docs/favicon.png",
        "/redoc",
    ],
)
async def test_other_files_of_the_package_are_not_served(reader: Client, path: str) -> None:
    assert_problem(await reader.call("GET", path), 404, "not_found")


@READS_ONLY
async def test_the_docs_are_read_only(reader: Client) -> None:
    for path in ("/docs", "/docs/swagger-ui.css", "/openapi.json"):
        response = await reader.call("POST", path)
        assert_problem(response, 405, "method_not_allowed")
        assert response.headers["allow"] == "GET, HEAD"
        assert (await reader.call("HEAD", path)).status == 200


async def test_without_the_package_the_document_and_the_page_are_still_served() -> None:
    logged: list[Any] = []
    page = build_page(None, "no_such_package")
    management = build_management(
        [docs_page_router(page), docs_router(lambda: b"{}", "no_such_package")],
        lambda *_, **__: logged.append(_),
        InFlight(10, 10_000_000),
    )
    client = Client(Gate(management, Keyring([("dev", DEV_KEY, frozenset({"read"}))]), local_only=True, log=ignore))
    problem = assert_problem(await client.call("GET", "/docs/swagger-ui.css"), 404, "not_found")
    assert "no_such_package" in problem["detail"]
    assert (await client.call("GET", "/openapi.json")).json == {}
    opened = await client.call("GET", "/docs")
    script = Page(opened.body).sources["script"]
    assert policy_of(opened.headers)["script-src"] == hashed(script.encode())
    assert logged == []
