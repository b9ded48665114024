"""Requests: a table with filters and a live tail, and what happened to one request."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from starlette.responses import Response

from llm_gateway.dashboard.named_ids import ids_of, labels_of
from llm_gateway.dashboard.page import Page
from llm_gateway.dashboard.period import choices_of, has_period, months_of, period_of
from llm_gateway.domain.report_dimensions import DIMENSIONS

FILTERS = (
    ("outcome", "Outcome"),
    *((each.filter, each.title) for each in DIMENSIONS),
    ("tag", "Tag"),
    ("error_code", "Error code"),
    ("client_request_id", "Request id"),
    ("cost_status", "Cost is"),
    ("min_cost_usd", "Cost from, $"),
    ("min_latency_ms", "Latency from, ms"),
)
OUTCOMES = ("ok", "cached", "error", "failed", "rate_limited", "cancelled", "no_provider", "refused_budget")
CHOICES = {"outcome": OUTCOMES, "cost_status": ("exact", "estimated", "unpriced")}
PAGE = 50


async def show(page: Page) -> Response:
    """Show a page of the table, or only its rows if the page's script asks for them."""
    filters = {name: page.given(name) for name, _ in FILTERS}
    kept = {name: value for name, value in filters.items() if value}
    period = period_of(page) if has_period(page) else None
    dates = period.query if period else {}
    wanted = {**dates, **await ids_of(page, kept), "cursor": page.given("cursor"), "limit": PAGE}
    found = await page.api.get("/usage/records", wanted)
    address = {**(period.kept if period else {}), **kept}
    return page.render(
        "requests_table.html" if page.is_fragment else "requests.html",
        title="Requests",
        records=found["records"],
        older=page.link("/requests", {**address, "cursor": found["next_cursor"]}) if found["next_cursor"] else None,
        newest=page.link("/requests", address),
        scanned_until=found["scanned_until"],
        is_first=not page.given("cursor"),
        filters=filters,
        names=FILTERS,
        values=CHOICES,
        period=period,
        dates=(period or period_of(page)).dates,
        kept=kept,
        choices=choices_of(page),
        months=months_of(page),
        count_of_filters=len(kept),
    )


async def show_one(page: Page) -> Response:
    """Show one request: in the drawer beside the table, or as a page of its own."""
    record = await page.api.get(f"/usage/records/{page.request.path_params['id']}")
    return page.render(
        "request_details.html" if page.is_fragment else "request.html",
        title="Request",
        record=record,
        labels=await labels_of(page, record),
        attempts=_waterfall(record),
        in_drawer=page.is_fragment,
    )


def _waterfall(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the attempts with their places on a line that is as long as the request took, in percent."""
    attempts = record["attempts"]
    if not attempts:
        return []
    whole = max(1, record["latency_ms"])
    first = attempts[0]["started_at"]
    placed = []
    for attempt in attempts:
        start = min(100.0, 100 * _ms_between(first, attempt["started_at"]) / whole)
        width = max(1.0, min(100 - start, 100 * attempt["latency_ms"] / whole))
        placed.append({**attempt, "start": round(start, 1), "width": round(width, 1)})
    return placed


def _ms_between(one: str, other: str) -> float:
    return (datetime.fromisoformat(other) - datetime.fromisoformat(one)).total_seconds() * 1000
