"""The documentation's page over HTTP: what a browser gets and loads, step by step."""

from __future__ import annotations

import base64
import hashlib

from tests.e2e.process import KEY, GatewayProcess

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def test_a_browser_gets_the_page_without_a_key_and_loads_the_rest_with_it(gateway: GatewayProcess) -> None:
    page = gateway.send("GET", "/docs", None, BROWSER)
    assert (page.status, page.headers.get_all("www-authenticate")) == (401, ["Bearer"])
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert b'type="password"' in page.body
    wrong = gateway.send("GET", "/openapi.json", None, {"X-Service-Key": "wrong"})
    assert (wrong.status, wrong.json["code"]) == (401, "unauthorized")
    assert "/docs" in gateway.call("GET", "/openapi.json").json["paths"]
    policy = page.headers["content-security-policy"]
    for path in ("/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"):
        assert path.encode() in page.body
        assert gateway.send("GET", path, None, BROWSER).status == 401
        content = gateway.call("GET", path).body
        assert f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'" in policy


def test_head_of_the_page_has_the_headers_of_get_and_no_body(gateway: GatewayProcess) -> None:
    for sent, status in ((BROWSER, 401), ({**BROWSER, "X-Service-Key": KEY}, 200)):
        got = gateway.send("GET", "/docs", None, sent)
        head = gateway.send("HEAD", "/docs", None, sent)
        assert (got.status, head.status, head.body) == (status, status, b"")
        one_time = ("date", "x-request-id")
        assert {name: value for name, value in head.headers.items() if name not in one_time} == {
            name: value for name, value in got.headers.items() if name not in one_time
        }
