"""Spend: who or what cost how much, by one or two dimensions, with a chart, and as files."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llm_gateway.dashboard.api_client import ApiError, Query
from llm_gateway.dashboard.named_ids import labels_of
from llm_gateway.dashboard.page import Page
from llm_gateway.dashboard.period import WEEK, Period, choices_of, months_of, period_of
from llm_gateway.dashboard.screens.overview import chart_of
from llm_gateway.domain import report_dimensions

DIMENSIONS = tuple((each.name, each.title) for each in report_dimensions.DIMENSIONS)
CHARTED = frozenset(each.name for each in report_dimensions.DIMENSIONS if each.sums != "records")
PARAMETERS = {each.name: each.filter for each in report_dimensions.DIMENSIONS}
"""Filters of reports and of the requests table, by the dimension."""
NARROWER = {
    "team": "key", "key": "service", "service": "model", "provider": "model", "model": "service", "task_type": "model",
    "agent": "model",
}  # fmt: skip
"""The dimension by which the usage of one value is shown next."""
OTHERS = ("model", "service", "key", "provider", "team", "task_type", "agent")
"""Dimensions that can be shown next, if the usage is by the narrower one already."""
FROM_RECORDS = frozenset({"tag", *(each.filter for each in report_dimensions.DIMENSIONS if each.sums != "cube")})
"""Filters that a report by another dimension has for seven days at most, or not at all."""
TAG = "tag:"
ROWS = 100


async def show(page: Page) -> Response:
    """Show the breakdown of a period, of all usage or of that which the address chooses."""
    groups, filters = _groups(page), _filters(page)
    chosen, period = _periods(page, groups, filters)
    breakdown, chart, labels = await asyncio.gather(
        page.api.get("/usage/breakdown", _query(page, period, groups, page.given("cursor"))),
        _chart(page, period, groups[0]),
        labels_of(page, filters),
    )
    grouped: Query = {"group": groups[0], "then": groups[1] if len(groups) > 1 else ""}
    address = {**chosen.kept, **filters, **grouped}
    rows = [{**row, **_links(page, row["group"], period, filters)} for row in breakdown["rows"]]
    return page.render(
        "spend.html",
        title="Spend",
        choice=chosen.choice,
        dates=period.dates,
        is_shortened=period != chosen,
        choices=choices_of(page),
        months=months_of(page),
        dimensions=DIMENSIONS,
        groups=groups,
        names=dict(DIMENSIONS),
        rows=rows,
        totals=breakdown["totals"],
        largest=max((row["cost_usd"] for row in rows), default=0) or 1,
        chart=chart,
        filters=[
            (name, labels.get(name, value), page.link("/spend", {**address, name: None}))
            for name, value in filters.items()
        ],
        all_requests=page.link("/requests", {**filters, **period.kept}),
        more=page.link("/spend", {**address, "cursor": breakdown["next_cursor"]}) if breakdown["next_cursor"] else None,
        csv=page.link("/spend/breakdown.csv", address),
        records_csv=page.link("/spend/export.csv", {**period.kept, **filters, "format": "csv"}),
        focus_csv=page.link("/spend/export.csv", {**period.kept, **filters, "format": "focus"}),
        kept={**chosen.kept, **filters},
        kept_groups={**filters, **grouped},
    )


async def _chart(page: Page, period: Period, group: str) -> Any:
    """Return the chart of a dimension, None if it has none. That of customers is of all together.

    A day's sums of ten thousand customers are as many values: a month of them takes seconds.
    """
    if group not in CHARTED:
        return None
    filters = _filters(page)

    def link(name: str | None, part: Mapping[str, str]) -> str | None:
        if group == "customer":
            return page.link("/requests", {**filters, **part})
        return page.link("/requests", {**filters, group: name, **part}) if name else None

    query = {**period.query, **filters, "metric": "cost_usd", "bucket": period.bucket, "limit": 7}
    if group == "customer":
        return chart_of(await page.api.get("/usage/series", query), period, link, "all customers")
    return chart_of(await page.api.get("/usage/series", {**query, "group_by": group}), period, link)


def _links(page: Page, group: dict[str, str], period: Period, filters: Query) -> dict[str, str | None]:
    """Return the addresses of a row's requests and of its usage by a narrower dimension.

    They are None if no filter of those screens is for one of its values.
    """
    wanted: dict[str, str | int | None] = {**filters}
    for name, value in group.items():
        parameter = "tag" if name.startswith(TAG) else PARAMETERS.get(name, name)
        if not value or (parameter == "tag" and "tag" in wanted):
            return {"requests_link": None, "narrower_link": None}
        wanted[parameter] = f"{name.removeprefix(TAG)}={value}" if parameter == "tag" else value
    requests = page.link("/requests", {**wanted, **period.kept})
    by = None if FROM_RECORDS & wanted.keys() else NARROWER.get([*group][-1])
    if by in wanted:
        by = next((each for each in OTHERS if each not in wanted), None)
    narrower = None if by is None else page.link("/spend", {**period.kept, **wanted, "group": by})
    return {"requests_link": requests, "narrower_link": narrower}


async def download(page: Page) -> Response:
    """Send the breakdown as a CSV file."""
    groups = _groups(page)
    _, period = _periods(page, groups, _filters(page))
    query = {**_query(page, period, groups, ""), "format": "csv", "limit": 10_000}
    return _File(page, "/usage/breakdown", query)


async def export(page: Page) -> Response:
    """Send the records of the period, or their charges by FOCUS, as a CSV file. The API refuses other formats."""
    query = {**period_of(page).query, **_filters(page), "format": page.given("format") or "csv"}
    return _File(page, "/usage/export", query)


def _periods(page: Page, groups: list[str], filters: Query) -> tuple[Period, Period]:
    """Return the chosen period, and that which is shown: its last week, if the report sums single records."""
    period = period_of(page)
    used = {*groups, *(name for name, parameter in PARAMETERS.items() if parameter in filters)}
    is_of_records = any(name == "session" or name.startswith(TAG) for name in used)
    if period.choice == "custom" or not (is_of_records or ("customer" in used and len(used) > 1)):
        return period, period
    return period, period.last_week if period.days > WEEK else period


def _groups(page: Page) -> list[str]:
    first, second = page.given("group", "model"), page.given("then")
    if page.given("by_tag"):
        first = f"{TAG}{page.given('by_tag').removeprefix(TAG)}"
    return [first, second] if second and second != first else [first]


def _filters(page: Page) -> Query:
    """Return the filters in the address by the names of the API's parameters."""
    return {name: page.given(name) for name in PARAMETERS.values() if page.given(name)}


def _query(page: Page, period: Period, groups: list[str], cursor: str) -> Query:
    return {**period.query, **_filters(page), "group_by": ",".join(groups), "cursor": cursor, "limit": ROWS}


class _File(Response):
    """The API's response to a GET, which is a file to save."""

    def __init__(self, page: Page, path: str, query: Query) -> None:
        super().__init__()
        self._page, self._path, self._query = page, path, query

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response on as it comes."""
        try:
            await self._page.api.relay(self._path, self._query, send)
        except ApiError as error:
            await self._page.refused(error)(scope, receive, send)
