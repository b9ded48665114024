"""Convert LiteLLM's budget of the whole proxy to a budget of all requests, if the gateway has the same period.

See https://docs.litellm.ai/docs/proxy/users and https://docs.litellm.ai/docs/proxy/budget_reset_and_tz.
"""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from llm_gateway.cli.litellm.models import Models

SETTINGS = frozenset({"max_budget", "budget_duration", "timezone"})
"""Settings of `litellm_settings` that are carried over here, or noted."""
NAME = "ALL"
PERIODS = {"1h": "hour", "24h": "day", "1d": "day", "7d": "week", "1w": "week", "30d": "month", "1mo": "month"}
"""Periods by duration. LiteLLM's begin at midnight, on Monday and on the first of the month, too."""
MAX_USD, DECIMALS = 1_000_000_000, 9


def carried_budgets(settings: dict[str, Any], models: Models) -> list[dict[str, Any]]:
    """Return the budgets of `litellm_settings`, and note what is not carried over."""
    problem = _problem(settings)
    if problem is not None:
        for name in sorted(SETTINGS & settings.keys()):
            models.note(("litellm_settings", name), f"{name} is not carried over: {problem}")
        return []
    budget = {"name": NAME, "limit_usd": settings["max_budget"], "period": "total"}
    if settings.get("budget_duration") is not None:
        budget["period"] = PERIODS[settings["budget_duration"]]
    zone = settings.get("timezone")
    if _is_zone(zone):
        budget["timezone"] = zone
    elif zone is not None:
        models.note(
            ("litellm_settings", "timezone"),
            "timezone is not carried over: no such zone is known, so that UTC holds",
        )
    # LiteLLM lets models through whose price it does not know.
    return [{**budget, "unpriced": "allow"}]


def _problem(settings: dict[str, Any]) -> str | None:
    """Return why there is no budget."""
    limit, duration = settings.get("max_budget"), settings.get("budget_duration")
    if limit is None:
        return "it means nothing without max_budget: each budget of the gateway has a period and a timezone"
    is_number = isinstance(limit, int | float) and not isinstance(limit, bool)
    if not is_number or not 0 < limit <= MAX_USD or round(limit, DECIMALS) != limit:
        return f"max_budget must be an amount in USD above 0 with up to {DECIMALS} decimals: add a budget of your own"
    if duration is not None and (not isinstance(duration, str) or duration not in PERIODS):
        return (
            "budget_duration is not a period of the gateway (hour, day, week, month, quarter, total): add a "
            "budget to the section budgets"
        )
    return None


def _is_zone(name: object) -> bool:
    try:
        return isinstance(name, str) and bool(ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
