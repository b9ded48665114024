"""First run: from the first page to an answer of one's own provider in six clicks at most, and pictures for docs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.process import KEY, GatewayProcess, Response
from tests.ui.conftest import Watched, filled_gateway
from tests.upstream.forked import ForkedUpstream

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Request

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MOST_CLICKS = 6
SESSION = "thread 7 & 8"


def test_a_first_answer_takes_six_clicks_and_a_key_one_more_form(chromium: Browser, tmp_path: Path) -> None:
    clicks = 0

    with ForkedUpstream() as vendor, GatewayProcess(tmp_path) as gateway:
        watched = Watched(chromium, gateway)
        page = watched.page

        def click(selector: str) -> None:
            nonlocal clicks
            page.click(selector)
            clicks += 1

        page.goto(f"{watched.root}/ui")
        page.fill("[name=key]", KEY)
        click("button.main")
        click("text=Add a provider")
        page.fill("#add [name=name]", "acme")
        page.fill("#add [name=api_key]", "sk-test")
        page.fill("#add [name=models]", "ok")
        page.fill("#add [name=base_url]", vendor.base_url)
        click("text=Add and test")
        page.goto(f"{watched.root}/ui/playground")
        clicks += 1
        page.fill("[name=prompt]", "Say hello.")
        click("button.main")
        page.wait_for_selector("#answers article .text:not(:empty)")
        page.wait_for_selector("#answers a")
        assert clicks <= MOST_CLICKS
        assert page.locator("#answers .cost").inner_text().endswith("acme: ok")
        page.click("#answers a")
        page.wait_for_selector(".attempt")
        page.goto(f"{watched.root}/ui/keys")
        page.fill("#add [name=name]", "shop")
        page.click("#add button.main")
        secret = page.inner_text("[data-secret]")
        body = {"user_id": "u", "service": "s", "prompt": "Hi"}
        assert gateway.call("POST", "/api/v1/generate", body, key=secret).status == 200
        page.click("[data-tab=python]")
        assert secret in page.inner_text("[data-panel=python]")
        page.click("a[data-use-key]")
        page.wait_for_selector("[data-chosen] option:checked >> text=shop …", state="attached")
        assert page.locator("[data-key-picker] option").count() == 3  # that of the sign-in, the new one, another one
        page.fill("[name=prompt]", "Say hello again.")
        page.click("button.main")
        page.click("#answers a")
        assert "shop" in page.inner_text(".details .facts")
        page.goto(f"{watched.root}/ui/routing")
        page.select_option("[data-chosen] select", label="dev")
        page.click("text=Explain >> nth=-1")
        page.wait_for_selector("[data-explanation] table")
        assert "acme" in page.inner_text("[data-explanation]")
        explain_again(watched, gateway.call("POST", "/api/v1/generate", body, key=secret, **{"x-session-id": SESSION}))
        assert watched.problems == []
        page.close()


def explain_again(watched: Watched, answered: Response) -> None:
    """Follow a request's link to Explain, which fills in its session and the name of its key."""
    page = watched.page
    page.goto(f"{watched.root}/ui/requests/{answered.headers['x-gateway-request-id']}")
    page.click("text=explain it again")
    page.wait_for_selector("[data-chosen] option:checked", state="attached")
    fields = [page.input_value(f"[data-explain] [name={name}]") for name in ("user_id", "service", "session", "as")]
    assert fields == ["u", "s", SESSION, "shop"]
    page.select_option("[data-chosen] select", label="dev")
    page.click("[data-explain] button.main")
    page.wait_for_selector("[data-explanation] >> text=Session: thread 7")
    page.fill("[data-explain] [name=as]", "nobody")
    page.route("**/routing/explain", lambda route: route.fulfill(status=200, json=explained(route.request)))
    page.click("[data-explain] button.main")
    page.wait_for_selector("[data-explanation] >> text=Route: nobody.")
    page.unroute("**/routing/explain")


def explained(request: Request) -> dict[str, object]:
    """Return an explanation whose route is the name of the key that a request to explain has."""
    none: list[object] = []
    return {
        "route": json.loads(request.post_data or "")["key"],
        "session": None,
        "cache": "miss",
        "candidates": none,
        "budgets": none,
    }


def failed_over(gateway: GatewayProcess) -> str:
    """Return the id of an answered request that took two calls."""
    records = gateway.call("GET", "/api/v1/usage/records?outcome=ok&limit=500").json["records"]
    return str(next(record["id"] for record in records if len(record["attempts"]) > 1))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_of_the_documentation(chromium: Browser, tmp_path: Path, scheme: str) -> None:
    """Make the pictures of README and docs; `UI_PICTURES=1` keeps them."""
    with filled_gateway(tmp_path, 4_000, "plain") as gateway:
        gateway.provider(
            "openai", "https://api.openai.com/v1", "gpt-4o-mini"
        )  # without one, the page says how to start
        watched = Watched(chromium, gateway, scheme=scheme)
        watched.sign_in()
        pictures = {"overview": watched.page.screenshot()}
        if scheme == "light":
            watched.open(f"/requests/{failed_over(gateway)}")
            pictures["request"] = watched.page.screenshot()
        assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
        if os.environ.get("UI_PICTURES") == "1":
            IMAGES.mkdir(exist_ok=True)
            for name, picture in pictures.items():
                (IMAGES / f"{name}-{scheme}.png").write_bytes(picture)
        assert watched.problems == []
        watched.page.close()
