"""Boundaries of budgets' periods, on the clocks of zones that change them."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.budget import PeriodName
from llm_gateway.domain.budget_period import FAR_MS, period_at

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo")
MOMENTS_MS = st.integers(1_262_304_000_000, 2_051_222_400_000)  # 2010 to 2034
ANCHORS = {"hour": 0, "day": 23, "week": 7, "month": 28, "quarter": 28}


def _ms(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


@pytest.mark.parametrize(
    ("name", "zone", "anchor", "at", "start", "end"),
    [
        ("day", "Europe/Berlin", 0, "2026-03-29T12:00Z", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ("day", "Europe/Berlin", 2, "2026-03-29T00:59Z", "2026-03-28T02:00+01:00", "2026-03-29T03:00+02:00"),
        ("day", "Europe/Berlin", 2, "2026-03-29T01:00Z", "2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"),
        ("day", "Europe/Berlin", 2, "2026-10-25T01:30Z", "2026-10-25T02:00+02:00", "2026-10-26T02:00+01:00"),
        ("day", "America/Sao_Paulo", 0, "2018-11-04T03:00Z", "2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00"),
        ("week", "UTC", 7, "2026-11-28T00:00Z", "2026-11-22T00:00Z", "2026-11-29T00:00Z"),
        ("week", "UTC", 1, "2026-11-23T00:00Z", "2026-11-23T00:00Z", "2026-11-30T00:00Z"),
        ("month", "America/New_York", 28, "2026-03-01T00:00Z", "2026-02-28T00:00-05:00", "2026-03-28T00:00-04:00"),
        ("quarter", "Asia/Kolkata", 15, "2026-01-03T00:00Z", "2025-10-15T00:00+05:30", "2026-01-15T00:00+05:30"),
        ("hour", "Asia/Kolkata", 0, "2026-11-28T00:45Z", "2026-11-28T05:30+05:30", "2026-11-28T06:30+05:30"),
    ],
)
def test_a_period_is_between_two_boundaries_on_the_zones_clock(
    name: PeriodName, zone: str, anchor: int, at: str, start: str, end: str
) -> None:
    assert period_at(name, ZoneInfo(zone), anchor, _ms(at)) == (_ms(start), _ms(end))


def test_a_total_never_ends() -> None:
    assert period_at("total", ZoneInfo("UTC"), 1, _ms("2026-11-28T00:00Z")) == (0, FAR_MS)


@given(st.sampled_from([*ANCHORS]), st.sampled_from(ZONES), MOMENTS_MS)
def test_each_moment_is_in_one_period(name: PeriodName, zone: str, at_ms: int) -> None:
    clock, anchor = ZoneInfo(zone), ANCHORS[name]
    period = period_at(name, clock, anchor, at_ms)
    assert period.start_ms <= at_ms < period.end_ms
    assert period_at(name, clock, anchor, period.start_ms) == period
    assert period_at(name, clock, anchor, period.end_ms - 1) == period
    assert period_at(name, clock, anchor, period.end_ms).start_ms == period.end_ms


@pytest.mark.parametrize("zone", ZONES)
def test_the_days_of_a_year_with_changes_of_the_clock_follow_each_other(zone: str) -> None:
    clock, start_ms, end_ms = ZoneInfo(zone), _ms("2018-01-01T00:00Z"), _ms("2019-01-01T00:00Z")
    days = [period_at("day", clock, 2, at_ms) for at_ms in range(start_ms, end_ms, 3_600_000)]
    for one, other in pairwise(dict.fromkeys(days)):
        assert one.end_ms == other.start_ms
