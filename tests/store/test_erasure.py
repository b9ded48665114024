"""Erasure: a customer's label leaves records and rollups, and nothing else changes, whatever is written meanwhile."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa

from llm_gateway.domain.usage import Usage, UsageRecord
from llm_gateway.store.database import Database
from llm_gateway.store.erasure import BATCH_RECORDS, Erasure
from llm_gateway.store.record_filter import RecordFilter
from llm_gateway.store.record_search import RecordSearch
from llm_gateway.store.rollups import COUNTERS
from llm_gateway.store.tables import usage_customers, usage_records, usage_rollups
from llm_gateway.store.usage import UsageStore
from tests.store.histories import DAY_MS, HOUR_MS, NOW_MS, attempt, close, cube_rows, record, record_rows, rollup_rows

OUTCOMES = ("ok", "cached", "failed", "cancelled", "refused_budget")
STATUSES = ("exact", "estimated", "unpriced")
UNTIL_MS = NOW_MS + HOUR_MS


@pytest.fixture
def store(database: Database) -> UsageStore:
    return UsageStore(database)


def made(number: int, at_ms: int, customer: str) -> UsageRecord:
    """Return a record with its own outcome, cost, tokens and latency."""
    bought = Usage(input_tokens=number, output_tokens=2 * number)
    one = attempt(at_ms, usage=bought, cost_nanos=3 * number, cost_status=STATUSES[number % 3])
    given = record(
        at_ms, user_id=customer, outcome=OUTCOMES[number % 5], latency_ms=number, override_id="o", attempts=[one]
    )
    close(given)
    return given


def history() -> list[UsageRecord]:
    """Return requests of two customers in the last 40 days."""
    times = [NOW_MS - number * 7 * HOUR_MS for number in range(137)]
    return [made(number, at_ms, ("ann", "bob")[number % 2]) for number, at_ms in enumerate(times)]


def renamed(rows: list[tuple[Any, ...]], label: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(label if value == "ann" else value for value in row) for row in rows)


def requests_of(database: Database, customer: str, grain: str = "day") -> int:
    rows = (row for row in rollup_rows(database) if row[:2] == ("customer", grain) and row[3] == customer)
    return sum(row[4 + COUNTERS.index("requests")] for row in rows)


def customer_names(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(sa.select(usage_customers.c.name)).scalars())


def stored_of(database: Database, customer: str) -> int:
    query = sa.select(sa.func.count()).where(usage_records.c.user_id == customer)
    with database.read() as connection:
        return int(connection.execute(query).scalar_one())


def test_the_label_is_replaced_everywhere_and_all_else_stays(store: UsageStore, database: Database) -> None:
    store.write(history())
    assert sum(store.build_block(NOW_MS) for _ in range(60)) > 20
    assert store.build_margins(NOW_MS)
    assert store.prune(NOW_MS - 30 * DAY_MS, 2000) > 20
    rollups, cube, records = rollup_rows(database), cube_rows(database), record_rows(database)
    reports = store.summary(60, NOW_MS), store.by_service(60, NOW_MS), store.by_provider(60, NOW_MS)
    erased = Erasure(database, sleep=lambda _: None).run("ann", UNTIL_MS)
    assert erased is not None
    assert re.fullmatch(r"erased-[a-z2-7]{12}", erased.label)
    assert erased.records == sum("ann" in row for row in records)
    assert rollup_rows(database) == renamed(rollups, erased.label)
    assert cube_rows(database) == cube
    names = [column.name for column in usage_records.c]
    user, override = names.index("user_id"), names.index("override_id")
    expected = [
        tuple(None if at == override else value for at, value in enumerate(row)) if row[user] == "ann" else row
        for row in records
    ]
    assert sorted(record_rows(database), key=str) == sorted(renamed(expected, erased.label), key=str)
    assert (store.summary(60, NOW_MS), store.by_service(60, NOW_MS), store.by_provider(60, NOW_MS)) == reports
    wanted = RecordFilter(start_ms=0, end_ms=UNTIL_MS, values={"customer": erased.label})
    assert len(RecordSearch(database, lambda: 0.0).page(wanted, 500).records) == erased.records
    assert customer_names(database) == {"bob", erased.label}
    assert Erasure(database).run("ann", UNTIL_MS) is None


def test_requests_that_come_later_keep_their_label(store: UsageStore, database: Database) -> None:
    store.write([made(1, NOW_MS, "ann"), made(2, UNTIL_MS, "ann")])
    erased = Erasure(database, sleep=lambda _: None).run("ann", UNTIL_MS)
    assert erased is not None
    assert erased.records == 1
    store.write([made(3, UNTIL_MS + 1, "ann")])
    assert customer_names(database) == {"ann", erased.label}
    for label, number in ((erased.label, 1), ("ann", 2)):
        assert [requests_of(database, label, grain) for grain in ("hour", "day")] == [number, number]
        assert stored_of(database, label) == number


def test_writes_and_deletions_during_a_run_leave_records_and_sums_in_agreement(
    store: UsageStore, database: Database
) -> None:
    day_ms = NOW_MS - 3 * DAY_MS
    store.write([made(number, day_ms + number % 3 * HOUR_MS, "ann") for number in range(2 * BATCH_RECORDS + 7)])
    store.write([made(number, day_ms - 20 * DAY_MS, "ann") for number in range(5)])
    store.prune(day_ms - 10 * DAY_MS, 2000)
    steps: list[float] = []

    def disturb(pause_s: float) -> None:
        steps.append(pause_s)
        store.write([made(len(steps), day_ms, "ann"), made(len(steps), UNTIL_MS + DAY_MS, "ann")])
        if len(steps) == 2:
            store.prune(day_ms + HOUR_MS, 100)

    before = requests_of(database, "ann")
    erased = Erasure(database, sleep=disturb).run("ann", UNTIL_MS)
    assert erased is not None
    assert len(steps) >= 4, "one transaction for each 500 records"
    kept = requests_of(database, "ann")
    assert requests_of(database, erased.label) + kept == before + 2 * len(steps)
    assert stored_of(database, "ann") == kept, "each request that is left has its record"
    assert requests_of(database, "ann", "hour") == kept
    with database.read() as connection:
        least = min(connection.execute(sa.select(*(sa.func.min(usage_rollups.c[name]) for name in COUNTERS))).one())
    assert least >= 0


def test_an_unknown_customer_changes_nothing(store: UsageStore, database: Database) -> None:
    assert Erasure(database).run("ann", UNTIL_MS) is None
    store.write([made(1, NOW_MS, "bob")])
    rows = rollup_rows(database)
    for name in ("ann", "bo", "BOB", "", "b\x00b", "%"):
        assert Erasure(database).run(name, UNTIL_MS) is None
    assert rollup_rows(database) == rows
