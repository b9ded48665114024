"""Fixtures of the dashboard's tests in a real Chromium (`make test-ui`): gateways with few and many records, and pages.

Without `TEST_UI=1`, which `make test-ui` sets, pytest collects nothing here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.process import KEY, GatewayProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IS_WANTED = os.environ.get("TEST_UI") == "1"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if not IS_WANTED:
    collect_ignore_glob = ["test_*.py"]

# Chromium asks hosts of its vendor for updates otherwise.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
MANY = 100_000


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: install Debian's package chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        yield browser
        browser.close()


class Watched:
    """A page of a gateway that is signed in; `problems` has what must not happen on it."""

    def __init__(self, chromium: Browser, gateway: GatewayProcess, *, scheme: str = "light", width: int = 1280) -> None:
        self.root = f"http://localhost:{gateway.port}"
        self.problems: list[str] = []
        self.page: Page = chromium.new_page(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
            timezone_id="Europe/Berlin",
        )
        self.page.on("console", lambda line: self._note(line.type in ("error", "warning"), line.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append(f"a dialog opened: {dialog.message}"))
        self.page.on("request", lambda request: self._note(not self._is_own(request.url), f"asked {request.url}"))

    def _is_own(self, url: str) -> bool:
        return url.startswith((f"{self.root}/", "data:"))

    def _note(self, is_problem: bool, text: str) -> None:
        if is_problem:
            self.problems.append(text)

    def sign_in(self) -> None:
        """Sign in with the development key."""
        self.page.goto(f"{self.root}/ui")
        self.page.fill("[name=key]", KEY)
        self.page.click("button.main")
        self.page.wait_for_url("**/ui")

    def open(self, path: str) -> None:
        """Open a path below /ui, and wait until nothing is loaded any more."""
        self.page.goto(f"{self.root}/ui{path}")
        self.page.wait_for_load_state("networkidle")


@pytest.fixture(scope="session", params=[0, 1, MANY], ids=lambda count: f"{count}-records")
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Run a gateway whose database has so many records."""
    with filled_gateway(tmp_path_factory.mktemp("ui"), request.param) as gateway:
        yield gateway


def filled_gateway(directory: Path, records: int, *labels: str) -> GatewayProcess:
    """Return a gateway, not yet started, with `records` usage records. `plain` gives them ordinary labels."""
    gateway = GatewayProcess(directory)
    gateway._provide_database()
    path = directory / "data" / "gateway.db"
    subprocess.run([sys.executable, "-m", "tests.ui.sample_records", path, str(records), *labels], check=True)
    return gateway
