"""Blocks of customers' days: when they are built, that they are complete, and that reports read them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from llm_gateway.domain.usage import Usage
from llm_gateway.store.database import Database
from llm_gateway.store.rollup_rows import NUMBERS, buckets
from llm_gateway.store.rollup_table import RollupTable
from llm_gateway.store.rollups import COUNTERS, CUSTOMER, MINUTE_MS, SERVICE, coarser, hourly
from llm_gateway.store.tables import usage_customers, usage_rollups
from llm_gateway.store.usage import CustomerTotals, UsageStore, recent_period
from tests.store.histories import DAY_MS, HOUR_MS, NOW_MS, attempt, record, rollup_rows

BLOCK_MS = 2 * DAY_MS
START_MS = 20_000 // 32 * 32 * DAY_MS
"""Start of a block of 32 days."""


@pytest.fixture
def store(database: Database) -> UsageStore:
    return UsageStore(database)


def rows_of(database: Database, grain: str) -> dict[tuple[int, str], tuple[Any, ...]]:
    """Return the rows of a grain as (bucket in days since START_MS, name) → counters."""
    return {
        ((row[2] - START_MS) // DAY_MS, row[3]): row[4:]
        for row in rollup_rows(database)
        if row[:2] == ("customer", grain)
    }


def build_all(store: UsageStore, until_ms: int) -> int:
    built = 0
    while store.build_block(until_ms):
        built += 1
    return built


def test_an_empty_table_has_no_block_to_build(store: UsageStore) -> None:
    assert store.build_block(START_MS) is False


@pytest.mark.parametrize(("until_ms", "built"), [(START_MS + BLOCK_MS - 1, 0), (START_MS + BLOCK_MS, 1)])
def test_a_block_is_built_once_it_is_over(store: UsageStore, database: Database, until_ms: int, built: int) -> None:
    store.write([record(START_MS + day * DAY_MS, user_id=f"u{day % 2}", cost_nanos=10**day) for day in range(3)])
    store.write([record(START_MS + DAY_MS, user_id="u0", cost_nanos=5)])
    assert build_all(store, until_ms) == built + 1  # and the totals to date
    assert {key: row[COUNTERS.index("cost_nanos")] for key, row in rows_of(database, "2days").items()} == (
        {(0, "u0"): 6, (0, "u1"): 10} if built else {}
    )


def test_a_block_adds_up_every_counter(store: UsageStore, database: Database) -> None:
    store.write([record(START_MS), record(START_MS + DAY_MS)])
    with database.write() as connection:
        connection.execute(
            sa.update(usage_rollups).values({name: 10**place for place, name in enumerate(COUNTERS, start=1)})
        )
    assert store.build_block(START_MS + BLOCK_MS) is True
    assert rows_of(database, "2days") == {(0, "u"): tuple(2 * 10**place for place in range(1, len(COUNTERS) + 1))}


def test_blocks_are_built_from_the_grain_before_and_for_customers_only(store: UsageStore, database: Database) -> None:
    days = [*range(7), 9]
    store.write([record(START_MS + day * DAY_MS, provider="p", attempts=[attempt()]) for day in days])
    assert build_all(store, START_MS + 11 * DAY_MS) == 8 + 5  # and the totals to date, two days at a time
    requests = {
        grain: {day: row[0] for (day, _), row in rows_of(database, grain).items()}
        for grain in ("2days", "4days", "8days", "16days")
    }
    assert requests == {"2days": {0: 2, 2: 2, 4: 2, 6: 1, 8: 1}, "4days": {0: 4, 4: 3}, "8days": {0: 7}, "16days": {}}
    assert {row[0] for row in rollup_rows(database) if row[1] not in ("hour", "day")} == {"customer"}
    assert store.by_customer(90, START_MS + 33 * DAY_MS, 5) == [CustomerTotals("u", requests=8, cost_nanos=0)]


def test_days_without_records_get_no_block(store: UsageStore, database: Database) -> None:
    store.write([record(START_MS), record(START_MS + 98 * DAY_MS)])
    build_all(store, START_MS + 200 * DAY_MS)
    found = {days: [day for day, _ in sorted(rows_of(database, f"{days}days"))] for days in (2, 4, 8, 16, 32)}
    # Longer blocks are built once a block of the grain before follows them.
    assert found == {2: [0, 98], 4: [0, 96], 8: [0], 16: [], 32: []}


@pytest.mark.parametrize("day", [-3, 0, 5, 7, 15])
def test_late_records_are_added_to_their_block(store: UsageStore, database: Database, day: int) -> None:
    store.write([record(START_MS), record(START_MS + 15 * DAY_MS)])
    build_all(store, START_MS + 16 * DAY_MS)
    late = [record(START_MS + day * DAY_MS, cost_nanos=7), record(START_MS + 16 * DAY_MS, cost_nanos=1)]
    store.write(late)
    store.write(late)
    cost = COUNTERS.index("cost_nanos")
    for grain, days in (("day", 1), ("2days", 2), ("4days", 4), ("8days", 8), ("16days", 16)):
        costs = {key: row[cost] for key, row in rows_of(database, grain).items() if row[cost]}
        expected = {(day // days * days, "u"): 7}
        assert costs == ({**expected, (16, "u"): 1} if grain == "day" else expected)
    assert store.by_customer(90, START_MS + 17 * DAY_MS, 5) == [CustomerTotals("u", requests=4, cost_nanos=8)]


def test_the_report_by_customer_reads_blocks_where_they_are_built(store: UsageStore, database: Database) -> None:
    now_ms = START_MS + 43 * DAY_MS + 14 * HOUR_MS
    store.write([record(START_MS + day * DAY_MS + 13 * HOUR_MS) for day in range(-2, 44)])
    build_all(store, now_ms)

    def read(days: int, at_ms: int) -> list[tuple[int, ...]]:
        with database.read() as connection:
            stretches = RollupTable(database).stretches(connection, CUSTOMER, recent_period(days, at_ms))
        values = buckets(stretches)
        found: list[tuple[int, ...]] = []
        for at, (grain, _, _, sign) in enumerate(stretches):
            first, end = (values[f"{edge}_{at}"] * (grain.hours or 24) for edge in ("first", "end"))
            found.append((grain.hours * sign, first - START_MS // HOUR_MS, end - START_MS // HOUR_MS))
        return found

    assert store.by_customer(44, now_ms, 5) == [CustomerTotals("u", requests=44, cost_nanos=0)]
    assert store.by_customer(43, now_ms - 3 * HOUR_MS, 5) == [CustomerTotals("u", requests=44, cost_nanos=0)]
    rest = [(768, 0, 32 * 24), (0, 43 * 24, 44 * 24), (24, 43 * 24, 44 * 24)]
    assert read(44, now_ms) == [(1, 14 - 24, 0), *rest], "totals to date have the bucket in which they end"
    assert sorted(read(43, now_ms - 3 * HOUR_MS)) == sorted([(-1, 0, 11), *rest]), (
        "the hours are subtracted from the block of 32 days"
    )


@pytest.mark.parametrize("dimension", [CUSTOMER, SERVICE])
def test_a_period_that_ends_near_a_midnight_reads_few_hours(database: Database, dimension: str) -> None:
    table = RollupTable(database)
    for start, end, most in ((-50, 22, 3), (-48, 2, 2), (-48, 12, 12), (3, 22, 19), (20, 22, 2), (-1, 23, 2)):
        period = (START_MS + start * HOUR_MS, START_MS + end * HOUR_MS)
        with database.read() as connection:
            stretches = table.stretches(connection, dimension, period)
        covered: Counter[int] = Counter()
        for grain, start_ms, end_ms, sign in stretches:
            covered.update(dict.fromkeys(range((start_ms - START_MS) // HOUR_MS, (end_ms - START_MS) // HOUR_MS), sign))
            assert grain.hours == 24 or end_ms - start_ms <= most * HOUR_MS
        assert {hour: times for hour, times in covered.items() if times} == dict.fromkeys(range(start, end), 1)


def test_totals_to_date_follow_each_day_and_late_records(store: UsageStore, database: Database) -> None:
    now_ms = START_MS + 5 * DAY_MS + HOUR_MS
    store.write(
        [record(START_MS + day * DAY_MS, user_id=f"u{day % 2}", cost_nanos=10 ** (day + 1)) for day in range(-1, 6)]
    )

    def to_date() -> dict[tuple[int, str], int]:
        return {key: row[COUNTERS.index("cost_nanos")] for key, row in rows_of(database, "to date").items()}

    assert to_date() == {}
    build_all(store, now_ms - 2 * DAY_MS)
    assert to_date() == {(3, "u0"): 1010, (3, "u1"): 100}
    build_all(store, now_ms)
    assert to_date() == {(5, "u0"): 101010, (5, "u1"): 10100}
    late = [record(START_MS + day * DAY_MS, user_id="u2", cost_nanos=7) for day in (-1, 0, 4, 5)]
    store.write(late)
    assert to_date() == {(5, "u0"): 101010, (5, "u1"): 10100, (5, "u2"): 14}
    assert store.by_customer(4, now_ms, 9)[-1] == CustomerTotals("u2", requests=2, cost_nanos=14)
    assert build_all(store, now_ms - DAY_MS) == 0, "the clock went back"
    build_all(store, START_MS + 40 * DAY_MS)
    assert to_date() == {}, "no customer has called since the block of 32 days was over"


def test_totals_to_date_end_with_their_block_though_the_days_are_gone(store: UsageStore, database: Database) -> None:
    store.write([record(START_MS, user_id="u")])
    build_all(store, START_MS + 2 * DAY_MS)
    with database.write() as connection:
        connection.execute(sa.delete(usage_rollups).where(usage_rollups.c.hours.in_((1, 24))))
    assert rows_of(database, "to date")
    build_all(store, START_MS + 40 * DAY_MS)
    assert not rows_of(database, "to date")


def test_a_batch_adds_hours_and_days_of_customers_with_the_minutes_of_their_calls(database: Database) -> None:
    at_ms = NOW_MS // DAY_MS * DAY_MS + 5 * HOUR_MS
    several = [attempt(provider="p", usage=Usage(input_tokens=5)), attempt(provider="q", cost_nanos=7)]
    records = [
        record(at_ms, user_id="u", outcome="ok", latency_ms=3, cost_status="estimated"),
        record(at_ms + 59 * MINUTE_MS, user_id="u", outcome="cached", saved_cost_nanos=9, latency_ms=1),
        record(at_ms + HOUR_MS, user_id="u", outcome="failed", attempts=several, usage=Usage(input_tokens=5)),
        record(at_ms - DAY_MS, user_id="u", cost_status="unpriced", cost_nanos=4),
        record(at_ms + 7 * MINUTE_MS, user_id='Ü"%s\\'),
        record(at_ms, user_id=""),
    ]
    store = UsageStore(database)
    for batch in (records[:2], records[1:], records):  # what is stored already counts once
        store.write(batch)

    hours = hourly(records)
    days = coarser(hours.items(), 24)
    expected = [
        (dimension, grain, bucket * length * HOUR_MS, name, *msgspec.structs.astuple(totals))
        for grain, length, sums in (("hour", 1, hours), ("day", 24, days))
        for (dimension, bucket, name), totals in sums.items()
    ]
    assert rollup_rows(database) == sorted(expected)
    assert minutes_of_customers(database) == {
        ("u", 1, at_ms // HOUR_MS): 1 | 1 << 59,
        ("u", 1, at_ms // HOUR_MS + 1): 1,
        ("u", 1, at_ms // HOUR_MS - 24): 1,
        ('Ü"%s\\', 1, at_ms // HOUR_MS): 1 << 7,
        ("", 1, at_ms // HOUR_MS): 1,
        **{(name, 24, at_ms // DAY_MS): 0 for name in ("u", 'Ü"%s\\', "")},
        ("u", 24, at_ms // DAY_MS - 1): 0,
    }


def minutes_of_customers(database: Database) -> dict[tuple[str, int, int], int]:
    """Return the column `minutes` by name, hours of the bucket, and its number."""
    rows, names = usage_rollups.c, usage_customers.c
    query = sa.select(names.name, rows.hours, rows.bucket, rows.minutes).where(
        rows.dimension == NUMBERS[CUSTOMER], names.id == rows.name
    )
    with database.read() as connection:
        return {(name, hours, bucket): minutes for name, hours, bucket, minutes in connection.execute(query)}
