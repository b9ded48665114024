"""The screens of budgets: make, change, raise and delete one, what its accounts spent, and errors at their fields."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest

from llm_gateway.dashboard.budget_accounts import elapsed_part, request_filters
from tests.application.driver import Client
from tests.control.management.test_providers import created
from tests.dashboard.browser import Browser, text_of
from tests.dashboard.test_pages import text_with
from tests.upstream import MockUpstream

FORM = {
    "name": "CUSTOMERS", "limit": "4", "unit": "requests", "period": "day", "match": "service = shop*\n",
    "per": "user_id", "mode": "soft", "notify_at": "0.8, 1", "timezone": "Europe/Berlin", "carry": "", "anchor": "",
    "overdraft": "", "hold": "expected", "unpriced": "allow",
}  # fmt: skip
ASK = {"user_id": "ann", "service": "shop-1", "prompt": "Hello"}


@pytest.fixture
async def browser(client: Client) -> Browser:
    browser = Browser(client.app)
    assert (await browser.sign_in()).status == 303
    return browser


async def budgets(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.call("GET", "/api/v1/budgets")).json["budgets"]
    return found


async def test_a_budget_is_made_spent_from_changed_raised_and_deleted(
    browser: Browser, client: Client, mock: MockUpstream
) -> None:
    await created(client, base_url=mock.base_url, models=["m"])
    made = await browser.post("/ui/budgets", FORM)
    assert made.status == 201, text_of(made)
    [budget] = await budgets(client)
    assert (budget["limit_requests"], budget["per"], budget["match"]) == (4, "user_id", {"service": "shop*"})
    assert (budget["mode"], budget["notify_at"], budget["timezone"]) == ("soft", [0.8, 1.0], "Europe/Berlin")
    assert (await client.call("POST", "/api/v1/generate", ASK)).status == 200
    path = f"/ui/budgets/{budget['id']}"
    assert "25 %" in text_of(await browser.get("/ui/budgets"))
    page = await browser.get(path)
    assert "ann 1 requests – 4 requests 3 requests 25 %" in text_of(page)
    assert f'href="{path}?account=ann"' in page.body.decode()
    assert re.search(r"Periods .* now 1 requests 1 1 requests 25 %", text_of(page))
    assert re.search(r"Only the account ann .* now 1 requests 25 %", text_of(await browser.get(f"{path}?account=ann")))
    assert "Periods" not in text_of(await browser.get(f"{path}?account=bob"))
    assert "all with this user_id" in text_of(page)  # the screen of requests has no glob for the service
    link = re.search(r'href="(/ui/requests\?user_id=ann&[^"]*)"', unescape(page.body.decode()))
    assert link is not None
    assert "shop-1" in await text_with(browser, link[1], "shop-1")
    overview = text_of(await browser.get("/ui"))
    assert (
        "Budgets nearest to their limit Budget Account Spent Part CUSTOMERS ann 1 requests of 4 requests 25 %"
        in overview
    )
    [record] = (await client.call("GET", "/api/v1/usage/records")).json["records"]
    assert f'href="{path}">CUSTOMERS' in (await browser.get(f"/ui/requests/{record['id']}")).body.decode()

    form = {**FORM, "limit": "8", "mode": "hard"}
    assert (await browser.post(path, form)).headers["location"].startswith(f"{path}?changed=")
    [changed] = await budgets(client)
    assert (changed["limit_requests"], changed["mode"], changed["overdraft_requests"]) == (8, "hard", 1)
    assert "12 %" in text_of(await browser.get(path))  # the account did not begin anew
    raised = {"unit": "requests", "amount": "20", "until": "2099-01-02T03:04"}
    assert (await browser.post(f"{path}/override", raised)).status == 303
    [changed] = await budgets(client)
    assert changed["override"] == {"amount": 20.0, "until": "2099-01-02T02:04:00.000Z"}  # Berlin's clock
    assert "20 requests until" in text_of(await browser.get("/ui/budgets"))
    assert (await browser.post(f"{path}/override/end")).status == 303
    assert (await budgets(client))[0]["override"] is None
    assert (await browser.post(f"{path}/remove")).headers["location"].startswith("/ui/budgets?changed=")
    assert await budgets(client) == []
    assert (await browser.get(path)).status == 404
    assert "deleted" in text_of(await browser.get(f"/ui/requests/{record['id']}"))


async def test_a_refused_form_keeps_what_was_typed_and_says_what_is_wrong_at_each_field(
    browser: Browser, client: Client
) -> None:
    made = await client.call("POST", "/api/v1/budgets", {"name": "core", "limit_usd": "0.000000001"})
    path = f"/ui/budgets/{made.json['id']}"
    for field, value, words in (
        ("limit", "ten", "limit_"),
        ("limit", "", "limit_"),
        ("match", "servise = shop*", "is no dimension"),
        ("match", "service", "takes a glob"),
        ("match", "service = a\nservice = b", "is there twice"),
        ("per", "customer", "is no dimension"),
        ("anchor", "31", "anchor"),
        ("carry", "2", "carry"),
        ("timezone", "Berlin", "is not a time zone"),
        ("notify_at", "80 %", "parts of the limit"),
        ("overdraft", "much", "overdraft_"),
        ("unit", "euros", "limit_euros"),
        ("name", "", "name"),
    ):
        for address in ("/ui/budgets", path):
            response = await browser.post(address, {**FORM, "unit": "usd", field: value})
            page = unescape(response.body.decode())
            assert response.status == 422, (field, value, text_of(response))
            assert words in text_of(response), (field, value, text_of(response))
            assert field in ("unit", "name") or value in page, (field, value)
            assert '<small class="bad">' in page or field == "unit", (field, value)
            assert 'value="user_id"' in page, (field, value)
    assert (await browser.post("/ui/budgets", {**FORM, "name": "core"})).status == 409
    for field, value in (("amount", "ten"), ("until", "2001-01-01T00:00"), ("until", "soon")):
        form = {"unit": "usd", "amount": "7", "until": "2099-01-01T00:00", field: value}
        response = await browser.post(f"{path}/override", form)
        assert response.status == 422, (field, value)
        assert re.search(rf'name="{field}" value="{value}"[^>]* aria-invalid', response.body.decode()), (field, value)
    [budget] = await budgets(client)
    assert (budget["name"], budget["limit_usd"], budget["override"]) == ("core", 1e-09, None)
    assert 'name="limit" value="0.000000001"' in (await browser.get(path)).body.decode()


async def test_a_budget_of_a_team_shows_its_name_and_warns_if_nothing_matches(browser: Browser, client: Client) -> None:
    team = (await client.call("POST", "/api/v1/teams", {"name": "core"})).json
    form = {"name": "CORE", "limit": "12.5", "unit": "usd", "match": "team = core\nmodel = no-such-model"}
    made = await browser.post("/ui/budgets", form)
    assert made.status == 201
    assert "so no request matches" in text_of(made)
    assert "team core model no-such-model" in text_of(made)
    [budget] = await budgets(client)
    assert budget["match"]["team"] == team["id"]
    changed = await browser.post(f"/ui/budgets/{budget['id']}", form)
    assert changed.status == 200
    assert "so no request matches" in text_of(changed)
    assert (await budgets(client))[0]["match"] == budget["match"]


@pytest.mark.parametrize(
    ("match", "per", "value", "query"),
    [
        ({}, None, "", ""),
        ({"service": "s", "model": "*"}, None, "", "service=s"),
        ({"service": "s"}, "user_id", "a&b", "service=s&user_id=a%26b"),
        ({"tag:project": "x"}, "team", "t", "tag=project%3Dx&team=t"),
        ({"service": "s*"}, "user_id", "ann", "user_id=ann"),
        ({"service": "s*"}, None, "", None),
        ({}, "user_id", "", None),
        ({"task_type": "chat"}, None, "", None),
        ({"tag:project": "x"}, "tag:branch", "y", "tag=branch%3Dy"),
    ],
)
async def test_an_account_leads_to_its_requests_as_far_as_there_are_filters(
    match: dict[str, str], per: str | None, value: str, query: str | None
) -> None:
    budget = {"match": match, "per": per, "period": "total"}
    filters, _ = request_filters("Europe/Berlin", budget, "2026-11-01T00:00:00Z", value)
    assert (None if filters is None else urlencode(filters)) == query


def test_requests_of_a_past_period_are_those_between_its_moments() -> None:
    budget = {"match": {"service": "shop"}, "per": None, "period": "hour"}
    for zone, start, end, ends in (
        ("Europe/Berlin", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z", ("2026-11-01", "2026-12-01")),
        ("UTC", "2026-10-31T23:00:00Z", "2026-11-01T00:00:00Z", ("2026-10-31T23:00:00Z", "2026-11-01")),
    ):
        filters, is_exact = request_filters(zone, budget, start, "", end)
        assert filters is not None
        assert is_exact
        assert (filters["service"], filters["from"], filters["to"]) == ("shop", *ends)


def test_a_forecast_needs_a_part_of_the_period_and_an_end() -> None:
    noon = datetime(2026, 11, 16, tzinfo=UTC)
    start, end = "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"
    assert elapsed_part(start, end, noon) == 0.5
    assert elapsed_part(start, None, noon) is None
    assert elapsed_part("2026-11-15T23:00:00Z", end, noon) is None
    assert elapsed_part(start, "2026-11-10T00:00:00Z", noon) is None
