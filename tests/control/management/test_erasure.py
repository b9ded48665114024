"""Erasure and prices over the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from llm_gateway.control.management.breakdown import breakdown_router
from llm_gateway.control.management.erasure import erasure_router
from llm_gateway.control.management.prices import prices_router
from llm_gateway.control.management.records import records_router
from llm_gateway.domain.catalog import Provider, Snapshot
from llm_gateway.domain.public_prices import PricedModel, PublicPrices, Rule, TimedPrice, VendorPrices
from llm_gateway.domain.usage import FREE, Price, Usage
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.erasure import Erasure
from llm_gateway.store.overrides import OverrideStore
from llm_gateway.store.price_history import PriceHistory
from llm_gateway.store.record_search import RecordSearch
from llm_gateway.store.usage import UsageStore
from llm_gateway.store.usage_reports import UsageReports
from tests.application.driver import Client, assert_problem
from tests.control.management.reports_api import NO_TEAMS, client_of, copied
from tests.rows import each_row
from tests.store.histories import NOW_MS, attempt, close, record

CUSTOMERS, PRICES = "/api/v1/usage/customers", "/api/v1/prices"
LISTED = Price(input=((0, 2_500_000_000), (200_000, 5_000_000_000)), output=((0, 10_000_000_000),))
LISTED_SINCE = (TimedPrice(None), TimedPrice(LISTED, since_s=1_700_000_000), TimedPrice(FREE, since_s=99_000_000_000))


def provider(name: str, **fields: Any) -> Provider:
    plain: dict[str, Any] = {"kind": "openai", "base_url": None, "models": ("m",), "is_enabled": True}
    numbers = dict.fromkeys(("rate_limit_rpm", "rate_limit_tpm", "priority", "created_at_ms", "updated_at_ms"), 0)
    return Provider(id=name, name=name, display_name=name, timeout_s=1.0, **{**plain, **numbers, **fields})


SNAPSHOT = Snapshot(
    {
        "b": provider("b", models=("own", "listed", "new"), prices={"own": {"input": 1, "output": 2.5}},
                      price_by_model={"listed": LISTED}, price_vendor="b"),
        "a": provider("a", kind="local", price_by_model={"m": FREE}),
    }, (), {},
    public_prices=PublicPrices({"b": VendorPrices((PricedModel(Rule("equals", "listed"), LISTED_SINCE),))}),
)  # fmt: skip


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Iterator[Database]:
    with copied(migrated, tmp_path) as database:
        yield database


def client(database: Database, scope: str, late: UsageStore | None = None) -> Client:
    """Return a client; with `late`, a request of team/ann is still in the journal until something waits for it."""

    def up_to_date() -> int:
        if late is not None:
            late.write([record(NOW_MS + 1, user_id="team/ann")])
        return NOW_MS + 2

    reports = UsageReports(database)
    routers = (
        erasure_router(Erasure(database, sleep=lambda _: None), OverrideStore(database), up_to_date),
        prices_router(lambda: SNAPSHOT, reports, PriceHistory(database), up_to_date),
        records_router(RecordSearch(database), up_to_date, NO_TEAMS, BudgetStore(database)),
        breakdown_router(reports, up_to_date, NO_TEAMS),
    )
    return client_of(routers, scope)


async def test_erasing_a_customer_includes_what_the_journal_holds(database: Database) -> None:
    store = UsageStore(database)
    store.write([record(NOW_MS, user_id="team/ann"), record(NOW_MS, user_id="bob")])
    admin = client(database, "admin", store)
    answer = await admin.call("DELETE", f"{CUSTOMERS}/{quote('team/ann', safe='')}")
    assert answer.status == 200
    assert (answer.json["records"], answer.json["overrides"]) == (2, [])
    rows = (await client(database, "read").call("GET", "/api/v1/usage/breakdown?group_by=customer")).json["rows"]
    assert {row["group"]["customer"]: row["requests"] for row in rows} == {answer.json["erased_as"]: 2, "bob": 1}
    assert (await client(database, "read").call("GET", "/api/v1/usage/records?user_id=team/ann")).json["records"] == []


@each_row("name", ["nobody", "%00", "%FF", "a" * 300, "a/b", "erased-"])
async def test_an_unknown_customer_is_404(database: Database, name: str) -> None:
    problem = assert_problem(await client(database, "admin").call("DELETE", f"{CUSTOMERS}/{name}"), 404, "not_found")
    assert "user_id" in problem["detail"]


async def test_erasing_needs_the_scope_admin(database: Database) -> None:
    assert_problem(await client(database, "read").call("DELETE", f"{CUSTOMERS}/bob"), 403, "forbidden")


async def test_prices_tell_their_source_and_unpriced_models_are_counted(database: Database) -> None:
    bought = Usage(input_tokens=10, output_tokens=5)
    history = []
    for model, status in (("new", "unpriced"), ("new", "unpriced"), ("listed", "exact"), ("gone", "unpriced")):
        one = attempt(NOW_MS, "b", model=model, usage=bought, cost_status=status)
        history.append(record(NOW_MS, outcome="ok", attempts=[one]))
        close(history[-1])
    UsageStore(database).write(history)
    found = (await client(database, "read").call("GET", PRICES)).json
    tiers = [{"from_input_tokens": 0, "usd_per_million": 2.5}, {"from_input_tokens": 200_000, "usd_per_million": 5.0}]
    free = {"input": 0.0, "output": 0.0}
    assert found["prices"] == [
        {"provider": "a", "model": "m", "source": "embedded", "price": free, "in_force_since": None},
        {"provider": "b", "model": "own", "source": "operator", "price": {"input": 1.0, "output": 2.5},
         "in_force_since": None},
        {"provider": "b", "model": "listed", "source": "public_list", "price": {"input": tiers, "output": 10.0},
         "in_force_since": "2023-11-14T22:13:20.000Z"},
        {"provider": "b", "model": "new", "source": "none", "price": None, "in_force_since": None},
    ]  # fmt: skip
    assert found["unpriced"] == [
        {"provider": "b", "model": "new", "unpriced_requests": 2, "total_tokens": 30},
        {"provider": "b", "model": "gone", "unpriced_requests": 1, "total_tokens": 15},
    ]
    assert found["unpriced_since"] == "2024-09-05T00:00:00.000Z"
