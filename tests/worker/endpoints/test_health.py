"""Health of a worker by its own state and by what control said last."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from llm_gateway.gate.request_context import NOBODY, REQUEST_CONTEXT, RequestContext
from llm_gateway.worker.endpoints.health import health_endpoints


@dataclass
class State:
    """The state that the endpoints report."""

    serving: bool = True
    writable: bool = True
    commits: bool = True
    database: bool = True
    behind: bool = False
    number_of_hosts: int = 0
    redis: bool | None = None

    def is_serving(self) -> bool:
        return self.serving

    def can_record(self) -> bool:
        return self.writable

    def can_commit(self) -> bool:
        return self.commits

    def has_database(self) -> bool:
        return self.database

    def is_behind(self) -> bool:
        return self.behind

    def hosts(self) -> int:
        return self.number_of_hosts

    def has_redis(self) -> bool | None:
        return self.redis


async def answer(state: State, path: str) -> tuple[int, bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def nobody(*_: Any) -> Any:
        raise AssertionError("it is not for the management API")

    context = RequestContext(NOBODY, "r", None, b"r", {}, lambda *_, **__: None)
    scope = {"type": "http", "method": "GET", "query_string": b"", "path": path, REQUEST_CONTEXT: context}
    await health_endpoints(state, nobody)[path](scope, nobody, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize(
    ("state", "status", "database"),
    [
        (State(), b"ok", b"ok"),
        (State(database=False), b"degraded", b"unavailable"),
        (State(database=False, behind=True), b"degraded", b"unavailable"),
        (State(behind=True), b"degraded", b"ok"),
    ],
)
async def test_health_is_degraded_without_the_database_and_while_usage_does_not_reach_it(
    state: State, status: bytes, database: bytes
) -> None:
    found = await answer(state, "/api/v1/health")
    assert found == (200, b'{"status":"%b","service":"llm-gateway","database":"%b"}' % (status, database))


async def test_health_tells_the_number_of_hosts_on_a_shared_database() -> None:
    found = await answer(State(database=False, number_of_hosts=3), "/api/v1/health")
    degraded = b'{"status":"degraded","service":"llm-gateway","database":"unavailable","hosts":3}'
    assert found == (200, degraded)


@pytest.mark.parametrize(
    ("state", "status", "database", "redis"),
    [
        (State(redis=True), "ok", "ok", "ok"),
        (State(redis=False), "degraded", "ok", "unavailable"),
        (State(redis=True, database=False), "degraded", "unavailable", "ok"),
        (State(redis=False, behind=True), "degraded", "ok", "unavailable"),
    ],
)
async def test_health_tells_of_redis_where_there_is_one(state: State, status: str, database: str, redis: str) -> None:
    found = json.loads((await answer(state, "/api/v1/health"))[1])
    assert found == {"status": status, "service": "llm-gateway", "database": database, "redis": redis}


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (State(behind=True), 200),
        (State(serving=False), 503),
        (State(writable=False), 503),
        (State(commits=False), 503),
    ],
)
async def test_readiness_is_about_calls_only(state: State, status: int) -> None:
    assert (await answer(state, "/readyz"))[0] == status
