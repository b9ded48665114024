"""Retries of a lone candidate: which failures are retried, how often, and after which pause."""

from __future__ import annotations

import asyncio
import random

import pytest

from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.errors import (
    DeadlineExceeded,
    ProviderFailed,
)
from llm_gateway.worker.pipeline.availability import FREE_RETRIES
from tests.virtual_time import run_virtually
from tests.worker.pipeline.failing import A, B, broken_open, failing
from tests.worker.pipeline.fakes import (
    BROKEN,
    NOT_SENT,
    TIMEOUT,
    World,
    answer,
    plan,
    refusal,
    request,
)
from tests.worker.pipeline.simulation import SimulatedGateway, Vendor


class TestLoneCandidate:
    @pytest.mark.parametrize(
        "failure",
        [NOT_SENT, TIMEOUT, BROKEN, UpstreamResult(200, b"{"), *(refusal(s) for s in (408, 409, 500, 503, 529))],
        ids=repr,
    )
    async def test_a_lone_candidate_is_retried_after_a_pause(self, world: World, failure: UpstreamResult) -> None:
        world.pause_s = 0.7
        world.script(a=[failure, answer()])
        record = world.open(request())

        served = await world.failover.run(request(), plan([A]), record)

        assert served.provider == "a"
        assert (world.drawn, world.slept) == ([(0.2, 2.0)], [0.7])
        assert [attempt.status for attempt in record.attempts] == [failure.status or None, 200]
        assert record.attempts[0].why is None
        assert (record.attempts[1].why or "").startswith("retry:")

    async def test_a_lone_provider_is_retried_at_most_twice(self, world: World) -> None:
        world.script(a=[refusal(500, "first"), refusal(503, "second"), refusal(500, "third"), answer()])

        error = await failing(world, plan([A]))

        assert error.detail == "Provider a: answered 500: third"
        assert (len(world.slept), len(world.upstream.calls)) == (2, 3)

    async def test_a_retry_that_blames_the_request_ends_it(self, world: World) -> None:
        world.script(a=[refusal(500), refusal(400, "bad")])

        error = await failing(world, plan([A]))

        assert (error.detail, error.retryable) == ("Provider a: answered 400: bad", False)

    @pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422, 501])
    async def test_failures_that_a_retry_cannot_cure_are_not_retried(self, world: World, status: int) -> None:
        world.script(a=[refusal(status)])

        await failing(world, plan([A]))

        assert (world.slept, len(world.upstream.calls)) == ([], 1)

    async def test_a_skipped_candidate_is_not_retried(self, world: World) -> None:
        broken_open(world, "a")

        await failing(world, plan([A]))

        assert world.slept == []

    async def test_a_skipped_candidate_is_why_the_next_one_is_called(self, world: World) -> None:
        broken_open(world, "a")
        world.script(b=[answer()])
        record = world.open(request())

        await world.failover.run(request(), plan([A], [B]), record)

        assert [attempt.why for attempt in record.attempts] == ["failover:unavailable"]

    async def test_a_candidate_with_an_alternative_is_not_retried(self, world: World) -> None:
        broken_open(world, "b")
        world.script(a=[refusal(500)])

        await failing(world, plan([A, B]))
        assert world.slept == []

    @pytest.mark.parametrize(("left", "retried"), [(1.004, False), (1.005, False), (1.0075, True)])
    async def test_the_pause_must_fit_before_the_deadline(self, world: World, left: float, retried: bool) -> None:
        world.clock.now = 0.0
        world.script(a=[refusal(500), answer()])
        run = world.failover.run(request(deadline=left), plan([A]), world.open(request()))
        if retried:
            assert (await run).provider == "a"
        else:
            with pytest.raises(ProviderFailed):
                await run
        assert (world.slept, world.availability.may_retry("id-a")) == ([1.0] if retried else [], True)

    async def test_retries_are_limited_over_all_requests(self, world: World) -> None:
        world.script(a=[refusal(500), refusal(408), refusal(500), refusal(500), refusal(408), refusal(408)])
        for _ in range(3):
            await failing(world, plan([A]))

        assert (len(world.slept), len(world.upstream.calls)) == (3, 6)

    async def test_there_is_no_retry_once_the_deadline_passed(self, world: World) -> None:
        world.script(a=[world.after(120, TIMEOUT)])

        assert type(await failing(world, plan([A]))) is DeadlineExceeded
        assert world.slept == []

    async def test_there_is_no_retry_once_the_breaker_opened(self, world: World) -> None:
        breaker = world.availability.breaker("id-a", "m1")
        for _ in range(4):
            breaker.fail(breaker.admit() or 0)
        world.script(a=[refusal(500, "fifth"), answer()])

        error = await failing(world, plan([A]))

        assert (type(error), error.detail) == (ProviderFailed, "Provider a: answered 500: fifth")
        assert len(world.upstream.calls) == 1


class Flaky(Vendor):
    """A vendor that answers every second call with 500, and takes no time."""

    calls = 0

    async def call(self) -> UpstreamResult:
        self.calls += 1
        return refusal(500) if self.calls % 2 else answer()


def test_a_failure_beyond_the_budget_of_retries_is_told_at_once() -> None:
    """A 429 waits for the budget, since a limit is over soon; a client should not wait for a broken provider."""

    async def main() -> tuple[list[bool], float]:
        chance, clock = random.Random(1), asyncio.get_running_loop().time
        gateway = SimulatedGateway(Flaky(chance), chance)
        served = [await gateway.serve("a") for _ in range(FREE_RETRIES)]
        started = clock()
        return [*served, await gateway.serve("a")], clock() - started

    assert run_virtually(main()) == ([True] * FREE_RETRIES + [False], 0.0)
