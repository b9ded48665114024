"""Failover after a provider's 429: the next candidate, or retries of a lone one."""

from __future__ import annotations

import pytest

from llm_gateway.domain.plan import Plan
from llm_gateway.domain.upstream_call import Success
from llm_gateway.errors import GatewayError, ProviderFailed, RateLimited
from tests.worker.pipeline.fakes import NOW, World, answer, plan, provider, refusal, request

A, B = provider("a"), provider("b")


async def ask(world: World, the_plan: Plan, deadline: float = NOW + 120) -> Success | GatewayError:
    asked = request(deadline=deadline)
    try:
        return await world.failover.run(asked, the_plan, world.open(asked))
    except GatewayError as error:
        return error


@pytest.mark.parametrize(("said", "slept"), [(None, [1.0]), (0.0, [1.0]), (0.3, [1.0]), (1.5, [1.5]), (2.0, [2.0])])
async def test_a_lone_candidate_is_retried_after_its_retry_after(
    world: World, said: float | None, slept: list[float]
) -> None:
    world.script(a=[refusal(429, "", said), answer()])

    assert isinstance(await ask(world, plan([A])), Success)

    assert (world.slept, world.drawn) == (slept, [(0.5, 2.0)])
    assert (world.wait(A), world.logged) == (None, [])


async def test_a_429_is_retried_at_most_twice(world: World) -> None:
    world.script(a=[refusal(429, "", 1), refusal(429, "", 1), answer()])
    assert isinstance(await ask(world, plan([A])), Success)

    world.clock.now += 20
    world.script(a=[refusal(429, "", 1)] * 3)
    error = await ask(world, plan([A]), world.clock.now + 60)
    assert isinstance(error, RateLimited)
    assert (error.retry_after_s, len(world.upstream.calls)) == (1, 6)


async def test_a_retry_after_of_more_than_2_seconds_is_returned_to_the_client(world: World) -> None:
    world.script(a=[refusal(429, "", 2.1)])

    error = await ask(world, plan([A]))

    assert isinstance(error, RateLimited)
    assert (error.retry_after_s, world.slept) == (2.1, [])


async def test_a_429_fails_over_at_once_if_there_is_another_candidate(world: World) -> None:
    world.script(a=[refusal(429, "", 1)], b=[answer()])

    served = await ask(world, plan([A, B]))

    assert isinstance(served, Success)
    assert (served.provider, world.slept) == ("b", [])


@pytest.mark.parametrize(("left", "attempts"), [(1.004, 1), (1.5, 2), (2.5, 3)])
async def test_a_429_is_retried_only_within_the_deadline(world: World, left: float, attempts: int) -> None:
    world.script(a=[refusal(429, "", 1)] * 3)

    error = await ask(world, plan([A]), NOW + left)

    assert isinstance(error, RateLimited)
    assert len(world.upstream.calls) == attempts


async def test_a_429_is_retried_only_within_the_limit_of_retries(world: World) -> None:
    world.script(a=[refusal(429, "", 1), answer()] * 3 + [refusal(429, "", 1), answer()])

    assert [type(await ask(world, plan([A]))) for _ in range(4)] == [Success] * 3 + [RateLimited]


async def test_a_429_that_closes_the_gate_is_not_retried(world: World) -> None:
    world.script(a=[refusal(429, "", 2)] * 5)
    assert isinstance(await ask(world, plan([A])), RateLimited)

    error = await ask(world, plan([A]))

    assert isinstance(error, RateLimited)
    assert (error.retry_after_s, len(world.upstream.calls)) == (2, 5)


@pytest.mark.parametrize("statuses", [(500, 429, 429), (429, 500, 429), (429, 429, 500)])
async def test_a_429_mixed_with_another_failure_is_retried_twice_in_all(
    world: World, statuses: tuple[int, ...]
) -> None:
    world.script(a=[refusal(status, f"it said {status}", 1 if status == 429 else None) for status in statuses])

    error = await ask(world, plan([A]))

    assert isinstance(error, ProviderFailed)
    assert error.detail == "Provider a: answered 500: it said 500", "its words are those of the failure, as its status"
    assert len(world.upstream.calls) == 3


async def test_each_attempt_counts_as_a_request_and_releases_its_tokens(world: World) -> None:
    world.script(a=[refusal(429, "", 1), refusal(429, "", 1), answer()])
    await ask(world, plan([A]))

    assert world.limiter.settled == [("id-a", 0, True), ("id-a", 0, True), ("id-a", 50, True)]


async def test_a_retry_counts_against_the_configured_limit(world: World) -> None:
    one = provider("one", rate_limit_rpm=1)
    world.script(one=[refusal(429, "", 1)])

    error = await ask(world, plan([one]))

    assert isinstance(error, RateLimited)
    assert (len(world.upstream.calls), error.retry_after_s) == (1, 60.0)
