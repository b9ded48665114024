"""Spend: who or what cost how much, by one or two dimensions, with a chart, and as files."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.page import Page
from llm_gateway.dashboard.period import Period, choices_of, period_of
from llm_gateway.dashboard.screens.overview import chart_of

DIMENSIONS = (
    ("model", "Model"),
    ("provider", "Provider"),
    ("key", "Key"),
    ("team", "Team"),
    ("service", "Service"),
    ("customer", "Customer"),
    ("task_type", "Task type"),
    ("agent", "Agent"),
    ("session", "Session"),
)
CHARTED = frozenset({"model", "provider", "key", "team", "service", "task_type", "agent", "customer"})
FILTERS = {"customer": "user_id"}
"""Dimensions whose filter of the requests table has another name."""
TAG = "tag:"
ROWS = 200


async def show(page: Page) -> Response:
    """Show the breakdown of a period."""
    period, groups = period_of(page), _groups(page)
    breakdown = await page.api.get("/usage/breakdown", _query(period, groups, page.given("cursor")))
    chart = await _chart(page, period, groups[0])
    address = {**period.kept, "group": groups[0], "then": groups[1] if len(groups) > 1 else ""}
    rows = [{**row, "requests_link": _requests_of(page, row["group"], period)} for row in breakdown["rows"]]
    return page.render(
        "spend.html",
        title="Spend",
        period=period,
        choices=choices_of(page),
        dimensions=DIMENSIONS,
        groups=groups,
        names=dict(DIMENSIONS),
        rows=rows,
        totals=breakdown["totals"],
        largest=max((row["cost_usd"] for row in rows), default=0) or 1,
        chart=chart,
        all_requests=page.link("/requests", period.kept),
        more=page.link("/spend", {**address, "cursor": breakdown["next_cursor"]}) if breakdown["next_cursor"] else None,
        csv=page.link("/spend/breakdown.csv", address),
        records_csv=page.link("/spend/export.csv", {**period.kept, "format": "csv"}),
        focus_csv=page.link("/spend/export.csv", {**period.kept, "format": "focus"}),
        kept=period.kept,
    )


async def _chart(page: Page, period: Period, group: str) -> Any:
    """Return the chart of a dimension, None if it has none. That of customers is of all together.

    A day's sums of ten thousand customers are as many values: a month of them takes seconds.
    """
    if group not in CHARTED:
        return None
    query = {**period.query, "metric": "cost_usd", "bucket": period.bucket, "limit": 7}
    if group == "customer":
        return chart_of(await page.api.get("/usage/series", query), period, "all customers")
    return chart_of(await page.api.get("/usage/series", {**query, "group_by": group}), period)


def _requests_of(page: Page, group: dict[str, str], period: Period) -> str | None:
    """Return the address of a row's requests; None if no filter of that screen is for one of its values."""
    filters: dict[str, str | int | None] = {}
    for name, value in group.items():
        is_tag = name.startswith(TAG)
        if not value or (is_tag and "tag" in filters):
            return None
        filters["tag" if is_tag else FILTERS.get(name, name)] = f"{name.removeprefix(TAG)}={value}" if is_tag else value
    return page.link("/requests", {**filters, **period.kept})


async def download(page: Page) -> Response:
    """Send the breakdown as a CSV file."""
    query = {**_query(period_of(page), _groups(page), ""), "format": "csv", "limit": 10_000}
    return _File(page, "/usage/breakdown", query)


async def export(page: Page) -> Response:
    """Send the records of the period, or their charges by FOCUS, as a CSV file."""
    kind = "focus" if page.given("format") == "focus" else "csv"
    query = {**period_of(page).query, "format": kind}
    return _File(page, "/usage/export", query)


def _groups(page: Page) -> list[str]:
    first, second = page.given("group", "model"), page.given("then")
    return [first, second] if second and second != first else [first]


def _query(period: Period, groups: list[str], cursor: str) -> dict[str, str | int | None]:
    return {**period.query, "group_by": ",".join(groups), "cursor": cursor, "limit": ROWS}


class _File(Response):
    """The API's response to a GET, which is a file to save."""

    def __init__(self, page: Page, path: str, query: dict[str, str | int | None]) -> None:
        super().__init__()
        self._page, self._path, self._query = page, path, query

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response on as it comes."""
        try:
            await self._page.api.relay(self._path, self._query, send)
        except ApiError as error:
            await self._page.refused(error)(scope, receive, send)
