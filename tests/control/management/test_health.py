"""Health, liveness, readiness and metrics endpoints, on the running gateway."""

from __future__ import annotations

import asyncio
import platform
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llm_gateway import __version__
from llm_gateway.control.hosts import Hosts
from llm_gateway.control.management.health import SharedCheck, health_router
from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.usage import encode_record
from tests.application.driver import Client, assert_problem, until
from tests.application.fixtures import Start
from tests.control.management.test_providers import created
from tests.in_one_loop import GatewayInOneLoop
from tests.journal.samples import frame, left_behind, record
from tests.upstream import MockUpstream


@pytest.fixture
def nobody(app: GatewayInOneLoop) -> Client:
    return Client(app, key=None)


async def test_health_needs_no_key(nobody: Client) -> None:
    response = await nobody.call("GET", "/api/v1/health")
    assert response.status == 200
    assert response.json == {"status": "ok", "service": "llm-gateway", "database": "ok"}
    assert response.headers["x-request-id"]


async def test_without_its_database_the_gateway_is_degraded_and_serves(
    client: Client, nobody: Client, mock: MockUpstream, data_dir: Path
) -> None:
    await created(client, base_url=mock.base_url, models=["ok"])
    (data_dir / "gateway.db").rename(data_dir / "moved.db")
    degraded = {"status": "degraded", "service": "llm-gateway", "database": "unavailable"}
    async with asyncio.timeout(5):  # control checks the database once a second
        while (response := await nobody.call("GET", "/api/v1/health")).json != degraded:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert response.status == 200
    assert (await nobody.call("GET", "/readyz")).status == 200
    asked = await client.call("POST", "/api/v1/generate", {"user_id": "u", "service": "s", "prompt": "p"})
    assert asked.status == 200
    assert await gauge(client, "llm_gateway_database_up") == 0
    (data_dir / "moved.db").rename(data_dir / "gateway.db")
    while (await nobody.call("GET", "/api/v1/health")).json["status"] != "ok":  # noqa: ASYNC110 - it looks once a second
        await asyncio.sleep(0.1)
    assert (await client.call("GET", "/api/v1/usage/summary")).json["total_requests"] == 1


async def test_the_admin_port_says_degraded_while_usage_does_not_reach_the_database() -> None:
    async def no_metrics() -> tuple[bytes, str]:
        return b"", ""

    waits_s = [60.0]
    router = health_router(
        check=SharedCheck(lambda: True),
        ready=lambda: True,
        journal_writable=lambda: True,
        is_behind=lambda: waits_s[0] > 60,
        snapshot=lambda: Snapshot(providers={}, tiers=(), overrides={}),
        metrics=no_metrics,
        hosts=cast(Hosts, SimpleNamespace(is_shared=False)),
    )
    [health] = [route.endpoint for route in router.routes if getattr(route, "path", "") == "/api/v1/health"]  # type: ignore[attr-defined]
    assert (await health()).status == "ok"
    waits_s[0] = 61.0
    answer = await health()
    assert (answer.status, answer.database) == ("degraded", "ok")


async def test_readiness_fails_during_the_stop_and_requests_are_served(app: GatewayInOneLoop, nobody: Client) -> None:
    assert (await nobody.call("GET", "/readyz")).json == {"status": "ready"}
    app.stop_serving()
    response = await nobody.call("GET", "/readyz")
    assert_problem(response, 503, "overloaded")
    assert response.headers["retry-after"] == "5"
    assert (await nobody.call("GET", "/healthz")).json == {"status": "ok"}
    assert (await nobody.call("GET", "/api/v1/health")).status == 200


async def test_health_lists_providers_by_priority(client: Client) -> None:
    assert (await client.call("GET", "/api/v1/health/providers")).json == {"providers": []}
    await created(client, name="low", priority=1, models=["a", "b"])
    await created(client, name="high", display_name="High", priority=2, is_enabled=False)
    assert (await client.call("GET", "/api/v1/health/providers")).json == {
        "providers": [
            {"name": "high", "display_name": "High", "is_enabled": False, "models_count": 1},
            {"name": "low", "display_name": "Acme", "is_enabled": True, "models_count": 2},
        ]
    }


async def test_metrics_can_be_parsed_and_count_requests(client: Client, mock: MockUpstream) -> None:
    prices = {"ok": {"input": 1000, "output": 1000}}
    await created(client, name="p", base_url=mock.base_url, models=["ok"], prices=prices)
    body = {"user_id": "u", "service": "s", "prompt": "p"}
    answer = (await client.call("POST", "/api/v1/generate", body)).json
    await client.call("POST", "/api/v1/generate", body)
    response = await client.call("GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.body.decode())
        for sample in family.samples
    }

    def value(name: str, **labels: str) -> float:
        return samples[(name, *sorted(labels.items()))]

    assert value("llm_gateway_requests_total", surface="generate", outcome="ok", error_code="") == 1
    assert value("llm_gateway_requests_total", surface="generate", outcome="cached", error_code="") == 1
    assert value("llm_gateway_attempts_total", provider="p", model="ok", status="200") == 1
    assert value("llm_gateway_tokens_total", provider="p", model="ok", direction="output") == answer["output_tokens"]
    assert value("llm_gateway_cost_usd_total", provider="p", model="ok") == pytest.approx(answer["cost_usd"])
    assert value("llm_gateway_requests_in_flight") == 0
    assert value("llm_gateway_breaker_open", provider="p", model="ok") == 0
    assert value("process_resident_memory_bytes") > 0
    assert value("llm_gateway_cache_lookups_total", result="hit") == 1
    assert value("llm_gateway_cache_entries") == 1
    assert value("llm_gateway_cache_bytes") > len(answer["content"])
    assert value("llm_gateway_overhead_seconds_count", provider="p", model="ok") == 1
    assert value("llm_gateway_rate_limit_used_ratio", provider="p", limit="requests") == pytest.approx(1 / 60)
    assert 0 < value("llm_gateway_rate_limit_used_ratio", provider="p", limit="tokens") < 1
    assert value("llm_gateway_journal_writable", worker="1") == 1
    assert value("llm_gateway_database_up") == 1
    assert value("llm_gateway_build_info", version=__version__, python=platform.python_version()) == 1
    newest = value("llm_gateway_configuration_version", process="control")
    workers = [number for (name, *labels), number in samples.items() if name == "llm_gateway_configuration_version"]
    assert (len(workers), set(workers)) == (2, {newest})


async def test_refused_requests_are_counted(client: Client, nobody: Client) -> None:
    await nobody.call("POST", "/api/v1/generate", {})
    await client.call("POST", "/api/v1/generate", {})
    text = (await client.call("GET", "/metrics")).body.decode()
    assert 'llm_gateway_refusals_total{error_code="unauthorized",status="401"} 1.0' in text
    assert 'llm_gateway_refusals_total{error_code="validation_error",status="422"} 1.0' in text


async def gauge(client: Client, name: str) -> float:
    """Return the value of a metric without labels."""
    text = (await client.call("GET", "/metrics")).body.decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))


async def test_a_journal_that_was_moved_away_refuses_calls_until_it_is_back(
    client: Client, mock: MockUpstream, data_dir: Path
) -> None:
    await created(client, base_url=mock.base_url, models=["ok"])
    body = {"user_id": "u", "service": "s", "prompt": "p"}
    (data_dir / "journal").rename(data_dir / "elsewhere")
    async with asyncio.timeout(10):  # a worker looks once a second
        while (ready := await client.call("GET", "/readyz")).status == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert_problem(ready, 503, "journal_unavailable")
        assert_problem(await client.call("POST", "/api/v1/generate", body), 503, "journal_unavailable")
        assert await gauge(client, 'llm_gateway_journal_writable{worker="1"}') == 0
        (data_dir / "elsewhere").rename(data_dir / "journal")
        while (await client.call("GET", "/readyz")).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (await client.call("POST", "/api/v1/generate", body)).status == 200
    assert [call.prompt for call in mock.calls] == ["p"]


async def test_metrics_show_the_journals_backlog(client: Client, mock: MockUpstream, data_dir: Path) -> None:
    await created(client, base_url=mock.base_url, models=["ok"])
    size, age = "llm_gateway_journal_bytes", "llm_gateway_journal_oldest_unshipped_seconds"
    seen: list[tuple[float, float]] = []
    with closing(sqlite3.connect(data_dir / "gateway.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(2):
            body = {"user_id": "u", "service": "s", "prompt": f"p{number}"}
            assert (await client.call("POST", "/api/v1/generate", body)).status == 200
            await asyncio.sleep(0.5)
            seen.append((await gauge(client, size), await gauge(client, age)))
    (first_size, first_age), (second_size, second_age) = seen
    assert 0 < first_size < second_size
    assert 0.2 < first_age < second_age - 0.4
    async with asyncio.timeout(10):
        while await gauge(client, age):  # noqa: ASYNC110 - it is asked, not told
            await asyncio.sleep(0.1)
    assert await gauge(client, size) == 0


async def test_metrics_count_records_that_the_database_rejected(start: Start, data_dir: Path) -> None:
    absurd = encode_record(record(1, outcome="ok", status=200, cost_nanos=2**62))
    left_behind(data_dir, {1: frame("S", 1, absurd)})
    for _ in range(2):  # the count is the same after a restart
        async with start() as app:
            assert await gauge(Client(app), "llm_gateway_quarantined_records") == 1


async def test_metrics_show_an_open_circuit_breaker(client: Client, mock: MockUpstream) -> None:
    await created(client, name="p", base_url=mock.base_url, models=["status-500"])
    soon = {"x-request-timeout-ms": "180"}
    for number in range(5):
        body = {"user_id": "u", "service": "s", "prompt": str(number)}
        assert (await client.call("POST", "/api/v1/generate", body, headers=soon)).status in (502, 504)
    text = (await client.call("GET", "/metrics")).body.decode()
    assert 'llm_gateway_breaker_open{model="status-500",provider="p"} 1.0' in text
    response = await client.call("POST", "/api/v1/generate", {"user_id": "u", "service": "s", "prompt": "last"})
    assert_problem(response, 503, "providers_unavailable")
    assert 20 < int(response.headers["retry-after"]) <= 37


async def test_probes_are_answered_while_requests_wait_for_the_database(
    client: Client, nobody: Client, mock: MockUpstream
) -> None:
    await created(client, base_url=mock.base_url, models=["stall"])
    body = {"user_id": "u", "service": "s", "prompt": "p"}
    soon = {"x-request-timeout-ms": "300"}
    waiting = asyncio.create_task(client.call("POST", "/api/v1/generate", body, headers=soon))
    await until(lambda: mock.in_flight == 1)
    assert (await nobody.call("GET", "/healthz")).status == 200
    assert b"llm_gateway_requests_in_flight 1.0" in (await client.call("GET", "/metrics")).body
    assert_problem(await waiting, 504, "deadline_exceeded")


async def test_requests_within_a_second_share_one_database_check() -> None:
    now, asked = [0.0], []

    def check() -> bool:
        asked.append(now[0])
        return len(asked) < 2

    shared = SharedCheck(check, clock=lambda: now[0])
    assert await asyncio.gather(*[shared() for _ in range(5)]) == [True] * 5
    now[0] = 1.0
    assert await shared()
    now[0] = 1.1
    assert not await shared()
    assert asked == [0.0, 1.1]
