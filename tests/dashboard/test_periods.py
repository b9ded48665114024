"""Periods of the dashboard's reports, and since when the prices in them are in force."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from llm_gateway.dashboard.period import Period
from tests.application.driver import Client
from tests.control.management.test_providers import created
from tests.dashboard.browser import Browser, text_of
from tests.rows import each_row

in_module = pytest.mark.asyncio(loop_scope="module")

FIELD = re.compile(r'<input type="date" name="(from|to)" value="([^"]*)">')


async def signed_in(shared: Client) -> Browser:
    browser = Browser(shared.app)
    assert (await browser.sign_in()).status == 303
    return browser


@each_row(
    ("start", "end", "dates"),
    [
        ("2026-03-01", "2026-04-01", ("2026-03-01", "2026-04-01")),
        ("2026-03-01T22:30:00+00:00", "2026-03-01T23:00:00+00:00", ("2026-03-01", "2026-03-02")),
        ("2026-03-01T23:30:00Z", "2026-03-02T00:30:00Z", ("2026-03-02", "2026-03-03")),
        ("2026-03-01T10:00", "2026-03-01T11:00", ("2026-03-01", "2026-03-02")),
        ("2026-13-01", "yesterday", ("", "")),
        ("0001-01-01T00:00:00+14:00", "9999-12-31T23:00:00Z", ("", "")),
    ],
)
def test_the_fields_of_a_period_have_its_days_on_the_persons_clock(
    start: str, end: str, dates: tuple[str, str]
) -> None:
    assert Period("custom", start, end, "Europe/Berlin").dates == dates


@in_module
async def test_custom_dates_are_those_of_what_is_shown_and_filters_stay(shared: Client) -> None:
    browser = await signed_in(shared)
    moment = quote("2026-03-01T23:30:00+00:00")
    page = (await browser.get(f"/ui/requests?from={moment}&to=2026-03-05&service=shop")).body.decode()
    assert FIELD.findall(page) == [("from", "2026-03-02"), ("to", "2026-03-05")]
    assert page.count('<input type="hidden" name="service" value="shop">') == 3
    for path in ("/ui", "/ui/spend?group=key", f"/ui/requests?from={moment}", "/ui/requests"):
        fields = FIELD.findall((await browser.get(path)).body.decode())
        assert [name for name, value in fields if re.fullmatch(r"\d{4}-\d{2}-\d{2}", value)] == ["from", "to"], path


@in_module
async def test_a_month_is_chosen_by_its_name(shared: Client) -> None:
    browser = await signed_in(shared)
    page = (await browser.get("/ui/spend")).body.decode()
    months = re.findall(r'<option value="(\d{4}-\d{2})">\w+ \d{4}</option>', page)
    assert len(months) == 12
    assert months == sorted(months, reverse=True)
    page = (await browser.get("/ui/spend?period=2024-12")).body.decode()
    assert FIELD.findall(page) == [("from", "2024-12-01"), ("to", "2025-01-01")]
    assert "period=2024-12" in page  # links keep it


@in_module
async def test_a_period_that_does_not_exist_is_refused_with_those_that_do(shared: Client) -> None:
    browser = await signed_in(shared)
    for path in (
        "/ui",
        "/ui/requests",
        "/ui/spend",
        "/ui/providers",
        "/ui/spend/breakdown.csv",
        "/ui/spend/export.csv",
    ):
        for odd in ("2024-13", "0000-01", "9999-12", "30", "Today", "x" * 500):
            page = await browser.get(f"{path}?period={odd}")
            assert page.status == 422, (path, odd)
            assert re.search(
                rf"'{odd[:20]}' is not a period: use today, 7d, 30d, month, last-month, a month such as "
                r"20\d\d-\d\d, or custom with from and to\.",
                text_of(page).replace("&#39;", "'"),
            ), (path, odd)
            assert f'<a href="{path}">To this page without periods and filters</a>' in page.body.decode()
        assert (await browser.get(f"{path}?period=")).status == 200, path
        both = await browser.get(f"{path}?period=7d&to=2026-01-01")
        assert (both.status, "to goes with period=custom only" in text_of(both)) == (422, True), path
    for path in ("/ui", "/ui/requests", "/ui/spend"):  # one end of a custom period is a period
        assert "to must be a date" in text_of(await browser.get(f"{path}?to=x")), path
        assert (await browser.get(f"{path}?period=custom")).status == 200
    export = await browser.get("/ui/spend/export.csv?format=xlsx")
    assert (export.status, "format must be" in text_of(export)) == (422, True)
    end = (datetime.now(UTC).date() + timedelta(days=3)).isoformat()
    shown = (await browser.get(f"/ui/requests?to={end}")).body.decode()
    assert ("to", end) in FIELD.findall(shown)


@in_module
async def test_what_is_summed_from_records_shows_a_week_and_says_so(shared: Client) -> None:
    browser = await signed_in(shared)
    for query in ("group=session", "by_tag=project", "group=model&then=customer", "group=tag:project&then=model"):
        page = await browser.get(f"/ui/spend?period=30d&{query}")
        assert (page.status, "these are the last 7 days" in text_of(page)) == (200, True), query
        file = await browser.get(f"/ui/spend/breakdown.csv?period=30d&{query}")
        assert file.status == 200, query
    assert ">tag:project</option>" in (await browser.get("/ui/spend?by_tag=project")).body.decode()
    for query in ("group=customer", "group=model", "group=session&period=today"):
        page = await browser.get(f"/ui/spend?{query}")
        assert (page.status, "these are the last" in text_of(page)) == (200, False), query
    for period, dates in (("2024-02", ("2024-02-23", "2024-03-01")), ("2024-12", ("2024-12-25", "2025-01-01"))):
        shown = (await browser.get(f"/ui/spend?period={period}&group=session")).body.decode()
        assert FIELD.findall(shown) == [("from", dates[0]), ("to", dates[1])]
        assert f'name="period" value="{period}"' in shown  # by another dimension, the month is shown again
        assert f"period={period}&amp;group=session" in shown  # the file to save is of the same days
        assert f"period=custom&amp;from={dates[0]}&amp;to={dates[1]}" in shown  # the requests of what is shown
    wrong = await browser.get("/ui/spend?group=session&period=custom&from=2026-01-01&to=2026-02-01")
    assert wrong.status == 422


@in_module
async def test_prices_say_since_when_they_are_in_force_and_lead_to_who_uses_them(shared: Client) -> None:
    browser = await signed_in(shared)
    price = {"m": {"input": 1, "output": 2}}
    await created(shared, name="acme", base_url="http://127.0.0.1:9/v1", models=["m"], prices=price)
    [found] = [each for each in (await shared.call("GET", "/api/v1/prices")).json["prices"] if each["model"] == "m"]
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}T[\d:.]+Z", found["in_force_since"])
    page = await browser.get("/ui/prices")
    assert re.search(r"acme m set here \d\d \w{3}, \d\d:\d\d:\d\d 1\.0 2\.0 keys , services", text_of(page))
    assert "/ui/spend?provider=acme&amp;model=m&amp;group=key" in page.body.decode()
