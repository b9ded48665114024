"""Periods of budgets: from one boundary on the clock of a time zone to the next.

Hours are those of UTC, in any zone. A day has 23 or 25 hours when the clocks change. A boundary at a local time that is
skipped is at the moment of the change, one at a time that comes twice at its first occurrence.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from llm_gateway.domain.budget import PeriodName

HOUR_MS = 3_600_000
FAR_MS = 253_370_764_800_000
"""End of a period without an end: the year 9999, in milliseconds UTC."""


class BudgetPeriod(NamedTuple):
    """A period: milliseconds UTC, the end excluded."""

    start_ms: int
    end_ms: int


def period_at(name: PeriodName, zone: ZoneInfo, anchor: int, at_ms: int) -> BudgetPeriod:
    """Return the period that contains a moment; `anchor` is as in `Budget`."""
    if name == "total":
        return BudgetPeriod(0, FAR_MS)
    if name == "hour":
        start_ms = at_ms - at_ms % HOUR_MS
        return BudgetPeriod(start_ms, start_ms + HOUR_MS)
    local = datetime.fromtimestamp(at_ms / 1000, zone).replace(tzinfo=None, fold=0)
    first = _last_boundary(name, anchor, local)
    start_ms, end_ms = _ms(first, zone), _ms(_next_boundary(name, first), zone)
    # On the day of a change, the local time alone can be on the other side of the boundary.
    if at_ms >= end_ms:
        first = _next_boundary(name, first)
        return BudgetPeriod(end_ms, _ms(_next_boundary(name, first), zone))
    if at_ms < start_ms:
        before = _last_boundary(name, anchor, first - timedelta(seconds=1))
        return BudgetPeriod(_ms(before, zone), start_ms)
    return BudgetPeriod(start_ms, end_ms)


def _last_boundary(name: PeriodName, anchor: int, local: datetime) -> datetime:
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    if name == "day":
        start = midnight.replace(hour=anchor)
        return start if start <= local else start - timedelta(days=1)
    if name == "week":
        return midnight - timedelta(days=(midnight.isoweekday() - anchor) % 7)
    start = midnight.replace(day=anchor)
    if start > local:
        start = _add_months(start, -1)
    return start if name == "month" else _add_months(start, -((start.month - 1) % 3))


def _next_boundary(name: PeriodName, start: datetime) -> datetime:
    if name in ("day", "week"):
        return start + timedelta(days=1 if name == "day" else 7)
    return _add_months(start, 1 if name == "month" else 3)


def _add_months(day: datetime, months: int) -> datetime:
    month = day.year * 12 + day.month - 1 + months
    return day.replace(year=month // 12, month=month % 12 + 1)


def _ms(local: datetime, zone: ZoneInfo) -> int:
    moment = local.replace(tzinfo=zone)
    there_and_back = moment.astimezone(UTC).astimezone(zone).replace(tzinfo=None, fold=0)
    if there_and_back != local:  # skipped: the moment of the change has the offset of before
        moment = _after_the_gap(local, zone)
    return round(moment.timestamp() * 1000)


def _after_the_gap(local: datetime, zone: ZoneInfo) -> datetime:
    """Return the moment of the change that skips a local time: the first one whose local time is not before it."""
    low = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    high = local.replace(tzinfo=zone).astimezone(UTC)
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        if middle.astimezone(zone).replace(tzinfo=None) >= local:
            high = middle
        else:
            low = middle
    return high.replace(microsecond=0)
