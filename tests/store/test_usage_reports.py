"""Usage reports agree with the records and add up to the same totals."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given as for_any
from hypothesis import strategies as st

from llm_gateway.domain.usage import Usage, UsageRecord
from llm_gateway.store.database import Database
from llm_gateway.store.rollups import Totals
from llm_gateway.store.usage import CustomerTotals, UsageStore
from tests.store.effort import few, many
from tests.store.histories import (
    DAY_MS,
    HOUR_MS,
    NOW_MS,
    any_records,
    check_cube,
    check_reports,
    check_sums,
    clear,
    made_records,
    record,
)

PERIODS = st.sampled_from([1, 2, 7, 30, 90, 365])


@pytest.fixture
def store(database: Database) -> UsageStore:
    return UsageStore(database)


def test_reports_of_an_empty_database_are_empty(store: UsageStore) -> None:
    assert store.summary(30, NOW_MS) == Totals()
    assert (store.by_provider(30, NOW_MS), store.by_service(30, NOW_MS), store.by_customer(30, NOW_MS, 5)) == (
        [],
        [],
        [],
    )


def test_report_rows_are_sorted_by_cost_then_count_then_name(store: UsageStore) -> None:
    store.write([record(user_id=user, cost_nanos=cost) for user, cost in (("d", 1), ("b", 0), ("a", 0), ("c", 0))])
    store.write([record(user_id="c")])
    assert [row.name for row in store.by_customer(1, NOW_MS, 10)] == ["d", "c", "a", "b"]
    assert store.by_customer(1, NOW_MS, 2) == [
        CustomerTotals("d", requests=1, cost_nanos=1),
        CustomerTotals("c", requests=2, cost_nanos=0),
    ]


def test_sums_beyond_32_bits_are_exact(store: UsageStore) -> None:
    for _ in range(3):
        store.write([record(cost_nanos=2**53, usage=Usage(input_tokens=2**40))])
    assert store.summary(1, NOW_MS) == Totals(requests=3, cost_nanos=3 * 2**53, input_tokens=3 * 2**40)


@pytest.mark.parametrize("days", [1, 2, 30, 365])
@pytest.mark.parametrize("now_ms", [NOW_MS, 20_000 * DAY_MS, 20_000 * DAY_MS - 1, 20_000 * DAY_MS + HOUR_MS])
def test_the_period_starts_at_a_full_hour(store: UsageStore, days: int, now_ms: int) -> None:
    start = now_ms - now_ms % HOUR_MS - days * DAY_MS
    store.write([record(start - 1), record(start), record(now_ms)])
    assert store.summary(days, now_ms).requests == 2


def test_records_of_a_clock_that_is_ahead_count_from_their_day_on(store: UsageStore) -> None:
    midnight = NOW_MS - NOW_MS % DAY_MS + DAY_MS
    store.write([record(NOW_MS + HOUR_MS), record(midnight - 1), record(midnight)])
    assert store.summary(1, NOW_MS).requests == 2
    assert store.summary(1, midnight).requests == 3


def write_in_batches(store: UsageStore, history: list[UsageRecord], cuts: list[int], rng: random.Random) -> None:
    """Write the history in random order, some of it twice; build blocks at random moments between."""
    shuffled = rng.sample(history, len(history))
    for cut in cuts:
        store.write(shuffled[max(0, cut - 5) : cut])
        if rng.random() < 0.5:
            store.build_block(NOW_MS - rng.randrange(-20, 60) * DAY_MS)
            store.build_margins(NOW_MS - rng.randrange(-20, 60) * DAY_MS)
    store.write(shuffled)


ANY_HISTORY = dict[str, st.SearchStrategy[Any]](
    history=st.lists(any_records, max_size=12),
    days=PERIODS,
    cuts=st.lists(st.integers(0, 12), max_size=4),
    rng=st.randoms(use_true_random=False),
)


def check_reports_equal_a_plain_recomputation(
    database: Database, history: list[UsageRecord], days: int, cuts: list[int], rng: random.Random
) -> None:
    clear(database)
    store = UsageStore(database)
    write_in_batches(store, history, cuts, rng)
    check_reports(store, history, days)


@many
@for_any(**ANY_HISTORY)
def test_reports_equal_a_plain_recomputation(shared_sqlite: Database, **drawn: Any) -> None:
    check_reports_equal_a_plain_recomputation(shared_sqlite, **drawn)


@few
@for_any(**ANY_HISTORY)
def test_reports_equal_a_plain_recomputation_on_postgres(shared_postgres: Database, **drawn: Any) -> None:
    check_reports_equal_a_plain_recomputation(shared_postgres, **drawn)


MADE_HISTORY = dict[str, st.SearchStrategy[Any]](
    history=st.lists(made_records(), max_size=12),
    days=PERIODS,
    cuts=st.lists(st.integers(0, 12), max_size=4),
    rng=st.randoms(use_true_random=False),
)


def check_reports_of_records_as_the_gateway_writes_them_add_up(
    database: Database, history: list[UsageRecord], days: int, cuts: list[int], rng: random.Random
) -> None:
    clear(database)
    store = UsageStore(database)
    write_in_batches(store, history, cuts, rng)
    for now_ms in (NOW_MS, NOW_MS + 16 * DAY_MS):
        check_sums(check_reports(store, history, days, now_ms))
    check_cube(database)
    while store.prune(NOW_MS - rng.randrange(100) * DAY_MS, 5):
        pass
    while store.build_block(NOW_MS):
        pass
    check_sums(check_reports(store, history, days))


@many
@for_any(**MADE_HISTORY)
def test_reports_of_records_as_the_gateway_writes_them_add_up(shared_sqlite: Database, **drawn: Any) -> None:
    check_reports_of_records_as_the_gateway_writes_them_add_up(shared_sqlite, **drawn)


@few
@for_any(**MADE_HISTORY)
def test_reports_of_records_as_the_gateway_writes_them_add_up_on_postgres(
    shared_postgres: Database, **drawn: Any
) -> None:
    check_reports_of_records_as_the_gateway_writes_them_add_up(shared_postgres, **drawn)
