"""Usage records are stored and counted exactly once. Reports are tested in test_usage_reports.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from llm_gateway.domain.usage import FREE, RECORD_VERSION, KeyCall, SentAttempt, Usage
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import RecordsRefused, StoreUnavailable
from llm_gateway.store.database import Database
from llm_gateway.store.rollups import Totals
from llm_gateway.store.tables import usage_names, usage_records
from llm_gateway.store.usage import UsageStore
from tests.store.disturbances import ignoring, locked, refusing
from tests.store.histories import DAY_MS, NOW_MS, attempt, clear, record, rollup_rows, stored_attempts, stored_ids


@pytest.fixture
def store(database: Database) -> UsageStore:
    return UsageStore(database)


# --- storing records ---


def test_every_field_of_a_record_is_stored(store: UsageStore, database: Database) -> None:
    attempts = [attempt(5), attempt(9, price=FREE, usage=Usage(input_tokens=1)), attempt(7)]
    given = record(
        version=RECORD_VERSION,
        client_request_id="c",
        session="x",
        agent="codex",
        queued_ms=8,
        route="model",
        key_id="i",
        team_id="t",
        tags={"team": "ü"},
        stream=True,
        requested_model="r",
        override_id="o",
        outcome="failed",
        error_code="e",
        refused_by="b",
        status=502,
        cache="bypass",
        saved_input_tokens=1,
        saved_output_tokens=2,
        saved_cost_nanos=3,
        provider="p",
        model="m",
        usage=Usage(**{kind: number for number, kind in enumerate(Usage.__struct_fields__, start=10)}),
        cost_nanos=4,
        cost_status="estimated",
        latency_ms=5,
        first_token_ms=6,
        attempts=attempts,
    )
    store.write([given])
    with database.read() as connection:
        row = dict(connection.execute(sa.select(usage_records)).mappings().one())
    assert row.pop("attempts") is not None
    with database.read() as connection:
        name = connection.execute(sa.select(usage_names.c.name).where(usage_names.c.id == row.pop("instance_id")))
        assert (row["instance"], name.scalar_one()) == ("", given.instance)
    row["instance"] = given.instance
    assert stored_attempts(database) == [attempts]
    assert msgspec.json.decode(row.pop("tags")) == {"team": "ü"}
    assert Usage(**{kind: row.pop(kind) for kind in Usage.__struct_fields__}) == given.usage
    assert row.pop("last_attempt_ms") == 9
    expected = msgspec.structs.asdict(given)
    assert row == {name: expected[name] for name in expected if name not in {"attempts", "tags", "usage"}}


def test_a_record_of_defaults_is_stored(store: UsageStore, database: Database) -> None:
    store.write([record()])
    with database.read() as connection:
        row = connection.execute(sa.select(usage_records)).one()
    assert (row.attempts, row.tags, row.last_attempt_ms, row.stream) == (None, None, None, False)


def test_an_empty_batch_writes_no_rows(store: UsageStore, database: Database) -> None:
    store.write([])
    assert rollup_rows(database) == []


def test_batches_of_any_size_are_stored_whole(store: UsageStore, database: Database) -> None:
    batch = [record(user_id=f"u{number % 700}") for number in range(2_345)]
    store.write(batch)
    assert stored_ids(database) == sorted(given.id for given in batch)
    assert store.summary(1, NOW_MS).requests == 2_345
    assert sum(row.requests for row in store.by_customer(1, NOW_MS, 1000)) == 2_345


def test_a_batch_sent_again_counts_once(store: UsageStore, database: Database) -> None:
    batch = [record(cost_nanos=number, attempts=[attempt()], provider="p") for number in range(10)]
    store.write(batch[:6])
    store.write(batch[:6])
    store.write(batch[3:])
    store.write([*batch, *batch])
    once = rollup_rows(database)
    clear(database)
    store.write(batch)
    assert rollup_rows(database) == once
    assert store.summary(1, NOW_MS).cost_nanos == sum(range(10))


def test_the_first_of_two_records_with_one_id_counts(store: UsageStore) -> None:
    first = record(cost_nanos=1)
    store.write([first, record(id=first.id, cost_nanos=2)])
    store.write([record(id=first.id, cost_nanos=4)])
    assert store.summary(1, NOW_MS) == Totals(requests=1, cost_nanos=1)


@pytest.mark.parametrize(
    "bad",
    [
        {"user_id": None},
        {"outcome": None},
        {"status": 2**63},
        {"saved_cost_nanos": 2**70},
        {"key_name": "\ud800"},
        {"cost_nanos": 2**60},
        {"usage": Usage(output_tokens=-5)},
    ],
)
def test_a_batch_with_a_bad_record_is_refused_whole(store: UsageStore, database: Database, bad: dict[str, Any]) -> None:
    batch = [record(), record(**bad), record()]
    with pytest.raises(RecordsRefused):
        store.write(batch)
    assert (stored_ids(database), rollup_rows(database)) == ([], [])
    store.write([batch[0], batch[2]])
    assert store.summary(1, NOW_MS).requests == 2


def test_records_and_rollups_are_written_in_one_transaction(store: UsageStore, database: Database) -> None:
    batch = [record(), record()]
    with refusing(database, "INSERT", "usage_rollups", "new.hours = 24"):
        with pytest.raises(RecordsRefused):
            store.write(batch)
        assert (stored_ids(database), rollup_rows(database)) == ([], [])
    store.write(batch)
    assert store.summary(1, NOW_MS).requests == 2


def test_a_concurrent_write_of_the_same_records_is_unavailable(store: UsageStore, database: Database) -> None:
    with ignoring(database, "INSERT", "usage_records"), pytest.raises(StoreUnavailable, match="Another writer"):
        store.write([record()])
    assert rollup_rows(database) == []


def test_a_locked_database_is_unavailable_and_nothing_is_lost(store: UsageStore, database: Database, url: str) -> None:
    batch = [record()]
    with locked(url):
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.write(batch)
        assert 0.15 < time.monotonic() - started < 2
    store.write(batch)
    assert stored_ids(database) == [batch[0].id]


WRITE_FOR_EVER = """
import sys
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.domain.usage import Usage, UsageRecord
from llm_gateway.store.database import Database
from llm_gateway.store.usage import UsageStore

store = UsageStore(Database.open(sys.argv[1]))
while True:
    batch = [
        UsageRecord(
            id=new_id(), at_ms=1_000_000, instance="i", key_name="k", user_id=f"u{n}", service="s", task_type="t",
            surface="generate", cost_nanos=n, usage=Usage(input_tokens=n),
        )
        for n in range(200)
    ]
    store.write(batch)
    print("written", flush=True)
"""


@pytest.mark.parametrize("after_batches", [1, 7])
@pytest.mark.usefixtures("long_on_postgres")
def test_killed_at_any_moment_rollups_are_the_sum_of_the_records(
    database: Database, url: str, after_batches: int
) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, url], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(after_batches):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    with database.read() as connection:
        records = connection.exec_driver_sql("SELECT count(*), sum(cost_nanos), sum(input_tokens) FROM usage_records")
        stored = tuple(records.one())
    totals = UsageStore(database).summary(365, 1_000_000 + DAY_MS)
    assert (totals.requests, totals.cost_nanos, totals.input_tokens) == stored
    assert stored[0] >= 200 * after_batches
    assert stored[0] % 200 == 0


# --- reading at startup, and deleting by age ---


def test_recent_requests_of_keys_have_the_tokens_that_a_provider_served(store: UsageStore) -> None:
    served = record(NOW_MS + 5, key_id="k", usage=Usage(input_tokens=3, output_tokens=4))
    store.write(
        [served, record(NOW_MS - 5, key_id="k"), record(NOW_MS + 6, key_name="env"), record(NOW_MS, key_id="l")]
    )
    found = sorted(store.recent_key_calls(NOW_MS), key=lambda call: call.key_id)
    assert found == [KeyCall("k", NOW_MS + 5, 7), KeyCall("l", NOW_MS, 0)]


def test_recent_attempts_are_those_sent_since(store: UsageStore) -> None:
    since = NOW_MS - 61_000
    store.write(
        [
            record(since - 5, attempts=[attempt(since - 1, "early"), attempt(since, "edge", limit_tokens=7)]),
            record(since + 5, attempts=[attempt(since + 5, "unsent", sent=False), attempt(since + 9, "late")]),
            record(since - 600_000, attempts=[attempt(since + 1, "slow", limit_tokens=3)]),
            record(since - 600_001, attempts=[attempt(since + 1, "too slow")]),
            record(since + 1),
            record(since - 1, attempts=[attempt(since - 1)]),
        ]
    )
    found = sorted(store.recent_attempts(since), key=lambda sent: sent.provider_id)
    assert found == [
        SentAttempt("id-edge", since, 7),
        SentAttempt("id-late", since + 9, 0),
        SentAttempt("id-slow", since + 1, 3),
    ]
    assert SentAttempt("id-slow", since + 1, 3) not in store.recent_attempts(since, longest_request_ms=599_999)
    assert SentAttempt("id-too slow", since + 1, 0) in store.recent_attempts(since, longest_request_ms=600_001)


def test_prune_deletes_the_oldest_in_steps_and_keeps_rollups(store: UsageStore, database: Database) -> None:
    batch = [record(NOW_MS + offset) for offset in range(-5, 5)]
    store.write(batch)
    before = rollup_rows(database)
    assert store.prune(NOW_MS, 3) == 3
    assert stored_ids(database) == [given.id for given in batch[3:]]
    assert [store.prune(NOW_MS, 3) for _ in range(2)] == [2, 0]
    assert stored_ids(database) == [given.id for given in batch[5:]]
    assert rollup_rows(database) == before


def test_ids_made_by_the_gateway_lie_in_the_range_of_their_time(store: UsageStore) -> None:
    before = time.time_ns() // 1_000_000
    store.write([record(before, id=new_id())])
    assert store.prune(before, 10) == 0
    assert store.prune(time.time_ns() // 1_000_000 + 1, 10) == 1


def test_times_before_1970_find_no_records(store: UsageStore) -> None:
    assert store.prune(-5, 10) == 0
    assert store.recent_attempts(5) == []
