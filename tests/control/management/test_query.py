"""Unknown and repeated query parameters: the paths that reject them, and the messages."""

from __future__ import annotations

import pytest

from llm_gateway.control.management.app import build_management
from llm_gateway.control.management.query import refuses_parameters
from llm_gateway.control.management.router import Router
from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.gate.in_flight import InFlight
from tests.application.driver import DEV_KEY, Client, assert_problem, ignore

KEYS = [("dev", DEV_KEY, frozenset({"admin"}))]


@pytest.fixture
def client() -> Client:
    router = Router()

    @router.get("/api/v1/report")
    def report(days: int = 30, limit: int = 50) -> list[int]:
        return [days, limit]

    @router.delete("/api/v1/things/{thing_id}")
    def delete(thing_id: str) -> str:
        return thing_id

    @router.get("/metrics")
    def metrics() -> str:
        return "fine"

    return Client(
        Gate(
            build_management([router], lambda *_, **__: None, InFlight(10, 10_000_000)),
            Keyring(KEYS),
            local_only=True,
            log=ignore,
        )
    )


@pytest.mark.parametrize("path", ["/api/v1/providers", "/api/v1/usage/summary", "/api/v1/health/providers"])
def test_paths_of_the_management_api_reject_unknown_parameters(path: str) -> None:
    assert refuses_parameters(path)


@pytest.mark.parametrize("path", ["/api/v1/health", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"])
def test_health_metrics_and_documentation_accept_unknown_parameters(path: str) -> None:
    assert not refuses_parameters(path)


async def test_the_parameters_of_a_route_are_accepted(client: Client) -> None:
    assert (await client.call("GET", "/api/v1/report")).json == [30, 50]
    assert (await client.call("GET", "/api/v1/report?limit=1&days=2")).json == [2, 1]
    assert (await client.call("GET", "/metrics?x=1")).json == "fine"


THREE = (
    "x is not a query parameter of this path, which takes only days, limit. "
    "limits is not a query parameter of this path, which takes only days, limit. Did you mean limit? "
    "The query parameter x is repeated: send it once."
)
DAY = "day is not a query parameter of this path, which takes only days, limit. Did you mean days?"


@pytest.mark.parametrize(
    ("method", "target", "sentence"),
    [
        ("GET", "/api/v1/report?day=1", DAY),
        ("GET", "/api/v1/report?days=1&", None),
        ("GET", "/api/v1/report?&days=1&&x", "x is not a query parameter of this path, which takes only days, limit."),
        ("GET", "/api/v1/report?days=1&days=1", "The query parameter days is repeated: send it once."),
        ("GET", "/api/v1/report?days=x&day=1", DAY),
        ("HEAD", "/api/v1/report?day=1", DAY),
        ("GET", "/api/v1/report?x&limits=1&x", THREE),
        ("DELETE", "/api/v1/things/1?thing_id=2", "thing_id is not a query parameter of this path, which takes none."),
    ],
)
async def test_unknown_parameters_are_rejected_by_name(
    client: Client, method: str, target: str, sentence: str | None
) -> None:
    response = await client.call(method, target)
    if sentence is None:
        assert response.status == 200
    else:
        assert assert_problem(response, 422, "validation_error")["detail"] == sentence
