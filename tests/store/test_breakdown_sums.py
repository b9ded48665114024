"""Breakdowns and series add up to the records, over any period, zone and combination of dimensions."""

from __future__ import annotations

from functools import reduce
from operator import attrgetter
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.control.management.calendar_period import Period, read_period
from llm_gateway.domain.usage import AttemptRecord, UsageRecord
from llm_gateway.errors import Invalid, StoreUnavailable
from llm_gateway.store.cube_periods import Part
from llm_gateway.store.database import Database
from llm_gateway.store.ranked_series import RankedSeries
from llm_gateway.store.ranked_usage import RankedUsage
from llm_gateway.store.record_sums import Group
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME, REPORT_DIMENSIONS
from llm_gateway.store.rollups import Totals
from llm_gateway.store.tables import usage_cube_fill
from llm_gateway.store.usage import UsageStore
from llm_gateway.store.usage_reports import Grouping, UsageReports
from tests.store.effort import few
from tests.store.histories import DAY_MS, HOUR_MS, NOW_MS, clear, expected_totals, record
from tests.store.test_record_search import labelled

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe")
PERIODS = (
    ("2024-10-04", "2024-10-05"), ("2024-09-28", "2024-10-05"), ("2024-09-01", "2024-11-01"),
    ("2024-10-04T14:10", "2024-10-04T15:20"), ("2024-10-04T14:59:59", "2024-10-05T15:00"), ("2024-03-01", "2024-12-01"),
)  # fmt: skip
ALL = tuple(dimension.name for dimension in REPORT_DIMENSIONS)


def values_of(made: UsageRecord) -> dict[str, str]:
    return {
        "key": made.key, "team": made.team_id or "", "service": made.service, "task_type": made.task_type,
        "agent": made.agent or "", "customer": made.user_id, "session": made.session or "",
    }  # fmt: skip


def expected(records: list[UsageRecord], names: tuple[str, ...], filters: dict[str, str]) -> dict[Group, Totals]:
    """Count each request at its place, and what each attempt bought at the attempt's."""
    found: dict[Group, Totals] = {}
    for made in records:
        places: list[UsageRecord | AttemptRecord] = [made, *made.attempts]
        for each in places:
            place = values_of(made) | {"model": each.model or "", "provider": each.provider or ""}
            if any(place[name] != value for name, value in filters.items()):
                continue
            totals = found.setdefault(tuple(place[name] for name in names), Totals())
            if isinstance(each, UsageRecord):
                totals.count(made)
            else:
                totals.buy(each.usage, each.cost_nanos)
    return {group: totals for group, totals in found.items() if totals != Totals()}


def grouping_of(names: tuple[str, ...], filters: dict[str, str]) -> Grouping:
    return Grouping(tuple(DIMENSION_BY_NAME[name] for name in names), filters)


def added(parts: list[dict[Group, Totals]]) -> Totals:
    return reduce(Totals.plus, (totals for part in parts for totals in part.values()), Totals())


ANY_REPORT = {
    "history": st.lists(labelled(), max_size=10),
    "names": st.lists(st.sampled_from(ALL), max_size=2, unique=True).map(tuple),
    "filters": st.dictionaries(
        st.sampled_from(["model", "service", "customer", "agent"]), st.sampled_from(["m", "x", "a", ""]), max_size=1
    ),
    "dates": st.sampled_from(PERIODS),
    "zone": st.sampled_from(ZONES),
}

REPORT_OF_CUSTOMERS = {
    **ANY_REPORT,
    "names": st.sampled_from([(), ("customer",)]),
    "filters": st.sampled_from([{}, {"customer": "a"}, {"customer": "b"}]),
    "zone": st.sampled_from(ZONES[:3]),
}
"""Reports from stored sums of customers, whose days are full hours."""


@given(**ANY_REPORT)
def test_breakdown_and_series_are_those_of_the_records_in_every_zone(shared_sqlite: Database, **drawn: Any) -> None:
    check_breakdown_and_series(shared_sqlite, **drawn)


@few
@given(**ANY_REPORT)
def test_breakdown_and_series_are_those_of_the_records_on_postgres(shared_postgres: Database, **drawn: Any) -> None:
    check_breakdown_and_series(shared_postgres, **drawn)


@few
@given(**REPORT_OF_CUSTOMERS)
def test_reports_by_and_of_customers_are_those_of_the_records(shared_sqlite: Database, **drawn: Any) -> None:
    check_breakdown_and_series(shared_sqlite, **drawn)


@few
@given(**REPORT_OF_CUSTOMERS)
def test_reports_by_and_of_customers_are_those_of_the_records_on_postgres(
    shared_postgres: Database, **drawn: Any
) -> None:
    check_breakdown_and_series(shared_postgres, **drawn)


def check_breakdown_and_series(
    database: Database,
    history: list[UsageRecord],
    names: tuple[str, ...],
    filters: dict[str, str],
    dates: tuple[str, str],
    zone: str,
) -> None:
    clear(database)
    store = UsageStore(database)
    store.write(history[::2])
    while store.build_block(NOW_MS) or store.build_margins(NOW_MS - 2 * DAY_MS):
        pass
    store.write(history[1::2])
    reports, grouping = UsageReports(database), grouping_of(names, filters)
    period = read_period(*dates, zone, NOW_MS)
    both = (period.start_ms, period.end_ms)
    try:
        found = reports.totals(grouping, both)
    except Invalid:
        assert period.end_ms - period.start_ms > 7 * DAY_MS or min(each.at_ms for each in history) > period.start_ms
        return
    assert_ranked(reports, grouping, both, found)
    records = [made for made in history if both[0] <= made.at_ms < both[1]]
    assert {group: totals for group, totals in found.items() if totals != Totals()} == expected(records, names, filters)
    if not filters:
        assert added([found]) == expected_totals(records)
        assert added([reports.totals(Grouping(), both)]) == expected_totals(records)
    for bucket in ("day", "month"):
        parts = period.buckets(bucket)
        series = reports.series(grouping, parts)
        for part, sums in zip(parts, series, strict=True):
            inside = [made for made in records if part[0] <= made.at_ms < part[1]]
            assert {group: each for group, each in sums.items() if each != Totals()} == expected(inside, names, filters)
        assert_largest(reports, grouping, parts, series)
        costs = reports.series(msgspec.structs.replace(grouping, counters=("cost_nanos",)), parts)
        for sums, alone in zip(series, costs, strict=True):
            assert {group: each.cost_nanos for group, each in sums.items() if each.cost_nanos} == {
                group: each.cost_nanos for group, each in alone.items() if each.cost_nanos
            }


def assert_ranked(reports: UsageReports, grouping: Grouping, both: Part, found: dict[Group, Totals]) -> None:
    """Check that pages have the groups of a period by their cost, with what they cost in as long a time before."""
    before = (both[0] - 3 * DAY_MS, both[0])
    try:
        earlier = reports.totals(grouping, before)
    except Invalid:
        return
    ranked = RankedUsage(reports)
    pages = [ranked.page(grouping, both, before, *place) for place in ((0, 2), (2, 500))]
    groups = {group: totals for group, totals in found.items() if totals != Totals()}
    assert [(group, totals) for page in pages for group, totals, _ in page.rows] == sorted(
        groups.items(), key=lambda each: (-each[1].cost_nanos, -each[1].requests, each[0])
    )
    assert [page.has_more for page in pages] == [len(groups) > 2, False]
    known = added([earlier])
    for page in pages:
        assert page.totals == added([found])
        assert (page.totals_before.requests, page.totals_before.cost_nanos) == (known.requests, known.cost_nanos)
        for group, _, figures in page.rows:
            past = earlier.get(group, Totals())
            assert (figures.requests, figures.cost_nanos) == (past.requests, past.cost_nanos)


def assert_largest(
    reports: UsageReports, grouping: Grouping, parts: list[Part], series: list[dict[Group, Totals]]
) -> None:
    """Check the lines of the largest groups of a series, and that of all others together."""
    values: dict[Group, list[int]] = {}
    for at, sums in enumerate(series):
        for group, totals in sums.items():
            if totals.cost_nanos or totals.requests:
                values.setdefault(group, [0] * len(parts))[at] = totals.cost_nanos
    ranked = sorted(values, key=lambda group: (-sum(values[group]), group))
    for limit in (1, 2, 50):
        lines = RankedSeries(reports).lines(grouping, parts, limit, attrgetter("cost_nanos"))
        assert [line for line in lines if line.group is not None] == [(each, values[each]) for each in ranked[:limit]]
        others = [sum(values[group][at] for group in ranked[limit:]) for at in range(len(parts))]
        assert [line.values for line in lines if line.group is None] == ([others] if len(ranked) > limit else [])


def test_the_breakdown_of_the_summarys_period_adds_up_to_it(database: Database) -> None:
    store = UsageStore(database)
    store.write([record(NOW_MS - hour * HOUR_MS, user_id=f"u{hour % 7}", outcome="ok") for hour in range(100)])
    period = (NOW_MS // HOUR_MS * HOUR_MS - 3 * DAY_MS, (NOW_MS // DAY_MS + 1) * DAY_MS)
    for name in ALL:
        assert added([UsageReports(database).totals(grouping_of((name,), {}), period)]) == store.summary(3, NOW_MS)


def test_tags_are_summed_from_records(database: Database) -> None:
    made = [record(tags={"project": "a"}), record(tags={"project": "b"}), record(), record(tags={"project": "a"})]
    UsageStore(database).write(made)
    reports = UsageReports(database)
    found = reports.totals(Grouping((reports.tag("project"),)), (NOW_MS - HOUR_MS, NOW_MS + HOUR_MS))
    assert {group: totals.requests for group, totals in found.items()} == {("a",): 2, ("b",): 1, ("",): 1}


def test_a_report_from_records_is_limited_to_seven_days(database: Database) -> None:
    reports, week = UsageReports(database), (NOW_MS - 7 * DAY_MS, NOW_MS)
    for names in (("session",), ("customer", "model")):
        assert reports.totals(grouping_of(names, {}), week) == {}
        with pytest.raises(Invalid, match="at most 7 days"):
            reports.totals(grouping_of(names, {}), (NOW_MS - 8 * DAY_MS, NOW_MS))
    assert reports.totals(grouping_of(("customer",), {}), (NOW_MS - 300 * DAY_MS, NOW_MS)) == {}


def test_the_totals_of_a_series_are_bounded(database: Database) -> None:
    UsageStore(database).write([record(NOW_MS - hour * HOUR_MS, user_id=f"u{hour}") for hour in range(4)])
    start_ms = NOW_MS // HOUR_MS * HOUR_MS - 4 * HOUR_MS
    parts = [(start_ms + hour * HOUR_MS, start_ms + (hour + 1) * HOUR_MS) for hour in range(5)]
    for name in ("customer", "service", "session"):
        series = UsageReports(database, most_values=4).series(grouping_of((name,), {}), parts)
        assert sum(map(len, series)) == 4
        with pytest.raises(Invalid, match="more than 3 values: choose a shorter period or a longer bucket"):
            UsageReports(database, most_values=3).series(grouping_of((name,), {}), parts)


def test_a_report_waits_until_older_records_are_in_the_cube(database: Database) -> None:
    old = record(NOW_MS - 5 * DAY_MS)
    with database.write() as connection:
        connection.execute(sa.delete(usage_cube_fill))
        connection.execute(sa.insert(usage_cube_fill).values(until=old.id, filled=""))
    reports = UsageReports(database)
    assert reports.totals(Grouping(), (NOW_MS, NOW_MS + DAY_MS)) == {}
    with pytest.raises(StoreUnavailable, match="still being summed"):
        reports.totals(Grouping(), (NOW_MS - 6 * DAY_MS, NOW_MS))


def hours(zone: str, start: str, end: str) -> list[int]:
    period = read_period(start, end, zone, NOW_MS)
    return [(to_ms - from_ms) // HOUR_MS for from_ms, to_ms in period.buckets("day")]


def test_days_have_23_and_25_hours_when_clocks_change() -> None:
    assert hours("Europe/Berlin", "2026-03-28", "2026-03-31") == [24, 23, 24]
    assert hours("Europe/Berlin", "2026-10-24", "2026-10-27") == [24, 25, 24]
    assert hours("America/New_York", "2026-11-01", "2026-11-02") == [25]
    assert sum(hours("Asia/Kolkata", "2026-01-01", "2027-01-01")) == 365 * 24
    berlin = read_period("2026-10-25", "2026-10-26", "Europe/Berlin", NOW_MS)
    assert len(berlin.buckets("hour")) == 25
    with pytest.raises(Invalid, match="1000 parts"):
        read_period("2020-01-01", "2026-01-01", "UTC", NOW_MS).buckets("day")


def test_the_period_before_has_as_many_months_or_days() -> None:
    def before(start: str, end: str, zone: str = "Europe/Berlin") -> tuple[str, str]:
        period = read_period(start, end, zone, NOW_MS).previous()
        return period.shown(period.start_ms), period.shown(period.end_ms)

    assert before("2026-03-01", "2026-04-01") == ("2026-02-01T00:00:00+01:00", "2026-03-01T00:00:00+01:00")
    assert before("2026-01-01", "2026-03-01") == ("2025-11-01T00:00:00+01:00", "2026-01-01T00:00:00+01:00")
    assert before("2026-03-30", "2026-04-02") == ("2026-03-27T00:00:00+01:00", "2026-03-30T00:00:00+02:00")
    assert before("2026-03-30T10:00", "2026-03-30T16:00", "UTC")[0] == "2026-03-30T04:00:00+00:00"
    assert isinstance(Period(0, 1, ZoneInfo("UTC")).previous(), Period)
