"""The screen of the own key: what it may do and spent, its last requests, and programs with the right address."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from html import unescape
from typing import Any

from tests.application.driver import Client
from tests.application.fixtures import Start
from tests.control.management.test_providers import created
from tests.dashboard.browser import Browser, text_of
from tests.dashboard.test_pages import CANARY, assert_safe, text_with
from tests.upstream import MockUpstream

KEY: dict[str, Any] = {"name": "shop", "scopes": ["call"], "rpm": 50, "models": ["m"], "services": [CANARY, "s*"]}


def panels(page: bytes) -> dict[str, str]:
    """Return the texts to copy, by the name of their tab."""
    found = re.findall(r'<pre [^>]*data-panel="(\w+)"[^>]*>(.*?)</pre>', page.decode(), re.DOTALL)
    return {name: unescape(text) for name, text in found}


async def test_a_key_that_may_only_make_calls_sees_its_own_page_and_no_other(start: Start, mock: MockUpstream) -> None:
    async with start(trusted_proxies="127.0.0.1", root_path="/llm") as app:
        admin = Client(app)
        await created(admin, base_url=mock.base_url, models=["m"])
        made = await admin.call("POST", "/api/v1/keys", KEY)
        assert made.headers["location"] == f"/llm/api/v1/keys/{made.json['id']}"
        secret = made.json["secret"]
        await admin.call("POST", "/api/v1/budgets", {"name": CANARY, "limit_requests": 100, "mode": "soft"})
        for key, customer in ((secret, CANARY), ("dev-gateway-key", "somebody-else")):
            body = {"user_id": customer, "service": "shop", "prompt": "Hello", "model": "m"}
            assert (await Client(app, key).call("POST", "/api/v1/generate", {**body, "service": "s1"})).status == 200
        browser = Browser(app)
        assert (await browser.sign_in(secret)).status == 303
        assert (await browser.get("/ui")).headers["location"] == "/llm/ui/me"
        text = await text_with(browser, "/ui/me", "1 requests")
        assert CANARY in text
        assert "somebody-else" not in text
        assert "50 requests a minute" in text
        assert "May call Models m" in text
        forwarded = {"x-forwarded-host": "llm.example.com", "x-forwarded-proto": "https", "x-forwarded-for": "1.2.3.4"}
        page = await browser.get("/ui/me")
        assert_safe(page)
        assert re.findall(r'<a href="([^"]*)"[^>]*>My key', page.body.decode()) == ["/llm/ui/me"]
        assert "Providers" not in page.body.decode()
        for path in ("/ui/requests", "/ui/spend", "/ui/keys", "/ui/budgets", "/ui/alerts", "/ui/health", "/ui/audit"):
            assert (await browser.get(path)).status == 403, path
        assert "http://localhost:8200/llm/v1" in panels(page.body)["python"]
        secure = Browser(app)
        secure.address = "127.0.0.1"  # the proxy's
        signed_in = await secure.post(
            "/ui/sign-in", {"key": secret, "timezone": "UTC"}, {**forwarded, "origin": "https://localhost:8200"}
        )
        assert signed_in.status == 303
        shown = panels((await secure.get("/ui/me", forwarded)).body)
        assert "https://llm.example.com/llm/v1" in shown["python"]
        check_programs(shown, "https://llm.example.com/llm", "m")


def check_programs(shown: dict[str, str], origin: str, model: str) -> None:
    """Each program is valid where it can be read, and names the address and the model."""
    for name in ("python", "anthropic", "google"):
        ast.parse(shown[name])
        assert f'"{model}"' in shown[name]
    assert f'base_url="{origin}")' not in shown["python"]
    assert f'Anthropic(base_url="{origin}"' in shown["anthropic"]
    assert f'http_options={{"base_url": "{origin}"}}' in shown["google"]
    assert f'baseURL: "{origin}/v1"' in shown["javascript"]
    assert shown["curl"].startswith(f"curl {origin}/api/v1/generate")
    assert f"export ANTHROPIC_BASE_URL={origin}" in shown["claude"]
    codex = tomllib.loads(shown["codex"])
    assert codex["model_providers"]["gateway"]["base_url"] == f"{origin}/v1"
    opencode = json.loads(shown["opencode"].partition("\n")[2].partition("{")[1] + shown["opencode"].partition("{")[2])
    assert opencode["provider"]["gateway"]["options"]["baseURL"] == f"{origin}/v1"
    for name in ("gemini", "qwen", "aider"):
        assert origin in shown[name]
        assert model in shown[name]


async def test_a_stranger_cannot_put_another_address_into_the_programs(client: Client) -> None:
    browser = Browser(client.app)
    await browser.sign_in()
    page = await browser.get("/ui/me", {"x-forwarded-host": "evil.example.com"})
    assert page.status == 200
    assert "evil" not in page.body.decode()
    assert "http://localhost:8200/v1" in panels(page.body)["python"]
    assert "dev" in text_of(page)
