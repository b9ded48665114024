"""GET /api/v1/usage/summary: what it counts, and that it counts what was just answered."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fastapi import APIRouter

from llm_gateway.api.auth import Gate, Keyring
from llm_gateway.api.management import build_management
from llm_gateway.api.usage import usage_router
from llm_gateway.store.database import Database
from llm_gateway.store.usage import UsageStore
from tests.api.driver import DEV_KEY, Client, assert_problem
from tests.api.test_providers import PATH as PROVIDERS
from tests.api.test_providers import created
from tests.upstream import MockUpstream, completion_tokens, prompt_tokens

PATH = "/api/v1/usage/summary"
FIELDS = {
    "period_days": int, "total_requests": int, "total_cost_usd": float, "total_tokens": int, "cached_requests": int,
    "error_requests": int, "cache_hit_rate": float,
}  # fmt: skip


@pytest.fixture
async def paid(client: Client, mock: MockUpstream) -> Client:
    """A gateway with one provider, at 1 USD and 2 USD per million tokens."""
    prices = {"ok": {"input": 1, "output": 2}}
    await created(client, base_url=mock.base_url, models=["ok"], prices=prices)
    return client


async def ask(client: Client, prompt: str = "Hello", **fields: Any) -> Any:
    body = {"user_id": "u", "service": "s", "prompt": prompt, **fields}
    return await client.call("POST", "/api/v1/generate", body)


async def test_nothing_yet(client: Client) -> None:
    summary = (await client.call("GET", PATH)).json
    assert {name: type(summary[name]) for name in FIELDS} == FIELDS
    assert set(summary) == {*FIELDS, "cost_status_counts"}
    assert summary.pop("cost_status_counts") == {"exact": 0, "estimated": 0, "unpriced": 0}
    assert summary.pop("period_days") == 30
    assert set(summary.values()) == {0}


async def test_every_answer_is_counted_as_soon_as_it_is_given(paid: Client, mock: MockUpstream) -> None:
    summary: dict[str, Any] = {}
    for number in range(1, 4):
        answer = (await ask(paid, f"prompt {number}")).json
        assert answer["cost_usd"] == (answer["input_tokens"] + 2 * answer["output_tokens"]) / 1e6
        summary = (await paid.call("GET", PATH)).json
        assert summary["total_requests"] == number
    bought = [(prompt_tokens(n), completion_tokens(n)) for n in (1, 2, 3)]
    assert summary["total_tokens"] == sum(into + out for into, out in bought)
    assert summary["total_cost_usd"] == pytest.approx(sum(into + 2 * out for into, out in bought) / 1e6, abs=1e-15)
    assert summary["cost_status_counts"] == {"exact": 3, "estimated": 0, "unpriced": 0}


async def test_hits_cost_nothing_and_buy_no_tokens(paid: Client) -> None:
    first = (await ask(paid)).json
    before = (await paid.call("GET", PATH)).json
    hit = (await ask(paid)).json
    assert (hit["cached"], hit["cost_usd"]) == (True, 0)
    same = ("content", "provider", "model", "input_tokens", "output_tokens", "finish_reason")
    assert [hit[name] for name in same] == [first[name] for name in same]
    after = (await paid.call("GET", PATH)).json
    assert (after["total_requests"], after["cached_requests"], after["cache_hit_rate"]) == (2, 1, 0.5)
    assert after["total_tokens"] == before["total_tokens"]
    assert after["total_cost_usd"] == before["total_cost_usd"]


async def test_errors_are_counted_and_refusals_at_the_gate_are_not(client: Client, mock: MockUpstream) -> None:
    assert_problem(await ask(client), 503, "no_provider")
    provider = await created(client, base_url=mock.base_url, models=["status-400"], rate_limit_rpm=1)
    assert_problem(await ask(client), 502, "provider_error")
    assert_problem(await ask(client), 429, "rate_limited")
    assert_problem(await ask(client, max_tokens=0), 422, "validation_error")
    assert_problem(await ask(Client(client.app, key=None)), 401, "unauthorized")
    summary = (await client.call("GET", PATH)).json
    assert (summary["total_requests"], summary["error_requests"]) == (3, 3)
    assert (summary["total_tokens"], summary["total_cost_usd"], summary["cached_requests"]) == (0, 0, 0)
    await client.call("DELETE", f"{PROVIDERS}/{provider['id']}")
    assert (await client.call("GET", PATH)).json == summary


async def test_an_unknown_price_is_said_and_is_no_error(client: Client, mock: MockUpstream) -> None:
    await created(client, base_url=mock.base_url, models=["ok"])
    answer = (await ask(client)).json
    assert (answer["cost_usd"], answer["cost_status"]) == (0, "unpriced")
    summary = (await client.call("GET", PATH)).json
    assert summary["cost_status_counts"] == {"exact": 0, "estimated": 0, "unpriced": 1}
    assert summary["error_requests"] == 0


@pytest.mark.parametrize("days", [1, 30, 365])
async def test_days(client: Client, days: int) -> None:
    assert (await client.call("GET", f"{PATH}?days={days}")).json["period_days"] == days


@pytest.mark.parametrize("days", ["0", "366", "-1", "x", "1.5", "", "NaN", "9" * 5000, "1e2", "%F1"])
async def test_unfit_days(client: Client, days: str) -> None:
    problem = assert_problem(await client.call("GET", f"{PATH}?days={days}"), 422, "validation_error")
    assert problem["errors"][0]["loc"] == ["query", "days"]
    assert "days" in problem["detail"]


def reports(database: Database, flushed: bool) -> Client:
    """The reports alone, over a journal that is shipped in time or not."""
    asked: list[float] = []

    def flush(timeout_s: float) -> bool:
        asked.append(timeout_s)
        assert threading.current_thread() is not threading.main_thread(), "the event loop must not wait for it"
        return flushed

    management = build_management([APIRouter(), usage_router(UsageStore(database), flush)], lambda *_, **__: None)
    return Client(Gate(management, Keyring([("dev", DEV_KEY, frozenset({"read"}))]), local_only=True))


@pytest.mark.parametrize("flushed", [True, False])
async def test_a_journal_that_is_behind_is_no_wrong_sum(migrated: Any, flushed: bool) -> None:
    database = Database.open(f"sqlite:///{migrated}")
    response = await reports(database, flushed).call("GET", PATH)
    database.close()
    if flushed:
        assert response.json["total_requests"] == 0
    else:
        assert_problem(response, 503, "database_unavailable")
        assert response.headers["retry-after"] == "5"
