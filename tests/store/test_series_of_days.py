"""A series by the day is summed from days, whatever the clock of its time zone does, and wherever its period ends."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.control.management.calendar_period import read_period
from llm_gateway.store.cube import LONG
from llm_gateway.store.cube_periods import Bucket, buckets_of
from llm_gateway.store.database import Database
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME
from llm_gateway.store.rollups import DAY, DAY_MS, HOUR, Grain
from llm_gateway.store.usage import UsageStore
from llm_gateway.store.usage_reports import Grouping, UsageReports
from tests.store.histories import HOUR_MS, NOW_MS, record

BY_MODEL = Grouping((DIMENSION_BY_NAME["model"],))


def number_of(buckets: list[Bucket]) -> Counter[int]:
    """Count buckets by their length in hours."""
    return Counter(bucket.grain.hours for bucket in buckets)


@pytest.mark.parametrize(
    ("dates", "zone", "days"),
    [
        (("2026-03-04", "2026-06-01"), "Europe/Berlin", 89),  # its clock was put forward
        (("2025-10-01", "2025-11-30"), "Europe/Berlin", 60),  # and back
        (("2026-03-01", "2026-03-31"), "America/New_York", 30),
        (("2026-03-01", "2026-03-31T09:00"), "UTC", 31),  # the last day is not over
        (("2026-03-01T15:00", "2026-03-31T09:00"), "Europe/Berlin", 31),
    ],
)
def test_days_are_read_and_the_hours_at_their_ends(
    database: Database, dates: tuple[str, str], zone: str, days: int
) -> None:
    parts = read_period(*dates, zone, NOW_MS).buckets("day")
    assert len(parts) == days
    store, reports = UsageStore(database), UsageReports(database)
    store.write([record(at) for part in parts for at in (part[0], part[1] - HOUR_MS)])
    found = reports.series(BY_MODEL, parts)
    assert [sum(totals.requests for totals in part.values()) for part in found] == [2] * days
    number = number_of(buckets_of(parts))
    at_the_ends = 24  # of a period that begins and ends within a day
    assert number[DAY.hours] <= days + 1
    assert number[HOUR.hours] <= 2 * 5 * (days + 1) + at_the_ends


def test_parts_of_a_day_are_summed_from_hours() -> None:
    parts = read_period("2026-03-01", "2026-03-03", "UTC", NOW_MS).buckets("hour")
    assert number_of(buckets_of(parts)) == {HOUR.hours: 48}


def test_months_are_summed_from_eight_days_and_a_few_days() -> None:
    parts = read_period("2026-01-01", "2026-07-01", "UTC", NOW_MS).buckets("month")
    for part in parts:
        number = number_of(buckets_of([part]))
        assert number[LONG.hours] in (3, 4, 5)
        assert number[DAY.hours] <= 2 * 4
        assert number[HOUR.hours] == 0
        assert number_of(buckets_of([part], DAY)) == {DAY.hours: (part[1] - part[0]) // DAY_MS}


@given(st.integers(0, 60 * 24), st.integers(0, 60 * 24), st.sampled_from([DAY, LONG]))
def test_buckets_make_up_every_hour_of_a_part_once(start: int, end: int, longest: Grain) -> None:
    hours: Counter[int] = Counter()
    first = 20_000 * DAY_MS // HOUR_MS
    for grain, number, part, sign in buckets_of([((first + start) * HOUR_MS, (first + end) * HOUR_MS)], longest):
        assert grain.hours <= longest.hours
        assert part == 0
        for hour in range(number * grain.hours, (number + 1) * grain.hours):
            hours[hour - first] += sign
    assert {hour: times for hour, times in hours.items() if times} == dict.fromkeys(range(start, end), 1)
