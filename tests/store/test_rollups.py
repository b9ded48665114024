"""Sums of usage records per hour and day, and the counters as columns of the table."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.usage import AttemptRecord, Usage, UsageRecord
from llm_gateway.errors import RecordsRefused
from llm_gateway.store.rollups import (
    BLOCKS,
    COUNTERS,
    DAY,
    HOUR,
    LARGEST_SUM,
    TO_DATE,
    Totals,
    change,
    coarser,
    cover,
    hourly,
)
from llm_gateway.store.tables import usage_rollups

HOUR_MS = 3_600_000


def record(at_ms: int = 0, **fields: Any) -> UsageRecord:
    plain = {"id": "x", "instance": "i", "key_name": "k", "user_id": "u", "service": "s"}
    return UsageRecord(at_ms=at_ms, task_type="general", surface="generate", **{**plain, **fields})


def attempt(provider: str = "p", **fields: Any) -> AttemptRecord:
    return AttemptRecord(
        id="a",
        provider_id="1",
        provider=provider,
        kind="openai",
        model="m",
        started_ms=0,
        **fields,
    )


def test_counters_are_the_columns_after_the_key() -> None:
    assert tuple(usage_rollups.c.keys()) == ("dimension", "hours", "bucket", "name", *COUNTERS, "minutes")


def test_rates_and_averages_are_derived_from_the_sums() -> None:
    totals = Totals(
        requests=8,
        cached_requests=2,
        ok_requests=4,
        estimated_requests=1,
        unpriced_requests=2,
        input_tokens=5,
        output_tokens=6,
        latency_ms=10,
    )
    assert (totals.exact_requests, totals.total_tokens, totals.cache_hit_rate, totals.avg_latency_ms) == (
        5,
        11,
        0.25,
        2.5,
    )
    assert (Totals().cache_hit_rate, Totals().avg_latency_ms) == (0.0, 0.0)


def test_plus_adds_every_counter() -> None:
    one = Totals(**{name: 10**position for position, name in enumerate(COUNTERS)})
    two = Totals(**{name: 2 * 10**position for position, name in enumerate(COUNTERS)})
    assert one.plus(two) == Totals(**{name: 3 * 10**position for position, name in enumerate(COUNTERS)})
    assert one.requests == 1


def test_each_outcome_and_cost_status_has_its_counter() -> None:
    outcomes = ("ok", "cached", "rate_limited", "failed", "cancelled", "no_provider")
    records = [record(outcome=outcome, latency_ms=10) for outcome in outcomes]
    records += [record(cost_status="estimated", latency_ms=10), record(cost_status="unpriced", latency_ms=10)]
    expected = Totals(
        requests=8,
        cached_requests=1,
        error_requests=3,
        ok_requests=1,
        latency_ms=10,
        estimated_requests=1,
        unpriced_requests=1,
    )
    assert hourly(records) == {("service", 0, "s"): expected, ("customer", 0, "u"): expected}


def test_cost_goes_to_each_attempts_provider_and_the_request_to_the_answering_one() -> None:
    tokens = Usage(input_tokens=3, output_tokens=4)
    tried = [
        attempt("billed", usage=Usage(input_tokens=1), cost_nanos=5),
        attempt("billed", cost_nanos=6),
        attempt("failed"),
        attempt("answering", usage=Usage(output_tokens=2)),
    ]
    given = record(outcome="ok", provider="answering", attempts=tried, usage=tokens, cost_nanos=11, latency_ms=9)
    sums = hourly([given])
    bought = Totals(requests=1, ok_requests=1, latency_ms=9, input_tokens=3, output_tokens=4, cost_nanos=11)
    assert sums == {
        ("service", 0, "s"): bought,
        ("customer", 0, "u"): bought,
        ("provider", 0, "billed"): Totals(input_tokens=1, cost_nanos=11),
        ("provider", 0, "answering"): Totals(requests=1, ok_requests=1, latency_ms=9, output_tokens=2),
    }


def test_hits_and_requests_without_attempts_count_for_no_provider() -> None:
    records = [record(outcome="cached", provider="p"), record(outcome="no_provider")]
    assert [key for key in hourly(records) if key[0] == "provider"] == []


def test_attempts_without_a_providers_name_on_the_request_count_no_request() -> None:
    assert hourly([record(attempts=[attempt(cost_nanos=1)])])[("provider", 0, "p")] == Totals(cost_nanos=1)


def test_hours_and_days_start_at_their_first_millisecond() -> None:
    times = (0, HOUR_MS - 1, HOUR_MS, 24 * HOUR_MS - 1, 24 * HOUR_MS)
    hours = hourly(record(at_ms) for at_ms in times)
    days = coarser(hours.items(), 24)
    assert {hour: totals.requests for (kind, hour, _), totals in hours.items() if kind == "service"} == {
        0: 2,
        1: 1,
        23: 1,
        24: 1,
    }
    assert {day: totals.requests for (kind, day, _), totals in days.items() if kind == "service"} == {0: 4, 1: 1}


@pytest.mark.parametrize(
    "fields",
    [
        {"cost_nanos": LARGEST_SUM + 1},
        {"usage": Usage(input_tokens=-1)},
        {"latency_ms": 2**70, "outcome": "ok"},
        {"attempts": [attempt(cost_nanos=LARGEST_SUM), attempt(cost_nanos=1)]},
        {"attempts": [attempt(usage=Usage(output_tokens=-1))]},
    ],
)
def test_negative_or_too_large_figures_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RecordsRefused, match="negative or too large"):
        hourly([record(**fields)])


def test_the_largest_allowed_sum_is_accepted() -> None:
    sums = hourly([record(cost_nanos=LARGEST_SUM - 1), record(cost_nanos=1)])
    assert sums[("service", 0, "s")].cost_nanos == LARGEST_SUM


def test_a_change_is_the_difference_between_new_and_old_sums() -> None:
    before = [record(cost_nanos=5, cost_status="unpriced", attempts=[attempt(cost_nanos=5)], provider="p"), record(1)]
    after = [record(cost_nanos=2, attempts=[attempt(cost_nanos=2)], provider="p"), record(1)]
    difference = Totals(unpriced_requests=-1, cost_nanos=-3)
    assert change(before, after) == {
        ("service", 0, "s"): difference,
        ("customer", 0, "u"): difference,
        ("provider", 0, "p"): difference,
    }
    assert set(map(Totals.__eq__, change(before, before).values(), [Totals()] * 3)) == {True}


def test_a_change_that_is_too_large_is_refused() -> None:
    for one, other in ((0, LARGEST_SUM + 1), (LARGEST_SUM + 1, 0)):
        with pytest.raises(RecordsRefused, match="too large"):
            change([record(cost_nanos=one)], [record(cost_nanos=other)])


@given(
    start=st.integers(0, 2000),
    length=st.integers(1, 9000),
    builts=st.lists(st.integers(0, 12_000), min_size=len(BLOCKS), max_size=len(BLOCKS)),
    summed=st.one_of(st.none(), st.tuples(st.integers(0, 12), st.integers(1, 32))),
)
def test_a_period_is_covered_once_by_few_existing_buckets(
    start: int, length: int, builts: list[int], summed: tuple[int, int] | None
) -> None:
    end = (start + length + 24) // 24 * 24
    until = {DAY: end} | {
        block: built // block.hours * block.hours
        for block, built in zip(BLOCKS, sorted(builts, reverse=True), strict=True)
    }
    grains = [(grain, hours * HOUR_MS) for grain, hours in until.items()]
    to_date = None if summed is None else (summed[0] * BLOCKS[-1].ms, summed[0] * BLOCKS[-1].ms + summed[1] * DAY.ms)
    stretches = cover(start * HOUR_MS, end * HOUR_MS, grains, to_date)
    covered, read = Counter[int](), Counter[tuple[int, int]]()
    for grain, first, last, sign in stretches:
        assert first < last
        if grain is TO_DATE:
            assert (first, last) == to_date
        else:
            assert first % grain.ms == last % grain.ms == 0
            assert grain is HOUR or last <= until[grain] * HOUR_MS
            read.update((grain.hours, bucket) for bucket in range(first // grain.ms, last // grain.ms))
        for hour in range(first // HOUR_MS, last // HOUR_MS):
            covered[hour] += sign
    assert set(read.values()) <= {1}, "Postgres reads all stretches by one condition (rollup_rows.py)"
    assert +covered == Counter(range(start, end))
    assert min(covered.values()) >= 0
    assert sum((last - first) // grain.ms for grain, first, last, _ in stretches if grain is HOUR) <= 12


@pytest.mark.parametrize(
    ("hour", "hours", "sign"), [(0, 0, 0), (1, 1, -1), (11, 11, -1), (12, 12, 1), (13, 11, 1), (23, 1, 1)]
)
def test_the_first_day_is_covered_by_hours_or_by_the_day_minus_hours(hour: int, hours: int, sign: int) -> None:
    stretches = cover(hour * HOUR_MS, 48 * HOUR_MS, [(DAY, 48 * HOUR_MS)])
    found = [((end - start) // HOUR_MS, sign) for grain, start, end, sign in stretches if grain is HOUR]
    assert found == ([(hours, sign)] if hours else [])
