"""Each screen in a real browser: nothing forbidden happens, and it is accessible, in both themes and on a phone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.e2e.process import GatewayProcess
from tests.ui.conftest import MANY, Watched, filled_gateway

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


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, list[str]]]:
    """Run a gateway with one thing of each kind, a failing provider and a refused request; also return their pages."""
    with filled_gateway(tmp_path_factory.mktemp("managed"), 40, "plain") as gateway:

        def made(path: str, **fields: object) -> str:
            return f"/{path}/{gateway.call('POST', f'/api/v1/{path}', fields).json['id']}"

        provider = gateway.provider("v", "http://127.0.0.1:9/v1", "m").rpartition("/")[2]
        made("teams", name="core")
        pages = [
            f"/providers/{provider}",
            made("keys", name="k", models=["gpt-*"], rpm=60),
            made("budgets", name="each", per="user_id", limit_usd=5),
            made("budgets", name="none", match={"user_id": "poor"}, limit_usd="0.000000001"),
            made("people", name="ann", role="viewer", password="correct horse battery staple"),
            made("alert-targets", name="ops", kind="webhook", url="http://127.0.0.1:9/").replace(
                "alert-targets", "alerts"
            ),
        ]
        for customer, status in (("poor", 429), ("rich", 502)):
            asked = gateway.ask(user_id=customer, model="m")
            assert asked.status == status, asked.body
            pages.append(f"/requests/{asked.headers['x-gateway-request-id']}")
        yield gateway, ["", "/keys", "/providers", "/people", "/alerts", "/budgets", *pages]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_pages_of_single_things_are_accessible_too(
    chromium: Browser, managed: tuple[GatewayProcess, list[str]], scheme: str, width: int
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    gateway, paths = managed
    watched, axe = Watched(chromium, gateway, scheme=scheme, width=width), Axe()
    watched.sign_in()

    def check(what: str) -> None:
        found = axe.run(watched.page, options=AXE_RULES)
        assert found.violations_count == 0, f"{what}: {found.generate_report()}"
        assert not watched.page.evaluate("document.documentElement.scrollWidth > innerWidth"), what

    for path in paths:
        watched.open(path)
        check(path)
    watched.open("/keys")
    watched.page.fill("#add [name=name]", f"{scheme} {width}")
    watched.page.click("#add button.main")
    watched.page.wait_for_selector("[data-secret]")
    check("a new key")
    watched.open("/requests")
    watched.page.locator("#records tbody a").first.click()
    watched.page.wait_for_selector("#drawer .details")
    check("an open request")
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
