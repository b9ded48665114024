"""Responses at `/`: the way to the dashboard for browsers, or a page with an admin port, and JSON for other clients."""

from __future__ import annotations

import re
from typing import Literal

import pytest

from llm_gateway.control.docs.home import home_router
from llm_gateway.control.management.app import build_management
from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.gate.in_flight import InFlight
from llm_gateway.settings import Settings
from tests.application.driver import DEV_KEY, READS_ONLY, Client, assert_problem, ignore

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def with_admin_port(env: Literal["dev", "production"]) -> Client:
    routers = [home_router(Settings(env=env, admin_port=8201))]
    management = build_management(routers, ignore, InFlight(1, 1_000_000))
    return Client(Gate(management, Keyring([]), local_only=False, log=ignore), key=None)


@READS_ONLY
async def test_a_browser_is_sent_to_the_dashboard(reader: Client) -> None:
    response = await Client(reader.app, key=None).call("GET", "/", headers=BROWSER)
    assert (response.status, response.headers["location"], response.headers["vary"]) == (307, "/ui", "accept")


async def test_with_an_admin_port_a_browser_gets_a_page_that_says_what_this_is_and_where_the_key_goes() -> None:
    response = await with_admin_port("dev").call("GET", "/", headers=BROWSER)
    page = response.body.decode()
    assert (response.status, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for said in ("one HTTP API in front of every LLM vendor", "X-Service-Key", "Authorization: Bearer", "x-api-key",
                 "x-goog-api-key", 'href="/docs"', DEV_KEY, "http://localhost:8200/api/v1/generate"):  # fmt: skip
        assert said in page, said
    assert set(re.findall(r'(?:href|src)="([^"]*)"', page)) == {"/ui", "/docs", "/api/v1/health"}
    assert "script" not in page
    assert "default-src 'none'" in response.headers["content-security-policy"]


@READS_ONLY
@pytest.mark.parametrize("headers", [{}, {"accept": "*/*"}, {"accept": "application/json"}])
async def test_other_clients_get_json(reader: Client, headers: dict[str, str]) -> None:
    response = await Client(reader.app, key=None).call("GET", "/", headers=headers)
    assert response.headers["content-type"] == "application/json"
    assert response.json == {
        "service": "llm-gateway", "api": "/api/v1", "docs": "/docs", "health": "/api/v1/health"
    }  # fmt: skip


@READS_ONLY
async def test_another_method_is_refused(reader: Client) -> None:
    assert_problem(await reader.call("POST", "/", {}), 405, "method_not_allowed")
    assert_problem(await Client(reader.app, key=None).call("POST", "/", {}), 401, "unauthorized")


@pytest.mark.parametrize("host", ["<script>alert(1)</script>", "a b", "", "x" * 300])
async def test_without_the_development_key_the_page_names_none_and_repeats_no_odd_host(host: str) -> None:
    page = (await with_admin_port("production").call("GET", "/", headers=BROWSER, host=host)).body.decode()
    assert DEV_KEY not in page
    assert "LLM_GATEWAY_SERVICE_KEYS" in page
    assert "http://localhost:8200/api/v1/generate" in page
    assert "script" not in page
