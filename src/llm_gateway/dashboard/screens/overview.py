"""Overview: what the period cost, how it went, and what needs a look."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from starlette.responses import Response

from llm_gateway.dashboard.budget_accounts import nearest
from llm_gateway.dashboard.charts import Series, stacked_bars
from llm_gateway.dashboard.formats import clock_time, day, usd
from llm_gateway.dashboard.page import Page
from llm_gateway.dashboard.period import Period, choices_of, months_of, period_of
from llm_gateway.dashboard.screens.health import LATE_S

MOVERS = 5
FAILURES, COUNTED_FAILURES = 8, 100
"""Failures that are shown, and the newest ones that are counted by their code."""

Link: TypeAlias = Callable[[str | None, Mapping[str, str]], str | None]
"""Return the address of the requests of a line, None for all others, in a part of a period."""


async def show(page: Page) -> Response:
    """Show the overview of a period; who may only make calls is sent to the screen of the own key."""
    if not page.may("own"):
        return page.redirect("/me")
    period = period_of(page)
    series_query = {**period.query, "metric": "cost_usd", "group_by": "model", "bucket": period.bucket, "limit": 7}
    (
        (by_model, by_service, series, failed, latency),
        (providers, health, unpriced, journal),
        budgets,
    ) = await asyncio.gather(
        page.api.get_all(
            [
                ("/usage/breakdown", {**period.query, "group_by": "model", "limit": 50}),
                ("/usage/breakdown", {**period.query, "group_by": "service", "limit": 500}),
                ("/usage/series", series_query),
                ("/usage/records", {**period.query, "outcome": "error", "limit": COUNTED_FAILURES}),
                ("/usage/latency", period.query),
            ]
        ),
        _gateway(page),
        _budgets(page),
    )
    totals = by_model["totals"]
    return page.render(
        "overview.html",
        title="Overview",
        period=period,
        choices=choices_of(page),
        months=months_of(page),
        totals=totals,
        chart=chart_of(series, period, partial(_requests_of, page)),
        models=by_model["rows"][:8],
        movers=_movers(by_service["rows"]),
        latency=latency,
        failures=failed["records"][:FAILURES],
        codes=Counter(record["error_code"] for record in failed["records"]).most_common(),
        are_all_counted=failed["next_cursor"] is None,
        last_errors={record["provider"]: record for record in reversed(failed["records"])},
        budgets=budgets,
        providers=providers,
        health=health,
        unpriced=unpriced,
        journal=journal,
        late_s=LATE_S,
        has_vendor=not page.may("read") or any(each["kind"] != "local" for each in providers),
    )


def _requests_of(page: Page, model: str | None, part: Mapping[str, str]) -> str | None:
    return page.link("/requests", {"model": model, **part}) if model else None


async def _budgets(page: Page) -> list[dict[str, Any]]:
    return await nearest(page) if page.may("read") else []


async def _gateway(page: Page) -> tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, Any]], Any]:
    """Return providers, health, unpriced models and the journal's state; nothing for a key with the scope own alone."""
    if not page.may("read"):
        return [], {"status": "ok"}, [], None
    wanted = ("/providers", "/health", "/prices", "/state")
    providers, health, prices, state = await page.api.get_all([(path, None) for path in wanted])
    return providers, health, prices["unpriced"], state["journal"]


def chart_of(series: dict[str, Any], period: Period, link: Link, unnamed: str = "all others") -> Any:
    """Return the chart of a report's series; `unnamed` is what the line without a name is called."""
    parts = _parts(series, period)
    label = clock_time if period.bucket == "hour" else day
    labels = [label(each, period.timezone) for each in series["buckets"]]
    lines = [
        Series(
            str(each["label"] or each["name"] or unnamed),
            each["values"],
            [link(each["name"], part) for part in parts],
            link(each["name"], period.kept),
        )
        for each in series["series"]
    ]
    return stacked_bars(lines, labels, usd)


def _parts(series: dict[str, Any], period: Period) -> list[dict[str, str]]:
    """Return the parts of a period that the bars of its chart show, as parameters of a page's address."""
    starts = [each if period.bucket == "hour" else each[:10] for each in series["buckets"]]
    starts[:1] = [period.start] if starts else []
    ends = [*starts[1:], period.end]
    return [{"period": "custom", "from": start, "to": end} for start, end in zip(starts, ends, strict=True)]


def _movers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the services whose cost differs most from the period before."""
    moved = [row for row in rows if row["cost_usd"] != row["previous_cost_usd"]]
    return sorted(moved, key=lambda row: -abs(row["cost_usd"] - row["previous_cost_usd"]))[:MOVERS]
