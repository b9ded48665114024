"""A worker whose control process is away: calls, health and metrics go on, the management API does not."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llm_gateway.worker.process import WorkerProcess
from tests.application.driver import Client, assert_problem, lifespan
from tests.application.fixtures import Start
from tests.control.management.test_providers import created
from tests.in_one_loop import GatewayInOneLoop
from tests.upstream import MockUpstream
from tests.waiting import until

CALL = {"user_id": "u", "service": "s", "prompt": "p"}


@pytest.fixture
async def alone(app: GatewayInOneLoop, client: Client, mock: MockUpstream) -> Client:
    """Return a client of a worker that has served a call, and has noticed that control ended since."""
    await created(client, base_url=mock.base_url, models=["ok"])
    assert (await client.call("POST", "/api/v1/generate", CALL)).status == 200
    await app.stop_control()
    await until(lambda: not app.worker.has_database())
    return client


async def test_calls_are_answered_from_the_last_configuration(alone: Client) -> None:
    assert (await alone.call("POST", "/api/v1/generate", CALL)).status == 200


async def test_the_management_api_is_unavailable_and_says_when_to_try_again(alone: Client) -> None:
    response = await alone.call("GET", "/api/v1/providers")
    assert_problem(response, 503, "management_unavailable")
    assert response.headers["retry-after"] == "1"


async def test_health_is_degraded_but_alive_and_ready(alone: Client) -> None:
    assert (await alone.call("GET", "/api/v1/health")).json["status"] == "degraded"
    assert (await alone.call("GET", "/healthz")).json == {"status": "ok"}
    assert (await alone.call("GET", "/readyz")).json == {"status": "ready"}
    head = await alone.call("HEAD", "/healthz")
    assert head.status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/v1/health"])
async def test_health_requests_with_other_methods_go_to_control_and_those_with_queries_do_not(
    alone: Client, path: str
) -> None:
    assert_problem(await alone.call("POST", path), 503, "management_unavailable")
    assert (await alone.call("GET", f"{path}?a=b&a=c")).json == (await alone.call("GET", path)).json


async def test_metrics_are_the_workers_own_under_its_number(alone: Client) -> None:
    response = await alone.call("GET", "/metrics")
    assert response.status == 200
    samples = [sample for family in text_string_to_metric_families(response.body.decode()) for sample in family.samples]
    counts = {
        sample.labels["worker"]: sample.value for sample in samples if sample.name == "llm_gateway_requests_total"
    }
    assert counts == {"1": 1}
    assert {sample.labels.get("worker") for sample in samples} == {"1"}
    assert_problem(await alone.call("POST", "/metrics"), 503, "management_unavailable")


async def test_with_control_health_requests_that_are_wrong_get_its_answer(client: Client) -> None:
    assert_problem(await client.call("POST", "/healthz"), 405, "method_not_allowed")
    assert (await client.call("GET", "/healthz")).json == {"status": "ok"}


async def test_with_control_metrics_are_sums_and_have_those_of_control(client: Client) -> None:
    text = (await client.call("GET", "/metrics")).body.decode()
    names = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    assert {"llm_gateway_journal_bytes", "llm_gateway_journal_disk_bytes", "llm_gateway_requests_in_flight"} <= names


async def test_calls_of_one_worker_count_against_the_limits_of_another_that_starts_later(
    start: Start, mock: MockUpstream
) -> None:
    async with start() as app:
        client = Client(app)
        await created(client, base_url=mock.base_url, models=["ok"], rate_limit_rpm=1)
        assert (await client.call("POST", "/api/v1/generate", CALL)).status == 200
        second = WorkerProcess(app.settings, app.output, number=2)
        async with lifespan(second):
            refused = await Client(second).call("POST", "/api/v1/generate", CALL)
            assert_problem(refused, 429, "rate_limited")
