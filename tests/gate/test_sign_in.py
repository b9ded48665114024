"""The page on which a browser enters a key, for the documentation only."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.gate.sign_in import SignInPage
from tests.application.driver import Client, assert_problem, ignore
from tests.gate.test_authentication import KEYS, inside

PAGE = SignInPage(b"<!doctype html><p>Enter a key", {"content-security-policy": "default-src 'none'", "vary": "accept"})

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
def gate_with_page() -> Client:
    return Client(Gate(inside, Keyring(KEYS), local_only=True, log=ignore, sign_in_page=PAGE), key=None)


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"x-service-key": "key-of-nobody"},
        {"x-service-key": "<script>"},
        {"authorization": "Basic bWU6a2V5LW9mLWFsbA=="},
        {"x-service-keys": "key-of-all"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_browser_at_the_docs_gets_the_sign_in_page_without_a_prompt(
    gate_with_page: Client, method: str, sent: dict[str, str]
) -> None:
    response = await gate_with_page.call(method, "/docs?key=key-of-all", headers={**BROWSER, **sent})
    assert (response.status, response.body) == (401, PAGE.body)
    headers = dict(response.headers)
    assert UUID(headers.pop("x-request-id")).version == 7
    assert headers == {
        "content-type": "text/html; charset=utf-8", "content-length": str(len(PAGE.body)),
        "www-authenticate": "Bearer", "x-should-retry": "false", **PAGE.headers,
    }  # fmt: skip


async def test_the_sign_in_page_echoes_a_clients_own_request_id(gate_with_page: Client) -> None:
    response = await gate_with_page.call("GET", "/docs", headers={**BROWSER, "x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize(
    ("method", "path", "accept"),
    [
        ("GET", "/docs", None),
        ("GET", "/docs", "*/*"),
        ("GET", "/docs", "application/json"),
        ("POST", "/docs", "text/html"),
        ("GET", "/docs/", "text/html"),
        ("GET", "/docsx", "text/html"),
        ("GET", "/docs/swagger-ui.css", "text/html"),
        ("GET", "/openapi.json", "text/html"),
        ("GET", "/api/v1/providers", "text/html"),
    ],
)
async def test_other_clients_and_other_paths_get_the_problem(
    gate_with_page: Client, method: str, path: str, accept: str | None
) -> None:
    response = await gate_with_page.call(method, path, headers={"accept": accept} if accept else {})
    assert_problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_a_browser_gets_other_errors_of_the_docs_as_problems(gate_with_page: Client) -> None:
    scope = await gate_with_page.call("GET", "/docs", headers={**BROWSER, "x-service-key": "key-of-caller"})
    assert_problem(scope, 403, "forbidden")
    assert_problem(await gate_with_page.call("GET", "/docs", headers=BROWSER, host="evil.example"), 403, "forbidden")
    two = {**BROWSER, "x-service-key": "key-of-all", "x-api-key": "key-of-reader"}
    assert_problem(await gate_with_page.call("GET", "/docs", headers=two), 400, "bad_request")


async def test_a_browser_with_a_key_passes_the_sign_in_page(gate_with_page: Client) -> None:
    response = await gate_with_page.call("GET", "/docs", headers={**BROWSER, "x-service-key": "key-of-reader"})
    assert (response.status, response.body) == (200, b"reader")


async def test_a_sign_in_page_is_logged_as_a_refused_request() -> None:
    logged: list[dict[str, Any]] = []
    gate = Gate(
        inside, Keyring(KEYS), local_only=True, log=lambda _, **fields: logged.append(fields), sign_in_page=PAGE
    )
    await Client(gate, key=None).call("GET", "/docs", headers=BROWSER)
    [line] = logged
    assert (line["path"], line["status"], line["error_code"]) == ("/docs", 401, "unauthorized")
