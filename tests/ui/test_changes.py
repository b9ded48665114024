"""Changes in a real browser: undo after one, the choice of a key, and dates that begin with what is shown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.e2e.process import KEY, GatewayProcess
from tests.ui.conftest import Watched
from tests.ui.test_screens import AXE_RULES

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.parametrize("filled", [0], indirect=True)


def test_a_change_is_undone_from_the_page_that_follows(chromium: Browser, filled: GatewayProcess) -> None:
    from axe_playwright_python.sync_playwright import Axe

    made = filled.call("POST", "/api/v1/keys", {"name": "undone", "rpm": 7}).json
    watched = Watched(chromium, filled)
    watched.sign_in()
    page = watched.page
    watched.open(f"/keys/{made['id']}")
    page.click("text=Disable")
    page.wait_for_selector(".toast")
    assert page.inner_text(".toast p") == "The key undone is changed."
    assert "changed=" not in page.url  # a reload does not offer it again
    assert Axe().run(page, options=AXE_RULES).violations_count == 0
    assert filled.call("GET", f"/api/v1/keys/{made['id']}").json["disabled"] is True
    page.focus(".toast button")
    page.keyboard.press("Enter")
    page.wait_for_selector(".toast >> text=It is undone.")
    assert filled.call("GET", f"/api/v1/keys/{made['id']}").json["disabled"] is False
    page.click("[data-close-toast]")
    page.wait_for_selector(".toast", state="detached")
    assert watched.problems == []
    page.close()


def test_the_playground_asks_with_the_key_that_is_chosen(chromium: Browser, filled: GatewayProcess) -> None:
    fields = {"name": "narrow", "models": ["gpt-*"], "rpm": 1200}
    secret = filled.call("POST", "/api/v1/keys", fields).json["secret"]
    reader = filled.call("POST", "/api/v1/keys", {"name": "reader", "scopes": ["read"]}).json["secret"]
    provider = filled.provider("acme", "http://127.0.0.1:9/v1", "gpt-a", models=["gpt-a", "other"])
    watched = Watched(chromium, filled)
    watched.sign_in()
    watched.open("/playground")
    page, hint = watched.page, watched.page.locator("[data-hint]")
    assert page.input_value("[name=key]") == KEY
    assert not page.is_visible("[name=key]")
    assert "Models: all. Limits: none of its own." in hint.inner_text()
    for key, words in (
        (secret, "Models: gpt-*. Limits: 1,200 requests a minute."),
        (reader, "It lacks the scope call"),
    ):
        page.select_option("[data-chosen] select", label="another key …")
        page.fill("[name=key]", key)
        page.press("[name=key]", "Tab")
        page.wait_for_selector(f"[data-hint] >> text={words}")
        assert page.input_value("[name=key]") == key
    watched.open("/playground")
    names = page.locator("[data-chosen] option").all_inner_texts()
    assert [re.sub(r"….*", "…", name) for name in names] == ["dev", "narrow …", "reader …", "another key …"]
    page.select_option("[data-chosen] select", label=names[1])
    assert page.locator("#models option").evaluate_all("all => all.map((each) => each.value)") == ["gpt-a"]
    page.click("[data-forget]")
    assert page.locator("[data-chosen] option").count() == 3
    stored = page.evaluate("JSON.stringify(sessionStorage)")
    assert secret not in stored
    assert reader in stored
    page.click("text=Sign out")
    page.wait_for_url("**/sign-in")
    assert "llm-gateway-key" not in page.evaluate("JSON.stringify(sessionStorage)")
    assert watched.problems == []
    page.close()
    filled.call("DELETE", provider)


def test_enter_in_a_custom_date_shows_these_dates(chromium: Browser, filled: GatewayProcess) -> None:
    watched = Watched(chromium, filled)
    watched.sign_in()
    watched.open("/requests?from=2026-03-01T22:30:00Z&to=2026-03-01T22:45:00Z&service=shop")
    page = watched.page
    assert [page.input_value(f"[name={name}][type=date]") for name in ("from", "to")] == ["2026-03-01", "2026-03-02"]
    page.fill("[name=from][type=date]", "2026-02-01")
    page.press("[name=from][type=date]", "Enter")
    page.wait_for_url("**/requests?service=shop&period=custom&from=2026-02-01&to=2026-03-02")
    assert watched.problems == []
    page.close()
