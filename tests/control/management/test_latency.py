"""Percentiles of how long answers take, over the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_gateway.control.management.latency import SAMPLE, latency_router, percentiles
from llm_gateway.store.database import Database
from llm_gateway.store.record_search import RecordSearch
from llm_gateway.store.usage import UsageStore
from tests.application.driver import Client, assert_problem
from tests.control.management.reports_api import NO_TEAMS, client_of, copied
from tests.store.histories import DAY_MS, NOW_MS, record

LATENCY = "/api/v1/usage/latency"
LAST_WEEK = "from=2024-09-28&to=2024-10-05"


@pytest.fixture(scope="module")
def database(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with copied(migrated, tmp_path_factory.mktemp("latency")) as database:
        yield database


@pytest.fixture(scope="module")
def api(database: Database) -> Client:
    search = RecordSearch(database)
    rows = [
        record(NOW_MS - number, outcome="ok", provider=("acme", "bolt")[number % 2], model=f"m{number % 3}",
               latency_ms=number, first_token_ms=number // 2 if number % 2 else None)
        for number in range(1, 101)
    ]  # fmt: skip
    rows += [record(outcome=outcome, latency_ms=9_000_000) for outcome in ("cached", "failed", "cancelled")]
    rows.append(record(NOW_MS - 20 * DAY_MS, outcome="ok", provider="acme", model="old", latency_ms=9_000_000))
    UsageStore(database).write(rows)
    return client_of([latency_router(search, lambda: NOW_MS, NO_TEAMS)])


async def test_percentiles_are_those_of_answers_in_the_period_by_group_and_filter(api: Client) -> None:
    found = (await api.call("GET", f"{LATENCY}?{LAST_WEEK}&group_by=provider")).json
    assert found["latency"] == {"answers": 100, "p50_ms": 50, "p95_ms": 95, "p99_ms": 99}
    assert found["first_token"] == {"answers": 50, "p50_ms": 24, "p95_ms": 47, "p99_ms": 49}
    assert (found["is_whole"], found["since"]) == (True, "2024-10-04T15:00:01.134Z")
    assert [(row["name"], row["latency"]["p50_ms"]) for row in found["rows"]] == [("acme", 50), ("bolt", 49)]
    assert found["rows"][0]["first_token"] == {"answers": 0, "p50_ms": None, "p95_ms": None, "p99_ms": None}
    found = (await api.call("GET", f"{LATENCY}?{LAST_WEEK}&group_by=model&provider=bolt")).json
    assert (found["latency"]["answers"], found["latency"]["p99_ms"]) == (50, 99)
    assert sorted(row["name"] for row in found["rows"]) == ["m0", "m1", "m2"]


async def test_a_period_without_answers_has_no_percentiles(api: Client) -> None:
    found = (await api.call("GET", f"{LATENCY}?from=2024-01-01&to=2024-01-02")).json
    nothing = {"answers": 0, "p50_ms": None, "p95_ms": None, "p99_ms": None}
    assert found == {"latency": nothing, "first_token": nothing, "since": None, "is_whole": True, "rows": []}


async def test_odd_parameters_are_refused(api: Client) -> None:
    for query in ("group_by=customer", "from=2024-10-05&to=2024-10-04", "tz=Mars"):
        problem = assert_problem(await api.call("GET", f"{LATENCY}?{query}"), 422, "validation_error")
        assert query.split("=", maxsplit=1)[0] in problem["detail"]


async def test_a_sample_has_the_newest_answers_and_says_since_when(api: Client, database: Database) -> None:
    later = NOW_MS + 60 * DAY_MS
    newest = [record(later + number, outcome="ok", latency_ms=number) for number in range(SAMPLE + 20)]
    UsageStore(database).write(newest)
    found = (await api.call("GET", f"{LATENCY}?from=2024-11-01&to=2024-12-31")).json
    assert (found["latency"]["answers"], found["is_whole"]) == (SAMPLE, False)
    assert found["latency"]["p50_ms"] == 19 + SAMPLE // 2
    assert found["since"] > "2024-12-03T15:00:01.2"


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentiles([7]).model_dump() == {"answers": 1, "p50_ms": 7, "p95_ms": 7, "p99_ms": 7}
    assert percentiles([3, 1]).model_dump() == {"answers": 2, "p50_ms": 1, "p95_ms": 3, "p99_ms": 3}
