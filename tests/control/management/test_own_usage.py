"""Scope `own`: what a key sees of its own usage and its team's on every path, and that it sees nothing of others."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.control.management.breakdown import breakdown_router, series_router
from llm_gateway.control.management.export import export_router
from llm_gateway.control.management.latency import latency_router
from llm_gateway.control.management.own_usage import OwnUsage
from llm_gateway.control.management.recent_usage import RecentUsage
from llm_gateway.control.management.records import records_router
from llm_gateway.control.management.usage import usage_router
from llm_gateway.error_format.paths import MANAGEMENT_PATHS
from llm_gateway.gate.authentication import OPEN_PATHS, OWN_PATHS, Keyring
from llm_gateway.gate.request_context import Caller
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.record_search import RecordSearch
from llm_gateway.store.usage import UsageStore
from llm_gateway.store.usage_reports import UsageReports
from tests.application.driver import Client, assert_problem
from tests.control.management.reports_api import client_behind, copied
from tests.rows import each_row
from tests.store.histories import NOW_MS, attempt, record

MINE, MATE, OTHER = (f"01890a5d-ac96-774b-bcce-b302099a805{number}" for number in (1, 2, 3))
CORE, ELSEWHERE = (f"01890a5d-ac96-774b-bcce-b302099a806{number}" for number in (1, 2))
PERIOD = "from=2024-10-01&to=2024-10-08"
USAGE = "/api/v1/usage"
Seen = list[str]


class OneCaller(Keyring):
    """Finds the same caller for every key."""

    def __init__(self, caller: Caller) -> None:
        super().__init__([])
        self._caller = caller

    def find(self, key: bytes) -> Caller | None:
        return self._caller


def keyed(user_id: str, key_id: str | None, team_id: str | None, key_name: str = "k") -> Any:
    bought: dict[str, Any] = {
        "attempts": [attempt(cost_nanos=7)],
        "provider": "p",
        "model": "m",
        "cost_nanos": 7,
        "outcome": "ok",
    }
    owner = {"user_id": user_id, "key_id": key_id, "team_id": team_id, "key_name": key_name}
    return record(NOW_MS, client_request_id="same", **owner, **bought)


RECORDS = {
    each.user_id: each
    for each in (
        keyed("mine", MINE, CORE),
        keyed("mine-before", MINE, None),
        keyed("mate", MATE, CORE),
        keyed("other", OTHER, ELSEWHERE),
        keyed("env", None, None, "env-key"),
    )
}


@pytest.fixture(scope="module")
def database(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with copied(migrated, tmp_path_factory.mktemp("own")) as database:
        UsageStore(database).write(list(RECORDS.values()))
        yield database


def client(database: Database, caller: Caller, team: str | None) -> Client:
    own, search, reports = OwnUsage(lambda _: team), RecordSearch(database), UsageReports(database)
    routers = (
        records_router(search, lambda: NOW_MS, own, BudgetStore(database)),
        export_router(search, lambda: NOW_MS, own),
        breakdown_router(reports, lambda: NOW_MS, own),
        series_router(reports, lambda: NOW_MS, own),
        latency_router(search, lambda: NOW_MS, own),
        usage_router(RecentUsage(UsageStore(database), reports), lambda: NOW_MS, own),
    )
    return client_behind(OneCaller(caller), routers)


async def seen_in_records(api: Client, query: str) -> Seen:
    found = (await api.call("GET", f"{USAGE}/records?{PERIOD}{query}")).json
    return sorted(each["user_id"] for each in found["records"])


async def seen_in_breakdown(api: Client, query: str) -> Seen:
    found = (await api.call("GET", f"{USAGE}/breakdown?{PERIOD}&group_by=customer{query}")).json
    assert found["totals"]["requests"] == len(found["rows"])
    return sorted(row["group"]["customer"] for row in found["rows"])


async def seen_in_series(api: Client, query: str) -> Seen:
    found = (await api.call("GET", f"{USAGE}/series?{PERIOD}&metric=requests&group_by=customer{query}")).json
    return sorted(line["name"] for line in found["series"])


async def seen_in_export(api: Client, query: str) -> Seen:
    body = (await api.call("GET", f"{USAGE}/export?{PERIOD}{query}")).body
    return sorted(row["user_id"] for row in csv.DictReader(body.decode().splitlines()))


REPORTS: dict[str, Callable[[Client, str], Any]] = {
    "records": seen_in_records,
    "breakdown": seen_in_breakdown,
    "series": seen_in_series,
    "export": seen_in_export,
}
COUNTED = "latency"
"""A report of answers without their labels."""
RECENT = ("summary", "by-provider", "by-service", "by-customer")
"""Reports of the last days, which have no filters."""
OWN = frozenset({"call", "own"})
IN_TEAM, ALONE, OF_ENVIRONMENT = Caller("k", OWN, MINE), Caller("k", OWN, MINE), Caller("env-key", OWN)


@each_row(
    ("caller", "team", "query", "seen"),
    [
        (IN_TEAM, CORE, "", ["mate", "mine"]),
        (IN_TEAM, CORE, f"&team={CORE}", ["mate", "mine"]),
        (IN_TEAM, CORE, f"&key={MINE}", ["mine", "mine-before"]),
        (IN_TEAM, CORE, f"&key={MATE}", ["mate"]),
        (IN_TEAM, CORE, f"&key={OTHER}", []),
        (IN_TEAM, CORE, f"&team={ELSEWHERE}", None),
        (IN_TEAM, CORE, f"&key={OTHER}&team={ELSEWHERE}", None),
        (IN_TEAM, CORE, f"&key={MINE}&team={ELSEWHERE}", []),
        (ALONE, None, "", ["mine", "mine-before"]),
        (ALONE, None, f"&key={MATE}", None),
        (ALONE, None, f"&team={CORE}", None),
        (OF_ENVIRONMENT, None, "", ["env"]),
        (OF_ENVIRONMENT, None, "&key=env-key", ["env"]),
        (OF_ENVIRONMENT, None, "&key=k", None),
        (Caller("reader", frozenset({"read", "own"}), MINE), CORE, "", sorted(RECORDS)),
    ],
)
async def test_every_report_shows_only_the_keys_and_its_teams_usage(
    database: Database, caller: Caller, team: str | None, query: str, seen: Seen | None
) -> None:
    assert {f"{USAGE}/{name}" for name in (*REPORTS, COUNTED, *RECENT)} == OWN_PATHS
    api = client(database, caller, team)
    if seen is not None:
        counted = (await api.call("GET", f"{USAGE}/{COUNTED}?{PERIOD}{query}")).json
        assert counted["latency"]["answers"] == len(seen)
    for name, report in {**REPORTS, COUNTED: seen_in_export}.items() if seen is None else REPORTS.items():
        if seen is None:
            problem = assert_problem(await api.call("GET", f"{USAGE}/{name}?{PERIOD}{query}"), 403, "forbidden")
            assert f"(key={caller.key_id or caller.name})" in problem["detail"]
            assert team is None or f"its team (team={team})" in problem["detail"]
        else:
            assert await report(api, query) == seen, name


@each_row(
    ("caller", "team", "customers"),
    [
        (IN_TEAM, CORE, ["mate", "mine"]),
        (ALONE, None, ["mine", "mine-before"]),
        (OF_ENVIRONMENT, None, ["env"]),
        (Caller("reader", frozenset({"read", "own"}), MINE), CORE, sorted(RECORDS)),
    ],
)
async def test_the_reports_of_the_last_days_show_the_team_or_the_key(
    database: Database, caller: Caller, team: str | None, customers: Seen
) -> None:
    api = client(database, caller, team)
    summary, providers, services, seen = [(await api.call("GET", f"{USAGE}/{name}?days=3")).json for name in RECENT]
    assert sorted(row["user_id"] for row in seen) == customers
    assert summary["total_requests"] == len(customers)
    for rows in (providers, services, seen):
        assert sum(row["request_count"] for row in rows) == len(customers)
        assert sum(row["total_cost_usd"] for row in rows) == pytest.approx(summary["total_cost_usd"])
    month = await api.call("GET", f"{USAGE}/by-customer")
    if "read" in caller.scopes:
        assert len(month.json) == len(customers)
    else:
        assert "ask with days=6" in assert_problem(month, 422, "validation_error")["detail"]


async def test_a_single_record_of_others_is_not_there(database: Database) -> None:
    api = client(database, IN_TEAM, CORE)
    for user_id, each in RECORDS.items():
        response = await api.call("GET", f"{USAGE}/records/{each.id}")
        assert response.status == (200 if user_id.startswith("m") else 404), user_id
    assert (await api.call("GET", f"{USAGE}/records/same")).json["user_id"].startswith("mine")
    of_environment = client(database, OF_ENVIRONMENT, None)
    assert (await of_environment.call("GET", f"{USAGE}/records/same")).json["user_id"] == "env"


OF_CALLER = {"/api/v1/me", "/api/v1/sessions", "/api/v1/sessions/{session_id}"}
"""Paths at which any key sees what is its own."""


async def test_all_other_paths_of_management_are_refused(database: Database) -> None:
    api = client(database, IN_TEAM, CORE)
    paths = [path for path in MANAGEMENT_PATHS if path not in OPEN_PATHS | OWN_PATHS | OF_CALLER]
    refused = [path for path in paths if path != f"{USAGE}/records/{{record_id}}"]
    assert len(refused) > 15
    for path in refused:
        detail = assert_problem(await api.call("GET", path), 403, "forbidden")["detail"]
        assert "This key lacks the scope" in detail, path
    problem = assert_problem(await api.call("GET", "/api/v1/prices"), 403, "forbidden")
    assert "With 'own' it may get GET /api/v1/me and the reports below /api/v1/usage/" in problem["detail"]
    assert_problem(await api.call("DELETE", f"{USAGE}/records"), 403, "forbidden")
