"""Sign-in in a real browser: over an identity provider and back, with a password, and a form whose session ended."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.process import GatewayProcess
from tests.identity_provider import CLIENT, SECRET, IdentityProvider, identity_provider
from tests.ui.conftest import Watched
from tests.ui.test_screens import AXE_RULES

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PASSWORD = "correct horse battery"
PICTURES = os.environ.get("SIGN_IN_PICTURES")
"""A directory to look at the pages in."""


@contextmanager
def provider_in_thread() -> Iterator[IdentityProvider]:
    """Run an identity provider in a thread, since Playwright's own loop is in this one."""
    loop, ended = asyncio.new_event_loop(), asyncio.Event()
    started: list[IdentityProvider] = []
    is_ready = threading.Event()

    async def run() -> None:
        async with identity_provider() as provider:
            started.append(provider)
            is_ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    is_ready.wait(10)
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_person_signs_in_over_a_provider_and_with_a_password_and_loses_nothing(
    chromium: Browser, tmp_path: Path, scheme: str, width: int
) -> None:
    with provider_in_thread() as provider:
        settings = {
            "issuer": provider.issuer,
            "client_id": CLIENT,
            "client_secret": SECRET,
            "roles": "llm-admins=admin",
        }
        named = {f"oidc_{name}": value for name, value in settings.items()}
        with GatewayProcess(tmp_path, **named) as gateway:
            watched = Watched(chromium, gateway, scheme=scheme, width=width)
            visits = Visits(watched, f"{scheme}-{width}")
            page = watched.page
            page.goto(f"{watched.root}/ui/people")
            visits.look("sign-in")
            page.click("text=organisation's account")
            page.wait_for_url("**/ui/people")  # a cookie with SameSite=Strict came along
            page.fill("[name=name]", "ann")
            page.fill("[name=password]", PASSWORD)
            page.select_option("[name=role]", "admin")
            visits.look("people")
            page.click("text=Add >> nth=-1")
            page.click("table >> text=ann")
            visits.look("person")
            page.goto(f"{watched.root}/ui/sessions")
            visits.look("sessions")
            page.context.clear_cookies()
            page.goto(f"{watched.root}/ui/sign-in?next=/people")
            page.click("summary")
            page.fill("[name=name]", "ann")
            page.fill("[name=password]", PASSWORD)
            page.click("details button")
            page.wait_for_url("**/ui/people")
            page.fill("[name=name]", "bob")
            page.fill("[name=password]", PASSWORD)
            page.context.clear_cookies()
            page.click("text=Add >> nth=-1")
            page.wait_for_selector("text=Your session has ended")
            watched.problems.clear()  # the browser reports the 401 of a form
            visits.look("ended")
            page.click("text=organisation's account")
            page.wait_for_selector("text=has not been sent yet")
            visits.look("resume")
            page.click("text=Send it now")
            page.wait_for_url("**/ui/people")
            page.wait_for_selector("table >> text=bob")
            assert [
                each for each in watched.problems if not each.startswith(f"asked {provider.issuer}/authorize")
            ] == []
            page.close()


class Visits:
    """Looks at pages: they are accessible, not wider than the window, and shown as pictures if these are wanted."""

    def __init__(self, watched: Watched, name: str) -> None:
        from axe_playwright_python.sync_playwright import Axe

        self._watched, self._axe, self._name = watched, Axe(), name

    def look(self, what: str) -> None:
        """Check the page that is open."""
        page = self._watched.page
        page.wait_for_load_state("networkidle")
        if PICTURES:
            page.screenshot(path=f"{PICTURES}/{what}-{self._name}.png", full_page=True)
        found = self._axe.run(page, options=AXE_RULES)
        assert found.violations_count == 0, f"{what}: {found.generate_report()}"
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), what
