"""Accounts of budgets for the screens that show what they have spent, and the filters of their requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from llm_gateway import wall_clock
from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.page import Page

UNITS = ("usd", "tokens", "requests")
MOST_RANKED, NEAREST = 50, 5
LEAST_PART = 0.05
"""Part of a period that must be over before what was spent says something about the rest."""
FILTERS = ("team", "key", "user_id", "service", "model", "provider", "session", "agent")
"""Dimensions of budgets that are filters of the screen of requests, besides tags."""


async def with_names(page: Page, budgets: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return budgets with their `unit` and `limit`, and `named_match`: their match with names of teams and keys."""
    found = list(budgets)
    names: dict[str, dict[str, str]] = {"team": {}, "key": {}}
    if any(name in names for budget in found for name in budget["match"]):
        teams, keys = await page.api.get_all([("/teams", {"limit": 1000}), ("/keys", {"limit": 1000})])
        names["team"] = {team["id"]: team["name"] for team in teams["teams"]}
        names["key"] = {key["id"]: key["name"] for key in keys["keys"]}
    shown = []
    for budget in found:
        unit = next(unit for unit in UNITS if budget[f"limit_{unit}"] is not None)
        named = {name: names.get(name, {}).get(glob, glob) for name, glob in budget["match"].items()}
        amounts = {"unit": unit, "limit": budget[f"limit_{unit}"], "overdraft": budget[f"overdraft_{unit}"]}
        shown.append({**budget, **amounts, "named_match": named})
    return shown


async def filled(page: Page, budgets: Iterable[dict[str, Any]], accounts: int) -> list[dict[str, Any]]:
    """Return budgets with the accounts that spent most, at most `accounts` of each, without budgets deleted meanwhile.

    Raises:
        ApiError: the API refused it.
    """

    async def with_accounts(budget: dict[str, Any]) -> dict[str, Any] | None:
        try:
            found = await page.api.get(f"/budgets/{budget['id']}/accounts", {"limit": accounts})
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return {**budget, **{name: found[name] for name in ("accounts", "resets_at")}, "more": found["next_cursor"]}

    return [row for row in await asyncio.gather(*map(with_accounts, budgets)) if row is not None]


async def nearest(page: Page) -> list[dict[str, Any]]:
    """Return those of the first budgets whose fullest account has spent the largest part of its limit."""
    found = await page.api.get("/budgets", {"limit": MOST_RANKED})
    rows = await filled(page, await with_names(page, found["budgets"]), 1)
    spent = [{**row, "account": row["accounts"][0]} for row in rows if row["accounts"]]
    return sorted(spent, key=lambda row: -row["account"]["spent"] / row["account"]["limit"])[:NEAREST]


def elapsed_part(period_start: str, resets_at: str | None, now: datetime) -> float | None:
    """Return which part of a period is over; None if it never ends, or too little is over to tell what comes."""
    if resets_at is None:
        return None
    start, end = datetime.fromisoformat(period_start), datetime.fromisoformat(resets_at)
    part = (now - start) / (end - start)
    return part if LEAST_PART <= part <= 1 else None


def request_filters(
    timezone: str, budget: dict[str, Any], period_start: str, value: str, period_end: str | None = None
) -> tuple[dict[str, str | int | None] | None, bool]:
    """Return filters of the screen of requests for an account, and whether they show its requests only.

    They are those of the period that starts at `period_start`, without `period_end` until now.

    That screen has no globs: without them the filters are those of the account's value, None if there are none.
    """
    exact = {name: glob for name, glob in budget["match"].items() if glob.strip("*")}
    of_value = {budget["per"]: value} if budget["per"] else {}
    filters, is_exact = _filters({**exact, **of_value}), True
    if filters is None:
        filters, is_exact = (_filters(of_value) or None), False
    if filters is None or budget["period"] == "total":
        return filters, is_exact
    zone = ZoneInfo(timezone)
    first = datetime.fromisoformat(period_start).astimezone(zone).date()
    after = wall_clock.now(zone).date() + timedelta(days=1)
    if period_end is not None:
        ends = {"from": _edge(zone, period_start), "to": _edge(zone, period_end)}
        return {**filters, "period": "custom", **ends}, is_exact
    return {**filters, "period": "custom", "from": first.isoformat(), "to": after.isoformat()}, is_exact


def _edge(zone: ZoneInfo, moment: str) -> str:
    """Return a moment as a date if a day begins then."""
    local = datetime.fromisoformat(moment).astimezone(zone)
    return local.date().isoformat() if local.time() == time() else moment


def _filters(conditions: dict[str, str]) -> dict[str, str | int | None] | None:
    """Return the filters that stand for the conditions, None if one of them is not a filter."""
    filters: dict[str, str | int | None] = {}
    for name, wanted in conditions.items():
        is_tag = name.startswith("tag:")
        if not wanted or "*" in wanted or (is_tag and "tag" in filters) or not (is_tag or name in FILTERS):
            return None
        filters["tag" if is_tag else name] = f"{name.removeprefix('tag:')}={wanted}" if is_tag else wanted
    return filters
