"""Undo: after a change the page offers to restore what was before, unless that is not possible or too late."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.undo import may_be_later, toast_about
from tests.application.driver import Client
from tests.control.management.test_providers import created
from tests.dashboard.browser import Browser, key_with, person, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

VENDOR = "http://127.0.0.1:9/v1"  # nobody listens
UNTIL = "2099-01-01T00:00:00Z"
BUDGET = {
    "name": "shop", "limit_usd": "12.000000001", "notify_at": [0.5], "mode": "soft", "unpriced": "allow",
    "hold": "bound",
}  # fmt: skip
BUDGET_FORM = {
    "name": "shop 2", "limit": "20", "unit": "usd", "period": "month", "match": "", "per": "", "timezone": "UTC",
    "mode": "hard", "notify_at": "", "hold": "expected", "unpriced": "reject", "carry": "0", "anchor": "",
    "overdraft": "",
}  # fmt: skip
KEY = {
    "name": "shop", "models": ["m*"], "max_request_usd": 0.25, "expires_at": UNTIL, "rpm": 7, "tags": {"project": "x"}
}  # fmt: skip
SLACK = {"name": "ops", "kind": "slack", "url": "https://hooks.example.com/token", "events": ["budget.*"]}
OVERRIDE = {"user_id": "ann", "provider_name": "acme", "model_name": "m", "service_name": "s", "allow_fallback": False}


async def signed_in(shared: Client) -> Browser:
    browser = Browser(shared.app)
    assert (await browser.sign_in()).status == 303
    return browser


async def made(shared: Client, path: str, body: dict[str, Any]) -> str:
    response = await shared.call("POST", f"/api/v1{path}", body)
    assert response.status == 201, response.body
    return str(response.json["id"])


async def resource(shared: Client, path: str) -> Any:
    """Return a resource without what no call restores."""
    found = (await shared.call("GET", f"/api/v1{path}")).json
    found = found[0] if isinstance(found, list) and found else found
    gone = ("id", "created_at", "updated_at", "waiting")
    return {name: value for name, value in found.items() if name not in gone} if found else None


async def changed(browser: Browser, path: str, form: dict[str, str]) -> tuple[str, str | None]:
    """Send a form. Returns what the next page says, and the change that it can undo."""
    response = await browser.post(f"/ui{path}", form)
    page = await browser.get(response.headers["location"]) if response.status == 303 else response
    toast = re.search(r'<div class="toast" role="status">(.*?)</div>', page.body.decode(), re.DOTALL)
    assert toast is not None, text_of(page)
    words = re.search(r"<p>(.*)</p>", toast[1])
    change = re.search(r'name="change" value="([^"]+)"', toast[1])
    assert words is not None
    return words[1], change[1] if change else None


async def test_each_change_is_undone_as_it_was(shared: Client) -> None:
    browser = await signed_in(shared)
    provider = (await created(shared, name="acme", base_url=VENDOR, models=["m", "n"], priority=3))["id"]
    key, budget = await made(shared, "/keys", KEY), await made(shared, "/budgets", BUDGET)
    target, ann = await made(shared, "/alert-targets", SLACK), await person(shared, "ann", role="own", customer="c")
    override = await made(shared, "/overrides", OVERRIDE)
    raised = f"/budgets/{budget}/override"
    own_limit = {"unit": "usd", "amount": "30", "until": "2099-01-02T03:04"}
    for at, path, form, words in (
        (f"/providers/{provider}", "", {"display_name": "A", "models": "n", "priority": "9"}, "provider acme is"),
        (f"/providers/{provider}", "/enable", {"enabled": "false"}, "provider acme is changed"),
        (f"/keys/{key}", "", {"name": "k", "models": "", "rpm": "", "max_request_usd": "", "expires_at": ""}, "key k"),
        (f"/keys/{key}", "/disable", {"disabled": "true"}, "key shop is changed"),
        (f"/budgets/{budget}", "", BUDGET_FORM, "budget shop 2 is changed"),
        (f"/budgets/{budget}", "/override", own_limit, "budget shop is changed"),
        (f"/alert-targets/{target}", "/enable", {"enabled": "false"}, "alert target ops is changed"),
        (f"/people/{ann}", "", {"name": "eve", "role": "viewer"}, "person eve is changed"),
        (f"/people/{ann}", "/disable", {"disabled": "true"}, "person ann is changed"),
        ("/overrides", f"/{override}/remove", {}, "override ann is deleted"),
    ):  # fmt: skip
        before = await resource(shared, at)
        screen = at.replace("alert-targets", "alerts").replace("overrides", "routing")
        said, change = await changed(browser, screen + path, form)
        assert words in said
        assert await resource(shared, at) != before, (at, path)
        assert change is not None, (at, path)
        undone = await browser.post("/ui/undo", {"change": change})
        assert undone.status == 303, text_of(undone)
        assert await resource(shared, at) == before, (at, path)
        assert "It is undone." in text_of(await browser.get(undone.headers["location"]))
    await check_raised_budget(browser, shared, budget, raised)


async def check_raised_budget(browser: Browser, shared: Client, budget: str, raised: str) -> None:
    """Another limit until another moment, the same limit until another moment, and its end."""
    first = {"amount_usd": 30, "until": UNTIL}
    assert (await shared.call("PUT", f"/api/v1{raised}", first)).status == 200
    before = await resource(shared, f"/budgets/{budget}")
    for path, form in (
        (raised, {"unit": "usd", "amount": "30", "until": "2098-01-01T00:00"}),
        (raised, {"unit": "usd", "amount": "31", "until": "2099-01-01T01:00"}),  # Berlin's clock: the same moment
        (f"{raised}/end", {}),
    ):
        change = (await changed(browser, path, form))[1]
        assert await resource(shared, f"/budgets/{budget}") != before
        assert (await browser.post("/ui/undo", {"change": change or ""})).status == 303
        assert await resource(shared, f"/budgets/{budget}") == before, form


async def test_what_needs_a_secret_or_loses_amounts_is_not_offered(shared: Client) -> None:
    browser = await signed_in(shared)
    provider = (await created(shared, name="other", base_url=VENDOR, models=["m"]))["id"]
    key, budget = (
        await made(shared, "/keys", {**KEY, "name": "other"}),
        await made(shared, "/budgets", {**BUDGET, "name": "other"}),
    )
    target, ann = await made(shared, "/alert-targets", {**SLACK, "name": "other"}), await person(shared, "other")
    team = await made(shared, "/teams", {"name": "core"})
    url = {"kind": "slack", "name": "other", "url": f"{VENDOR}/other"}
    for path, form in (
        (f"/providers/{provider}", {"display_name": "A", "models": "m", "api_key": "sk-other"}),
        (f"/budgets/{budget}", {**BUDGET_FORM, "name": "other", "per": "user_id"}),
        (f"/budgets/{budget}", {**BUDGET_FORM, "name": "other", "unit": "requests"}),
        (f"/alerts/{target}", url),
        (f"/people/{ann}/password", {"password": "another good password"}),
        (f"/teams/{team}/remove", {}),
        (f"/keys/{key}/remove", {}),
        (f"/budgets/{budget}/remove", {}),
        (f"/alerts/{target}/remove", {}),
        (f"/people/{ann}/remove", {}),
        (f"/providers/{provider}/remove", {}),
    ):
        said, change = await changed(browser, path, form)
        assert change is None, (path, said)
        entry = (await shared.call("GET", "/api/v1/audit?limit=1")).json["entries"][0]
        refused = await browser.post("/ui/undo", {"change": entry["actor"]["request_id"]})
        assert "cannot be undone any more" in text_of(refused), path


async def test_nothing_is_undone_that_was_changed_again_or_by_who_may_not(shared: Client) -> None:
    browser = await signed_in(shared)
    key = await made(shared, "/keys", {**KEY, "name": "again"})
    _, change = await changed(browser, f"/keys/{key}/disable", {"disabled": "true"})
    assert change is not None
    assert (await shared.call("PATCH", f"/api/v1/keys/{key}", {"rpm": 8})).status == 200
    refused = await browser.post("/ui/undo", {"change": change})
    assert (refused.status, "changed again" in text_of(refused)) == (409, True)
    assert (await resource(shared, f"/keys/{key}"))["disabled"] is True
    assert (await browser.post("/ui/undo", {"change": "unknown"})).status == 404
    assert (await browser.post("/ui/undo", {"change": change}, {"origin": "https://evil.example"})).status == 403
    reader = Browser(shared.app)
    assert (await reader.sign_in(await key_with(shared, "read"))).status == 303
    assert (await reader.post("/ui/undo", {"change": change})).status == 403
    assert 'class="toast"' not in (await reader.get(f"/ui/keys?changed={change}")).body.decode()
    assert 'class="toast"' not in (await browser.get("/ui/keys?changed=unknown")).body.decode()


async def test_a_page_goes_without_its_toast_if_the_audit_trail_cannot_be_read() -> None:
    class Unreadable:
        calls = 0

        async def get(self, *_: object) -> None:
            self.calls += 1
            raise ApiError(503, "Unavailable", "The database does not answer.")

    api = Unreadable()
    page: Any = SimpleNamespace(api=api, may=lambda _: True)
    assert await toast_about(page, "request") is None
    assert api.calls == 1


async def test_a_change_of_another_host_may_be_later_than_its_clock_says() -> None:
    entry = {"chain": "a", "number": 7, "at": "2026-03-01T12:00:00Z"}
    for chain, number, second, is_later in (
        ("a", 8, 0, True),
        ("a", 7, 0, False),
        ("a", 6, 0, False),
        ("b", 1, -2, True),
        ("b", 9, -3, False),
        ("b", 1, 1, True),
    ):
        at = f"2026-03-01T{'12:00' if second >= 0 else '11:59'}:{second % 60:02}Z"
        other = {"chain": chain, "number": number, "at": at}
        assert may_be_later(other, entry) is is_later, other
