"""Usage reports count requests, tokens and cost, including those of the response sent just before."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from llm_gateway.control.management.app import build_management
from llm_gateway.control.management.freshness import up_to_date_by
from llm_gateway.control.management.recent_usage import RecentUsage
from llm_gateway.control.management.router import Router
from llm_gateway.control.management.usage import usage_router
from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.gate.in_flight import InFlight
from llm_gateway.store.database import Database
from llm_gateway.store.usage import UsageStore
from llm_gateway.store.usage_reports import UsageReports
from tests.application.driver import DEV_KEY, READS_ONLY, Client, assert_problem, ignore
from tests.control.management.reports_api import NO_TEAMS
from tests.control.management.test_providers import PATH as PROVIDERS
from tests.control.management.test_providers import created
from tests.rows import each_row
from tests.upstream import MockUpstream, completion_tokens, prompt_tokens
from tests.upstream.answers import completion

PATH = "/api/v1/usage/summary"
BY_PROVIDER, BY_SERVICE, BY_CUSTOMER = (
    f"/api/v1/usage/by-{dimension}" for dimension in ("provider", "service", "customer")
)
REPORTS = (PATH, BY_PROVIDER, BY_SERVICE, BY_CUSTOMER)
FIELDS = {
    "period_days": int, "total_requests": int, "total_cost_usd": float, "total_tokens": int, "cached_requests": int,
    "error_requests": int, "cache_hit_rate": float,
}  # fmt: skip


@pytest.fixture
async def paid(client: Client, mock: MockUpstream) -> Client:
    """Configure one provider, at 1 USD and 2 USD per million input and output tokens."""
    prices = {"ok": {"input": 1, "output": 2}}
    await created(client, base_url=mock.base_url, models=["ok"], prices=prices)
    return client


async def ask(client: Client, prompt: str = "Hello", **fields: Any) -> Any:
    body = {"user_id": "u", "service": "s", "prompt": prompt, **fields}
    return await client.call("POST", "/api/v1/generate", body)


@READS_ONLY
async def test_without_usage_every_figure_is_zero(reader: Client) -> None:
    summary = (await reader.call("GET", PATH)).json
    assert {name: type(summary[name]) for name in FIELDS} == FIELDS
    assert set(summary) == {*FIELDS, "cost_status_counts"}
    assert summary.pop("cost_status_counts") == {"exact": 0, "estimated": 0, "unpriced": 0}
    assert summary.pop("period_days") == 30
    assert set(summary.values()) == {0}


async def test_a_report_counts_every_response_sent_before_it(paid: Client, mock: MockUpstream) -> None:
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


async def test_cache_hits_cost_nothing_and_add_no_tokens(paid: Client) -> None:
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


async def test_failed_requests_are_counted_and_unauthenticated_ones_are_not(client: Client, mock: MockUpstream) -> None:
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


async def test_a_request_without_a_price_is_counted_as_unpriced(client: Client, mock: MockUpstream) -> None:
    await created(client, base_url=mock.base_url, models=["ok"])
    answer = (await ask(client)).json
    assert (answer["cost_usd"], answer["cost_status"]) == (0, "unpriced")
    summary = (await client.call("GET", PATH)).json
    assert summary["cost_status_counts"] == {"exact": 0, "estimated": 0, "unpriced": 1}
    assert summary["error_requests"] == 0


async def test_the_public_price_is_found_by_the_reported_model_name(client: Client) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.read(65536)  # the body; closing with unread bytes would reset the connection
        body = completion("ok", 1, "call", "gpt-4o-mini-2024-07-18", "Hello")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await created(client, base_url=f"http://127.0.0.1:{port}/v1", models=["our-deployment"])
        told = (await ask(client)).json

    cost_nanos = prompt_tokens(1) * 150 + completion_tokens(1) * 600  # 0.15 and 0.60 USD per million tokens
    assert (told["cost_usd"], told["cost_status"]) == (cost_nanos / 10**9, "exact")


@READS_ONLY
@pytest.mark.parametrize("days", [1, 30, 365])
async def test_days_chooses_the_period(reader: Client, days: int) -> None:
    assert (await reader.call("GET", f"{PATH}?days={days}")).json["period_days"] == days


DAYS_MUST_BE = {"0": "at least 1", "-1": "at least 1", "366": "at most 365"}


@READS_ONLY
@each_row("path", REPORTS)
@each_row(
    "days",
    ["0", "366", "-1", "x", "1.5", "1.0", "", "NaN", "9" * 5000, "1e2", "%F1", "1_0", "+1", "%201", "true", "%D9%A3"],
)
async def test_days_outside_the_limits_are_rejected(reader: Client, path: str, days: str) -> None:
    problem = assert_problem(await reader.call("GET", f"{path}?days={days}"), 422, "validation_error")
    assert problem["errors"][0]["loc"] == ["query", "days"]
    bound = DAYS_MUST_BE.get(days, "a whole number of at most 9 digits, such as 30")
    assert problem["detail"] == f"days must be {bound}."


@pytest.mark.parametrize("path", [BY_PROVIDER, BY_SERVICE, BY_CUSTOMER])
async def test_reports_without_usage_are_empty_lists(client: Client, path: str) -> None:
    await created(client)
    for query in ("", "?days=1", "?days=365"):
        assert (await client.call("GET", path + query)).json == []


async def test_cost_and_tokens_count_for_the_provider_of_each_attempt(client: Client, mock: MockUpstream) -> None:
    """Cost and tokens count for the provider of each attempt, the request for the one that answered."""
    prices = {name: {"input": 1000, "output": 2000} for name in ("ok", "status-500")}
    cheap = {"ok": {"input": 0, "output": 0}}
    await created(client, name="broken", base_url=mock.base_url, models=["status-500"], prices=prices, priority=30)
    await created(client, name="dear", base_url=mock.base_url, models=["ok"], prices=prices, priority=20)
    await created(client, name="cheap", base_url=mock.base_url, models=["ok"], prices=cheap, priority=10)
    override = {"user_id": "thrifty", "provider_name": "cheap", "model_name": "ok"}
    assert (await client.call("POST", "/api/v1/overrides", override)).status == 201
    answers = [(await ask(client, str(number))).json for number in range(2)]
    free = [(await ask(client, str(number), user_id="thrifty")).json for number in range(3)]
    assert (await ask(client, "0")).json["cached"] is True
    rows = (await client.call("GET", BY_PROVIDER)).json
    assert [row["provider_name"] for row in rows] == ["dear", "cheap"]
    dear, cheap_row = rows
    assert set(dear) == {"provider_name", "request_count", "total_cost_usd", "avg_latency_ms", "total_tokens"}
    assert dear["request_count"] == 2, "a hit reaches no provider"
    assert dear["total_cost_usd"] == pytest.approx(sum(answer["cost_usd"] for answer in answers), abs=1e-12)
    assert dear["total_tokens"] == sum(answer["input_tokens"] + answer["output_tokens"] for answer in answers)
    assert 0 <= dear["avg_latency_ms"] < 5000
    assert (cheap_row["request_count"], cheap_row["total_cost_usd"]) == (3, 0)
    assert cheap_row["total_tokens"] == sum(answer["input_tokens"] + answer["output_tokens"] for answer in free)


async def test_a_failed_request_counts_for_the_provider_tried_last(client: Client, mock: MockUpstream) -> None:
    await created(client, base_url=mock.base_url, models=["status-400"])
    assert_problem(await ask(client), 502, "provider_error")
    [row] = (await client.call("GET", BY_PROVIDER)).json
    assert (row["provider_name"], row["request_count"], row["avg_latency_ms"]) == ("acme", 1, 0)


async def test_by_service_and_by_customer_count_every_record(paid: Client) -> None:
    bought: dict[str, float] = {"u": 0.0, "v": 0.0}
    for user, service, prompt in (("u", "s", "1"), ("u", "t", "2"), ("v", "s", "3"), ("u", "s", "1")):
        bought[user] += (await ask(paid, prompt, user_id=user, service=service)).json["cost_usd"]
    [provider] = (await paid.call("GET", PROVIDERS)).json
    await paid.call("PATCH", f"{PROVIDERS}/{provider['id']}", {"is_enabled": False})
    assert_problem(await ask(paid, user_id="w", service="s"), 503, "no_provider")
    customers = (await paid.call("GET", BY_CUSTOMER)).json
    assert [set(row) for row in customers] == [{"user_id", "request_count", "total_cost_usd"}] * 3
    assert {row["user_id"]: row["request_count"] for row in customers} == {"u": 3, "v": 1, "w": 1}
    assert customers == sorted(customers, key=lambda row: (-row["total_cost_usd"], -row["request_count"]))
    costs = {row["user_id"]: row["total_cost_usd"] for row in customers}
    assert costs == pytest.approx({**bought, "w": 0}, abs=1e-12)
    services = (await paid.call("GET", BY_SERVICE)).json
    assert [set(row) for row in services] == [{"service_name", "request_count", "total_cost_usd", "total_tokens"}] * 2
    assert {row["service_name"]: row["request_count"] for row in services} == {"s": 4, "t": 1}
    summary = (await paid.call("GET", PATH)).json
    for name in ("total_cost_usd", "total_tokens"):
        assert sum(row[name] for row in services) == pytest.approx(summary[name], abs=1e-12)
    assert sum(row["request_count"] for row in services) == summary["total_requests"] == 5


async def test_lists_are_sorted_by_cost_then_count(client: Client) -> None:
    for user, count in (("once", 1), ("thrice", 3), ("twice", 2)):
        for _ in range(count):
            assert_problem(await ask(client, user_id=user, service=user), 503, "no_provider")
    for path, name in ((BY_CUSTOMER, "user_id"), (BY_SERVICE, "service_name")):
        rows = (await client.call("GET", path)).json
        assert [(row[name], row["request_count"]) for row in rows] == [("thrice", 3), ("twice", 2), ("once", 1)]


async def test_by_customer_shows_50_rows_or_the_given_limit(client: Client) -> None:
    for number in range(51):
        await ask(client, user_id=f"u{number}")
    for query, count in (("", 50), ("?limit=1", 1), ("?limit=51", 51), ("?limit=500&days=1", 51)):
        assert len((await client.call("GET", BY_CUSTOMER + query)).json) == count


@READS_ONLY
@pytest.mark.parametrize("limit", ["0", "501", "-1", "x", "", "1.0", "5_0"])
async def test_a_limit_outside_its_range_is_rejected(reader: Client, limit: str) -> None:
    problem = assert_problem(await reader.call("GET", f"{BY_CUSTOMER}?limit={limit}"), 422, "validation_error")
    assert problem["errors"][0]["loc"] == ["query", "limit"]


def reports(database: Database, flushed: bool) -> Client:
    """Build the reports' endpoints, over a journal that is shipped in time or not."""
    asked: list[float] = []

    def flush(timeout_s: float) -> bool:
        asked.append(timeout_s)
        assert threading.current_thread() is not threading.main_thread(), "the event loop must not wait for it"
        return flushed

    management = build_management(
        [
            Router(),
            usage_router(RecentUsage(UsageStore(database), UsageReports(database)), up_to_date_by(flush), NO_TEAMS),
        ],
        lambda *_, **__: None,
        InFlight(10, 10_000_000),
    )
    return Client(Gate(management, Keyring([("dev", DEV_KEY, frozenset({"read"}))]), local_only=True, log=ignore))


@pytest.mark.parametrize("path", REPORTS)
@pytest.mark.parametrize("flushed", [True, False])
async def test_a_report_is_503_while_the_journal_is_behind(migrated: Any, flushed: bool, path: str) -> None:
    database = Database.open(f"sqlite:///{migrated}")
    response = await reports(database, flushed).call("GET", path)
    database.close()
    if flushed:
        assert response.status == 200
    else:
        assert_problem(response, 503, "database_unavailable")
        assert response.headers["retry-after"] == "5"
