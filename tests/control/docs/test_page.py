"""GET /docs serves a page whose scripts, styles and icons all come from the gateway."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llm_gateway.control.docs.page import ASSETS, docs_router
from llm_gateway.control.management.app import build_management
from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.gate.body import InFlight
from tests.application.driver import DEV_KEY, READS_ONLY, Client, assert_problem, ignore


def loaded(page: str) -> list[str]:
    """Return the addresses of all files that the page loads."""
    return re.findall(r'(?:src|href)="([^"]*)"', page)


@READS_ONLY
async def test_the_page_loads_only_what_the_gateway_serves(reader: Client) -> None:
    page = await reader.call("GET", "/docs")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "://" not in page.body.decode()
    paths = loaded(page.body.decode())
    assert {path.rpartition("/")[2] for path in paths} == {*ASSETS, "start.js", "start.css"}
    for path in paths:
        assert re.fullmatch(r"/docs/[a-z.-]+", path)
        asset = await reader.call("GET", path)
        assert asset.status == 200
        media_type = {"js": "text/javascript", "css": "text/css", "png": "image/png"}[path.rpartition(".")[2]]
        assert asset.headers["content-type"].partition(";")[0] == media_type
        assert int(asset.headers["content-length"]) == len(asset.body) > 100
        assert asset.headers["x-content-type-options"] == "nosniff"


@READS_ONLY
async def test_the_page_loads_the_openapi_document_of_this_gateway(reader: Client) -> None:
    start = (await reader.call("GET", "/docs/start.js")).body.decode()
    assert 'location.origin + "/openapi.json"' in start
    assert "://" not in start


@READS_ONLY
async def test_the_page_keeps_the_key_for_the_tab_only_and_folds_errors(reader: Client) -> None:
    start = (await reader.call("GET", "/docs/start.js")).body.decode()
    style = (await reader.call("GET", "/docs/start.css")).body.decode()
    bundle = (await reader.call("GET", "/docs/swagger-ui-bundle.js")).body.decode()
    assert re.findall(r"(?:local|session)Storage\.\w+", start) == [
        "sessionStorage.setItem", "sessionStorage.getItem", "localStorage.removeItem",
    ]  # fmt: skip
    assert "persistAuthorization:" not in start
    kept_by = {"persistAuthorizationIfNeeded", "restoreAuthorization", "authSelectors", "wrapActions", "loaded"}
    assert all(name in start for name in kept_by)
    used = set(re.findall(r"(?:tr|td)\.([a-z_-]+)|:not\(\.(response[a-z_-]+)\)", style + start))
    for name in {first or second for first, second in used} | {"data-code"} | kept_by:
        assert name in bundle, "Swagger UI has it under another name now"


@READS_ONLY
@pytest.mark.parametrize("path", ["/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/openapi.json"])
async def test_the_content_security_policy_allows_only_the_gateway(reader: Client, path: str) -> None:
    headers = (await reader.call("GET", path)).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' data:",
        "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip
    assert headers["referrer-policy"] == "no-referrer"
    assert "private" in headers["cache-control"]


@READS_ONLY
@pytest.mark.parametrize(
    "path", ["/docs/", "/docs/x", "/docs/../core.py", "/docs/%2e%2e/core.py", "/docs/redoc.standalone.js", "/redoc"]
)
async def test_other_files_of_the_package_are_not_served(reader: Client, path: str) -> None:
    assert_problem(await reader.call("GET", path), 404, "not_found")


@READS_ONLY
async def test_the_docs_are_read_only(reader: Client) -> None:
    for path in ("/docs", "/docs/start.js", "/openapi.json"):
        response = await reader.call("POST", path)
        assert_problem(response, 405, "method_not_allowed")
        assert response.headers["allow"] == "GET, HEAD"
        assert (await reader.call("HEAD", path)).status == 200


async def test_without_the_package_the_document_is_still_served() -> None:
    logged: list[Any] = []
    management = build_management(
        [docs_router(lambda: b"{}", "no_such_package")], lambda *_, **__: logged.append(_), InFlight(10, 10_000_000)
    )
    client = Client(Gate(management, Keyring([("dev", DEV_KEY, frozenset({"read"}))]), local_only=True, log=ignore))
    problem = assert_problem(await client.call("GET", "/docs/favicon.png"), 404, "not_found")
    assert "no_such_package" in problem["detail"]
    assert (await client.call("GET", "/openapi.json")).json == {}
    assert logged == []
