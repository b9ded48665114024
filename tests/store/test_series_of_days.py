"""A series by the day is summed from days, whatever the clock of its time zone does, and wherever its period ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from llm_gateway.control.management.calendar_period import read_period
from llm_gateway.store.cube import LONG
from llm_gateway.store.database import Database
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME
from llm_gateway.store.rollups import DAY, HOUR
from llm_gateway.store.usage import UsageStore
from llm_gateway.store.usage_reports import Grouping, UsageReports
from tests.store.histories import HOUR_MS, NOW_MS, record

BY_MODEL = Grouping((DIMENSION_BY_NAME["model"],))


@contextmanager
def read_buckets(database: Database) -> Iterator[list[tuple[int, int]]]:
    """Collect (length of the buckets in hours, how many of them) of each statement that reads the cube in the block."""
    found: list[tuple[int, int]] = []

    def note(_connection: Any, _cursor: Any, text: str, parameters: Any, *_: Any) -> None:
        values = list(parameters.values()) if isinstance(parameters, dict) else list(parameters)
        if "FROM usage_cube " not in text:
            return
        at = next(place for place, value in enumerate(values) if value in {HOUR.hours, DAY.hours, LONG.hours})
        if "BETWEEN" in text:
            found.append((values[at], values[at + 2] - values[at + 1] + 1))
        else:
            found.append((values[at], len(re.findall(r"\?|%\(bucket", text.partition(" IN (")[2].partition(")")[0]))))

    with database.read() as connection:
        engine = connection.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


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
    period = read_period(*dates, zone, NOW_MS)
    parts = period.buckets("day")
    assert len(parts) == days
    store, reports = UsageStore(database), UsageReports(database)
    store.write([record(at) for part in parts for at in (part[0], part[1] - HOUR_MS)])
    with read_buckets(database) as buckets:
        found = reports.series(BY_MODEL, parts)
    assert [sum(totals.requests for totals in part.values()) for part in found] == [2] * days
    assert [hours for hours, _ in buckets] == [DAY.hours, HOUR.hours]
    at_the_ends = 24  # of a period that begins and ends within a day
    assert buckets[0][1] <= days + 1
    assert buckets[1][1] <= 5 * (days + 1) + at_the_ends


def test_parts_of_a_day_are_summed_from_hours(database: Database) -> None:
    reports = UsageReports(database)
    parts = read_period("2026-03-01", "2026-03-03", "UTC", NOW_MS).buckets("hour")
    with read_buckets(database) as buckets:
        reports.series(BY_MODEL, parts)
    assert buckets == [(HOUR.hours, 48)]
