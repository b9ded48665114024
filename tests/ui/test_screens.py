"""Each screen in a real browser: nothing forbidden happens, and it is accessible, in both themes and on a phone."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e.process import GatewayProcess
from tests.ui.conftest import MANY, Watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SCREENS = ("", "/requests", "/spend?group=service&then=model&provider=openai", "/providers", "/keys", "/me", "/budgets",
           "/routing", "/playground", "/prices", "/alerts", "/audit", "/health", "/people", "/sessions")  # fmt: skip
AXE_RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}


def test_each_screen_with_any_number_of_records(chromium: Browser, filled: GatewayProcess) -> None:
    watched = Watched(chromium, filled)
    watched.sign_in()
    for path in SCREENS:
        watched.open(path)
        assert watched.page.locator("h1").inner_text()
    assert watched.problems == []
    watched.page.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_each_screen_is_accessible_and_as_wide_as_the_window(
    chromium: Browser, filled: GatewayProcess, scheme: str, width: int
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    watched, axe = Watched(chromium, filled, scheme=scheme, width=width), Axe()
    watched.sign_in()
    for path in SCREENS:
        watched.open(path)
        found = axe.run(watched.page, options=AXE_RULES)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"
        assert not watched.page.evaluate("document.documentElement.scrollWidth > innerWidth"), path
    assert watched.problems == []
    watched.page.close()


def test_a_request_is_opened_closed_and_followed_with_the_keyboard(chromium: Browser, filled: GatewayProcess) -> None:
    watched = Watched(chromium, filled)
    watched.sign_in()
    watched.open("/requests")
    page = watched.page
    rows = page.locator("#records tbody tr")
    if rows.count():
        rows.first.locator("a").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#drawer .details")
        assert "attempts" in page.locator("#drawer").inner_text().lower()
        page.keyboard.press("Escape")
        page.wait_for_selector("#drawer .details", state="detached")
        assert page.evaluate("document.activeElement.closest('tr') !== null")
    page.check("#live")
    body = {"user_id": "newcomer", "service": "live", "prompt": "Hello"}
    assert filled.call("POST", "/api/v1/generate", body).status in (200, 503)  # without a provider it is a record, too
    page.wait_for_selector("#records >> text=newcomer")
    assert watched.problems == []
    page.close()


def test_keys_go_to_screens_rows_and_forms_until_they_are_switched_off(
    chromium: Browser, filled: GatewayProcess
) -> None:
    watched = Watched(chromium, filled)
    watched.sign_in()
    page, keyboard = watched.page, watched.page.keyboard
    keyboard.press("?")
    assert page.locator("#shortcuts[open]").inner_text().startswith("Keyboard shortcuts")
    keyboard.press("Escape")
    page.wait_for_selector("#shortcuts", state="hidden")
    for letter, path in (("k", "keys"), ("r", "requests")):
        keyboard.press("g")
        keyboard.press(letter)
        page.wait_for_url(f"**/ui/{path}")
        page.wait_for_load_state("networkidle")
    rows = page.locator("#records tbody tr")
    if rows.count() > 1:
        for key, row in (("j", 0), ("j", 1), ("k", 0)):
            keyboard.press(key)
            assert rows.nth(row).evaluate("row => row.contains(document.activeElement)")
    keyboard.press("/")
    keyboard.type("g?k")
    assert page.evaluate("document.activeElement.closest('.filters') !== null")
    assert page.locator("#shortcuts[open]").count() == 0
    watched.open("/keys")
    keyboard.press("a")
    assert page.evaluate("document.activeElement.name") == "name"
    page.click("[data-shortcuts]")
    page.uncheck("#shortcuts-on")
    keyboard.press("Escape")
    watched.open("/keys")
    keyboard.press("a")
    assert page.evaluate("document.activeElement.name") is None
    assert watched.problems == []
    page.close()


def test_tables_are_saved_as_files_and_teams_are_suggested(chromium: Browser, filled: GatewayProcess) -> None:
    filled.call("POST", "/api/v1/teams", {"name": "=core", "description": "services, and more"})
    watched = Watched(chromium, filled)
    watched.sign_in()
    watched.open("/keys")
    page = watched.page
    with page.expect_download() as started:
        page.locator("#teams button.save").click()
    saved = started.value.path().read_text()
    assert started.value.suggested_filename == "keys-and-teams.csv"
    assert saved.startswith('"Team","Description"')
    assert '"\'=core","services, and more"' in saved
    page.fill("#add [name=team]", "COR")
    page.wait_for_selector("#team-names option[value='=core']", state="attached")
    assert watched.problems == []
    page.close()


@pytest.mark.parametrize("filled", [MANY], indirect=True)
def test_first_paint_and_panels_are_quick(chromium: Browser, filled: GatewayProcess) -> None:
    """Print how long each screen takes; bounds of time are for benchmarks."""
    watched = Watched(chromium, filled)
    watched.sign_in()
    timing = (
        "[performance.getEntriesByType('navigation')[0].responseEnd,"
        " performance.getEntriesByName('first-contentful-paint')[0].startTime]"
    )
    for path in SCREENS:
        watched.open(path)
        response_ms, paint_ms = watched.page.evaluate(timing)
        sys.stderr.write(f"{path or '/':40} response {response_ms:5.0f} ms, first paint {paint_ms:5.0f} ms\n")
        assert 0 < response_ms <= paint_ms
    watched.page.close()
