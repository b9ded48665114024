"""Overview: what the period cost, how it went, and what needs a look."""

from __future__ import annotations

from collections import Counter
from typing import Any

from starlette.responses import Response

from llm_gateway.dashboard.budget_accounts import nearest
from llm_gateway.dashboard.charts import Series, stacked_bars
from llm_gateway.dashboard.formats import clock_time, day, usd
from llm_gateway.dashboard.page import Page
from llm_gateway.dashboard.period import Period, choices_of, period_of

MOVERS = 5
FAILURES, COUNTED_FAILURES = 8, 100
"""Failures that are shown, and the newest ones that are counted by their code."""


async def show(page: Page) -> Response:
    """Show the overview of a period; who may only make calls is sent to the screen of the own key."""
    if not page.may("own"):
        return page.redirect("/me")
    period = period_of(page)
    series_query = {**period.query, "metric": "cost_usd", "group_by": "model", "bucket": period.bucket, "limit": 7}
    by_model, by_service, series, failed, latency = await page.api.get_all(
        [
            ("/usage/breakdown", {**period.query, "group_by": "model", "limit": 50}),
            ("/usage/breakdown", {**period.query, "group_by": "service", "limit": 500}),
            ("/usage/series", series_query),
            ("/usage/records", {**period.query, "outcome": "error", "limit": COUNTED_FAILURES}),
            ("/usage/latency", period.query),
        ]
    )
    providers, health, unpriced = await _gateway(page)
    budgets = await nearest(page) if page.may("read") else []
    totals = by_model["totals"]
    return page.render(
        "overview.html",
        title="Overview",
        period=period,
        choices=choices_of(page),
        totals=totals,
        chart=chart_of(series, period),
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
        has_vendor=not page.may("read") or any(each["kind"] != "local" for each in providers),
    )


async def _gateway(page: Page) -> tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]:
    """Return providers, health and unpriced models, of which those see nothing who read only their own usage."""
    if not page.may("read"):
        return [], {"status": "ok"}, []
    providers, health, prices = await page.api.get_all([("/providers", None), ("/health", None), ("/prices", None)])
    return providers, health, prices["unpriced"]


def chart_of(series: dict[str, Any], period: Period, unnamed: str = "all others") -> Any:
    """Return the chart of a report's series; `unnamed` is what the line without a name is called."""
    label = clock_time if period.bucket == "hour" else day
    labels = [label(each, period.timezone) for each in series["buckets"]]
    lines = [Series(str(each["name"] or unnamed), each["values"]) for each in series["series"]]
    return stacked_bars(lines, labels, usd)


def _movers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the services whose cost differs most from the period before."""
    moved = [row for row in rows if row["cost_usd"] != row["previous_cost_usd"]]
    return sorted(moved, key=lambda row: -abs(row["cost_usd"] - row["previous_cost_usd"]))[:MOVERS]
