"""Requests that fail, and providers that are at their limits or unavailable, for the tests of failover."""

from __future__ import annotations

import pytest

from llm_gateway.domain.plan import Plan
from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import GatewayError
from tests.worker.pipeline.fakes import NOW, World, provider, request

A, B, C = provider("a"), provider("b"), provider("c")
LARGE = provider("large", rate_limit_tpm=117)
"""A provider whose whole limit is smaller than the request."""
JUST = provider("just", rate_limit_tpm=118)


async def failing(world: World, the_plan: Plan, deadline: float = NOW + 120) -> GatewayError:
    error, _ = await failing_with_record(world, the_plan, deadline)
    return error


async def failing_with_record(
    world: World, the_plan: Plan, deadline: float = NOW + 120
) -> tuple[GatewayError, UsageRecord]:
    record = world.open(request())
    with pytest.raises(GatewayError) as raised:
        await world.failover.run(request(deadline=deadline), the_plan, record)
    return raised.value, record


def broken_open(world: World, name: str) -> None:
    breaker = world.availability.breaker(f"id-{name}", "m1")
    for _ in range(5):
        permit = breaker.admit()
        assert permit is not None
        breaker.fail(permit)


async def fill(world: World, name: str, seconds_ago: float = 0.0) -> None:
    """Use up a provider's limit of one request per minute."""
    world.clock.now -= seconds_ago
    taken = await world.limiter.take(f"id-{name}", 1, 1000, 1)
    assert taken.reservation is not None
    world.clock.now += seconds_ago


async def failing_request(world: World, the_request: Request, the_plan: Plan) -> tuple[GatewayError, UsageRecord]:
    record = world.open(the_request)
    with pytest.raises(GatewayError) as raised:
        await world.failover.run(the_request, the_plan, record)
    return raised.value, record
