"""Records over the API: what happened to a request, by its id or by a search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.control.management.records import records_router
from llm_gateway.domain.budget import AccountRef, Budget
from llm_gateway.domain.usage import Price, Usage
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.record_search import RecordSearch
from llm_gateway.store.usage import UsageStore
from tests.application.driver import Client, assert_problem
from tests.control.management.reports_api import NO_TEAMS, client_of, copied
from tests.rows import each_row
from tests.store.histories import DAY_MS, NOW_MS, attempt, close, record

PATH = "/api/v1/usage/records"
PRICE = Price(input=((0, 150_000_000), (200_000, 300_000_000)), output=((0, 600_000_000),))


@pytest.fixture(scope="module")
def database(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with copied(migrated, tmp_path_factory.mktemp("records")) as database:
        store = UsageStore(database)
        failed = attempt(NOW_MS + 3, "a", status=503, error="overloaded", why=None, latency_ms=7)
        budget = BudgetStore(database).create(Budget(id="", name="core", per="user_id", limit=1))
        accounts = [AccountRef(budget.budget.id, "alice", 0), AccountRef("gone", "", 0)]
        failed.accounts = accounts[:1]
        answered = attempt(NOW_MS + 9, "b", status=200, why="failover:503", price=PRICE, usage=Usage(
            input_tokens=1000, output_tokens=100, cache_read_tokens=10), cost_nanos=210_000)  # fmt: skip
        answered.accounts = accounts
        made = record(
            NOW_MS, user_id="alice", client_request_id="mine-1", session="s1", tags={"project": "apollo"},
            outcome="ok", status=200, route="priority", attempts=[failed, answered], latency_ms=20,
        )  # fmt: skip
        close(made)
        refusal: dict[str, Any] = {"key_name": "old", "outcome": "refused_budget", "status": 429}
        refused = [
            record(NOW_MS - 30 * DAY_MS, user_id=user, refused_by=refused_by, **refusal)
            for user, refused_by in (("x", budget.budget.id), ("y", "gone"))
        ]
        store.write([made, *refused, *(record(NOW_MS - day * DAY_MS, user_id="bob") for day in range(1, 6))])
        yield database


@pytest.fixture
def api(database: Database) -> Client:
    search = RecordSearch(database)
    return client_of([records_router(search, lambda: NOW_MS + DAY_MS, NO_TEAMS, BudgetStore(database))])


async def test_a_record_tells_plan_attempts_tokens_price_and_cost(api: Client) -> None:
    [found] = (await api.call("GET", f"{PATH}?user_id=alice")).json["records"]
    assert (await api.call("GET", f"{PATH}/{found['id']}")).json == found
    assert (await api.call("GET", f"{PATH}/mine-1")).json == found
    assert (await api.call("GET", f"{PATH}?client_request_id=mine-1")).json["records"] == [found]
    assert (found["route"], found["outcome"], found["provider"], found["cost_usd"]) == ("priority", "ok", "b", 0.00021)
    assert [one["why"] for one in found["attempts"]] == [None, "failover:503"]
    assert found["attempts"][0]["error"] == "overloaded"
    assert found["attempts"][1]["tokens"] == found["tokens"]
    assert (found["tokens"]["input"], found["tokens"]["cache_read"]) == (1000, 10)
    assert found["attempts"][1]["price"] == {
        "input": [
            {"from_input_tokens": 0, "usd_per_million": 0.15},
            {"from_input_tokens": 200_000, "usd_per_million": 0.3},
        ],
        "output": 0.6,
    }
    charge = {"period_start": "1970-01-01T00:00:00.000Z", "cost_usd": 0.00021, "tokens": 1100}
    [own, gone] = found["budgets"]
    assert own == {"budget_id": own["budget_id"], "name": "core", "value": "alice", **charge}
    assert gone == {"budget_id": "gone", "name": None, "value": "", **charge}
    assert not {"prompt", "content", "messages"} & set(found)


async def test_a_refused_request_names_the_budget_that_had_no_room(api: Client) -> None:
    shown = {}
    for user in ("x", "y", "bob"):
        [found, *_] = (await api.call("GET", f"{PATH}?user_id={user}")).json["records"]
        shown[user] = found["refused_by"]
    assert shown["x"] == {"budget_id": shown["x"]["budget_id"], "name": "core"}
    assert shown["y"] == {"budget_id": "gone", "name": None}
    assert shown["bob"] is None


async def test_pages_follow_by_their_cursor(api: Client) -> None:
    seen, path = [], f"{PATH}?user_id=bob&limit=2"
    page = (await api.call("GET", path)).json
    while page["next_cursor"]:
        seen += page["records"]
        page = (await api.call("GET", f"{path}&cursor={page['next_cursor']}")).json
    seen += page["records"]
    assert len({each["id"] for each in seen}) == len(seen) == 5
    assert [each["at"] for each in seen] == sorted((each["at"] for each in seen), reverse=True)
    assert page["scanned_until"] is None


@each_row(
    ("query", "count"),
    [
        ("", 8), ("from=1969-01-01", 422), ("tag=project", 1), ("tag=project=apollo", 1), ("tag=project=x", 0),
        ("min_cost_usd=0.0002", 1), ("min_latency_ms=21", 0), ("session=s1", 1), ("outcome=ok", 1), ("key=k", 6),
        ("cost_status=unpriced", 0), ("cost_status=free", 422),
        ("outcome=failed", 0), ("model=m&provider=b", 1), ("team=t", 0), ("agent=x", 0), ("error_code=x", 0),
        ("from=2024-10-04&to=2024-10-05&tz=Europe/Berlin", 1), ("from=2024-10-01T10:00%2B02:00&limit=500", 4),
    ],
)  # fmt: skip
async def test_filters_narrow_the_search(api: Client, query: str, count: int) -> None:
    response = await api.call("GET", f"{PATH}?{query}")
    assert (len(response.json["records"]) if response.status == 200 else response.status) == count, response.body


@each_row(
    ("query", "names", "words"),
    [
        ("tz=Mars/Base", ["tz"], "IANA"), ("tz=../../etc/passwd", ["tz"], "IANA"), ("tz=America", ["tz"], "IANA"),
        ("from=2026-06-02&to=2026-06-01", ["from"], "before to"), ("from=yesterday", ["from"], "2026-06-01"),
        ("from=2026-02-30", ["from"], "2026-06-01"), ("to=9999-12-31", ["to"], "2200"), ("limit=0", ["limit"], "1"),
        ("limit=501", ["limit"], "500"), ("outcome=fine", ["outcome"], "'refused_budget'"),
        ("user=x", ["user"], "user_id"),
        ("cursor=xyz", ["cursor"], "leave it out"), ("min_cost_usd=nan", ["min_cost_usd"], "finite"),
        ("tag=a%20b", ["tag"], "the name of a tag"), ("min_latency_ms=1e3", ["min_latency_ms"], "whole number"),
        ("user_id=", ["user_id"], "must not be empty"), ("cursor=W10", ["cursor"], "leave it out"),
    ],
)  # fmt: skip
async def test_bad_parameters_get_one_sentence(api: Client, query: str, names: list[str], words: str) -> None:
    problem = assert_problem(await api.call("GET", f"{PATH}?{query}"), 422, "validation_error")
    assert [error["loc"] for error in problem["errors"]] == [["query", *names]]
    assert words in problem["detail"]


async def test_a_cursor_of_another_query_is_refused(api: Client) -> None:
    cursor = (await api.call("GET", f"{PATH}?limit=1")).json["next_cursor"]
    assert (await api.call("GET", f"{PATH}?limit=2&cursor={cursor}")).status == 200
    problem = assert_problem(await api.call("GET", f"{PATH}?key=k&cursor={cursor}"), 422, "validation_error")
    assert "other parameters" in problem["detail"]


@each_row("key", ["nothing", "0" * 36, "%00", "%FF", "a" * 128])
async def test_an_unknown_id_is_404(api: Client, key: str) -> None:
    assert_problem(await api.call("GET", f"{PATH}/{key}"), 404, "not_found")
