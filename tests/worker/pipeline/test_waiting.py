"""Requests wait at a rate limit for their turn, or are refused at once; in virtual time, with the real failover."""

from __future__ import annotations

import asyncio

import pytest

from llm_gateway.domain.catalog import Candidate, Provider
from llm_gateway.domain.plan import Plan
from llm_gateway.errors import DeadlineExceeded, ProviderFailed, RateLimited, RequestExceedsLimit
from llm_gateway.worker.pipeline.waiting_line import MOST_OF_CUSTOMER, MOST_WAITING
from tests.virtual_time import run_virtually
from tests.worker.pipeline.fakes import Step, plan, provider, refusal, request
from tests.worker.pipeline.simulation import SimulatedGateway
from tests.worker.pipeline.waiting_requests import Scripted, ask, assert_clean, fill, gateway, virtually


class TestOwnLimit:
    @virtually
    async def test_a_request_waits_for_the_next_place(self) -> None:
        alone = gateway(rate_limit_rpm=3)
        await fill(alone, 3, seconds_ago=55.0)

        assert await ask(alone) == 6000
        assert_clean(alone)

    @virtually
    async def test_a_lone_customer_is_not_paced_and_refused_at_once_with_the_expected_time(self) -> None:
        alone = gateway(rate_limit_rpm=3)
        await fill(alone, 3, seconds_ago=10.0)
        before = asyncio.get_running_loop().time()

        error = await ask(alone)

        assert isinstance(error, RateLimited)
        assert (error.retry_after_s, error.queued_ms, error.limited_by) == (51.0, 0, "a")
        assert asyncio.get_running_loop().time() == before
        assert_clean(alone)

    @virtually
    async def test_a_settled_reservation_lets_the_next_one_go_at_once(self) -> None:
        slow = gateway(Scripted(latency_s=1.25), rate_limit_tpm=150)
        first = asyncio.create_task(ask(slow))
        await asyncio.sleep(0)

        assert await ask(slow) == 1250
        assert await first == 0
        assert_clean(slow)

    @virtually
    async def test_a_request_that_fits_into_no_limit_is_refused_though_others_wait(self) -> None:
        slow = gateway(Scripted(latency_s=1.25), rate_limit_tpm=150)
        tasks = [asyncio.create_task(ask(slow)) for _ in range(3)]
        await asyncio.sleep(0.1)

        assert isinstance(await ask(slow, max_tokens=1000), RequestExceedsLimit)
        assert await asyncio.gather(*tasks) == [0, 1250, 2500]

    @virtually
    async def test_nobody_waits_beyond_the_deadline(self) -> None:
        alone = gateway(rate_limit_rpm=1)
        await fill(alone, 1, seconds_ago=57.0)
        now = asyncio.get_running_loop().time()

        error = await ask(alone, deadline=now + 3.5)

        assert isinstance(error, RateLimited)
        assert error.retry_after_s == 4.0
        assert asyncio.get_running_loop().time() == now

    @virtually
    async def test_a_wait_that_takes_longer_than_expected_ends_in_time(self) -> None:
        slow = gateway(Scripted(latency_s=20.0), rate_limit_tpm=150)
        first = asyncio.create_task(ask(slow))
        await asyncio.sleep(0)

        error = await ask(slow)

        assert isinstance(error, RateLimited)
        assert error.queued_ms == 8000
        assert error.retry_after_s is not None
        assert error.retry_after_s >= 1.0
        assert await first == 0
        assert_clean(slow)

    @virtually
    async def test_a_deadline_that_passes_in_line_is_a_timeout(self) -> None:
        slow = gateway(Scripted(latency_s=20.0), rate_limit_tpm=150)
        first = asyncio.create_task(ask(slow))
        await asyncio.sleep(0)

        error = await ask(slow, deadline=asyncio.get_running_loop().time() + 2.5)

        assert isinstance(error, DeadlineExceeded)
        assert 2490 <= error.queued_ms <= 2500
        first.cancel()

    @virtually
    async def test_no_newcomer_overtakes_those_who_wait(self) -> None:
        alone = gateway(rate_limit_rpm=2)
        await fill(alone, 1, seconds_ago=5.0)
        await fill(alone, 1, seconds_ago=54.5)
        order: list[str] = []

        async def arrive(name: str, after_s: float) -> None:
            await asyncio.sleep(after_s)
            await ask(alone)
            order.append(name)

        await asyncio.gather(arrive("second", 1.5000001), arrive("first", 0.5))
        assert order == ["first", "second"]
        assert_clean(alone)


class TestFairness:
    @virtually
    async def test_customers_take_turns(self) -> None:
        one_at_a_time = gateway(Scripted(latency_s=0.5), rate_limit_tpm=150)
        served: list[str] = []

        async def one(customer: str) -> None:
            assert isinstance(await ask(one_at_a_time, customer), int)
            served.append(customer)

        async with asyncio.TaskGroup() as group:
            for customer in "aaaaabb":
                group.create_task(one(customer))
                await asyncio.sleep(0.001)
        assert "".join(served) == "aababaa"
        assert_clean(one_at_a_time)

    @virtually
    async def test_100_of_a_customer_and_1000_in_all_wait_at_most(self) -> None:
        closed = gateway(rate_limit_rpm=2000)
        closed.lines.max_wait_s = 100.0
        await fill(closed, 2000, seconds_ago=0.0)
        tasks = [
            asyncio.create_task(ask(closed, f"customer {number % 11}", deadline=10_000.0)) for number in range(1300)
        ]
        await asyncio.sleep(1.0)

        assert closed.lines.count == MOST_WAITING
        refused = [task.result() for task in tasks if task.done()]
        assert len(refused) == 300
        assert all(isinstance(error, RateLimited) and 59 < (error.retry_after_s or 0) < 70 for error in refused)
        for task in tasks[1000:]:
            task.cancel()
        one = [asyncio.create_task(ask(closed, "one", deadline=10_000.0)) for _ in range(150)]
        for task in tasks[:200]:
            task.cancel()
        await asyncio.sleep(0)
        one += [asyncio.create_task(ask(closed, "one", deadline=10_000.0)) for _ in range(150)]
        await asyncio.sleep(1.0)
        assert sum(not task.done() for task in one) == MOST_OF_CUSTOMER
        for task in [*tasks, *one]:
            task.cancel()
        await asyncio.gather(*tasks, *one, return_exceptions=True)
        assert_clean(closed)

    @virtually
    async def test_two_models_of_a_provider_take_turns_for_its_places(self) -> None:
        shared = gateway(Scripted(latency_s=0.5), rate_limit_tpm=150)
        served: list[str] = []

        async def one(model: str) -> None:
            now = asyncio.get_running_loop().time()
            asked = request(deadline=now + 30, max_tokens=100, user_id="a")
            await shared.failover.run(
                asked, Plan(((Candidate.of(shared.provider, model),),)), shared.recorder.start(asked)
            )
            served.append(model)

        async with asyncio.TaskGroup() as group:
            for model in ("m1", "m1", "m1", "m2", "m2"):
                group.create_task(one(model))
                await asyncio.sleep(0.001)
        assert served == ["m1", "m1", "m2", "m1", "m2"]
        assert_clean(shared)


class TestPacing:
    @virtually
    async def test_places_are_paced_once_half_is_taken_and_two_customers_ask(self) -> None:
        vendor = Scripted()
        paced = gateway(vendor, rate_limit_rpm=20)
        assert await ask(paced, "b") == 0
        for _ in range(12):
            await ask(paced, "a")
            if len(vendor.called_at) == 11:
                break
        start = asyncio.get_running_loop().time()
        assert start == vendor.called_at[0], "up to a half, nothing is held back"

        waited = [await ask(paced, customer) for customer in ("a", "b", "a")]

        assert waited[:2] == [0, 0], "one place was not used before"
        assert isinstance(waited[2], int)
        assert 3000 <= waited[2] <= 6000, "20 a minute are one in 3 s, half as fast after a burst"
        assert_clean(paced)

    @virtually
    async def test_a_lone_customer_may_use_the_whole_window_at_once(self) -> None:
        alone = gateway(rate_limit_rpm=20)

        assert [await ask(alone) for _ in range(20)] == [0] * 20

    @virtually
    async def test_a_customer_who_left_a_minute_ago_does_not_pace_others(self) -> None:
        alone = gateway(rate_limit_rpm=20)
        await ask(alone, "b")
        await asyncio.sleep(61.0)

        assert [await ask(alone) for _ in range(20)] == [0] * 20


async def served_by(one: SimulatedGateway, *others: Provider) -> tuple[str, int]:
    """Send one request to several providers. Returns which one answered, and how long the request waited."""
    asked = request(user_id="a", deadline=asyncio.get_running_loop().time() + 30, max_tokens=100)
    tiers = ([one.provider], *([other] for other in others))
    served = await one.failover.run(asked, plan(*tiers), one.recorder.start(asked))
    return served.provider, served.queued_ms


class TestCandidates:
    @virtually
    async def test_nobody_waits_while_another_candidate_can_serve(self) -> None:
        one = gateway(rate_limit_rpm=1)
        await fill(one, 1, seconds_ago=57.0)

        assert await served_by(one, provider("b")) == ("b", 0)

    @virtually
    async def test_of_candidates_at_their_limits_the_one_that_is_free_first_is_waited_for(self) -> None:
        one, b = gateway(rate_limit_rpm=1), provider("b", rate_limit_rpm=1)
        assert await served_by(one, b) == ("a", 0)
        await asyncio.sleep(1.5)
        assert await served_by(one, b) == ("b", 0)
        await asyncio.sleep(57.0)

        assert await served_by(one, b) == ("a", 2500)
        assert await served_by(one, b) == ("b", 1000)
        assert_clean(one)

    @virtually
    async def test_a_candidate_at_its_limit_is_waited_for_after_another_one_failed(self) -> None:
        vendor = Scripted()
        one = gateway(vendor, rate_limit_rpm=1)
        await fill(one, 1, seconds_ago=57.0)
        vendor.script = [refusal(500)]

        assert await served_by(one, provider("b")) == ("a", 4000)
        assert len(vendor.called_at) == 3


@pytest.mark.parametrize("step", [refusal(500), refusal(400)])
def test_a_failure_after_the_wait_is_the_providers(step: Step) -> None:
    async def main() -> None:
        vendor = Scripted()
        one = gateway(vendor, rate_limit_rpm=2)
        await fill(one, 2, seconds_ago=57.0)
        vendor.script = [step] * 3  # type: ignore[list-item]

        error = await ask(one)

        assert isinstance(error, ProviderFailed)
        assert error.queued_ms >= 4000
        assert_clean(one)

    run_virtually(main())
