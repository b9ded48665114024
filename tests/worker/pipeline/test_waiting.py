"""Requests wait at a rate limit for their turn, or are refused at once; in virtual time, with the real failover."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from llm_gateway.domain.catalog import Candidate, Provider
from llm_gateway.domain.plan import Plan
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.errors import DeadlineExceeded, GatewayError, ProviderFailed, RateLimited, RequestExceedsLimit
from llm_gateway.limiter.base import Decision
from llm_gateway.limiter.memory import MemoryLimiter
from llm_gateway.worker.pipeline.availability import Permit
from llm_gateway.worker.pipeline.waiting_line import MOST_OF_CUSTOMER, MOST_WAITING
from tests.virtual_time import run_virtually
from tests.worker.pipeline.fakes import Step, answer, plan, provider, refusal, request
from tests.worker.pipeline.simulation import SimulatedGateway, Vendor

THIRD = 3


class Scripted(Vendor):
    """A vendor that takes `latency_s` for an answer, and follows a script first."""

    def __init__(self, latency_s: float = 0.0) -> None:
        super().__init__(random.Random(1))
        self.latency_s = latency_s
        self.script: list[UpstreamResult] = []
        self.called_at: list[float] = []
        self.on_answer: Callable[[], object] | None = None
        """Called in the turn of the event loop after the first answer."""

    async def call(self) -> UpstreamResult:
        self.called_at.append(asyncio.get_running_loop().time())
        if self.script:
            return self.script.pop(0)
        await asyncio.sleep(self.latency_s)
        if self.on_answer is not None:
            asyncio.get_running_loop().call_soon(self.on_answer)
            self.on_answer = None
        return answer(usage={"prompt_tokens": 1, "completion_tokens": 1})


def gateway(vendor: Vendor | None = None, **limits: Any) -> SimulatedGateway:
    return SimulatedGateway(vendor or Scripted(), random.Random(1), **limits)


async def ask(gateway: SimulatedGateway, customer: str = "a", **changes: Any) -> int | GatewayError:
    """Send one request. Returns how long it waited in line, in milliseconds, or the error."""
    now = asyncio.get_running_loop().time()
    asked = request(**{"user_id": customer, "started": now, "deadline": now + 30, "max_tokens": 100, **changes})
    try:
        served = await gateway.failover.run(asked, plan([gateway.provider]), gateway.recorder.start(asked))
    except GatewayError as error:
        return error
    return served.queued_ms


async def fill(gateway: SimulatedGateway, places: int, seconds_ago: float) -> None:
    """Let the customer `a` use up places; the first of them is free in 61 s less `seconds_ago`."""
    for _ in range(places):
        assert await ask(gateway) == 0
    await asyncio.sleep(seconds_ago)


def assert_clean(gateway: SimulatedGateway) -> None:
    """Assert that nothing of the requests that waited is left."""
    lines = gateway.lines
    assert lines.count == 0
    for of_provider in lines._providers.values():
        assert (of_provider.count, of_provider.lines, of_provider.holder, of_provider.timer) == (0, {}, None, None)
    assert gateway.limiter._watchers == {}
    assert len(asyncio.all_tasks()) == 1


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in virtual time."""

    @wraps(test)
    def run(*arguments: Any) -> None:
        run_virtually(test(*arguments))

    return run


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


def close_gate(gateway: SimulatedGateway, seconds: float) -> None:
    permit = gateway.availability.admit(Candidate.of(gateway.provider, "m1"))
    assert isinstance(permit, Permit)
    for _ in range(5):
        permit.limited(seconds, "slow")


class FailingLimiter(MemoryLimiter):
    """A limiter whose third `take` fails."""

    calls = 0

    async def take(self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str = "") -> Decision:
        self.calls += 1
        if self.calls == THIRD:
            raise RuntimeError("of the test")
        return await super().take(provider_id, rpm, tpm, tokens, model)


class TestGate:
    @virtually
    async def test_a_request_waits_behind_a_closed_gate_and_is_served_when_it_reopens(self) -> None:
        vendor = Scripted()
        behind = gateway(vendor)
        close_gate(behind, 3.0)

        assert await ask(behind) == 3000
        assert_clean(behind)

    @virtually
    async def test_behind_a_gate_that_is_closed_for_long_requests_are_refused_at_once(self) -> None:
        vendor = Scripted()
        behind = gateway(vendor)
        close_gate(behind, 60.0)

        error = await ask(behind)

        assert isinstance(error, RateLimited)
        assert (error.retry_after_s, vendor.called_at) == (60.0, [])

    @virtually
    async def test_a_429_that_closes_the_gate_is_waited_out(self) -> None:
        vendor = Scripted()
        vendor.script = [refusal(429, "", 2.0)] * 5
        behind = gateway(vendor)

        waited = await asyncio.gather(*(ask(behind) for _ in range(5)))

        assert all(isinstance(ms, int) for ms in waited)
        assert min(vendor.called_at[5:]) - vendor.called_at[4] >= 2.0
        assert vendor.called_at[6] - vendor.called_at[5] <= 1.0
        assert_clean(behind)

    @virtually
    async def test_a_request_is_sent_eight_times_at_most(self) -> None:
        vendor = Scripted()
        vendor.script = [refusal(429, "", 0.1)] * 30
        behind = gateway(vendor)

        error = await ask(behind)

        assert isinstance(error, RateLimited)
        assert len(vendor.called_at) <= 8

    @virtually
    async def test_an_open_breaker_ends_the_wait(self) -> None:
        behind = gateway()
        close_gate(behind, 3.0)
        waiting = asyncio.create_task(ask(behind))
        await asyncio.sleep(1.0)
        breaker = behind.availability.breaker(behind.provider.id, "m1")
        for _ in range(5):
            breaker.fail(breaker.admit() or 0)

        error = await waiting

        assert isinstance(error, GatewayError)
        assert error.status in (429, 503)
        assert_clean(behind)


class TestLeaving:
    @virtually
    async def test_a_cancelled_request_leaves_the_line_to_the_others(self) -> None:
        slow = gateway(Scripted(latency_s=1.0), rate_limit_tpm=150)
        tasks = [asyncio.create_task(ask(slow)) for _ in range(4)]
        await asyncio.sleep(0.5)
        tasks[1].cancel()
        await asyncio.sleep(0)

        assert [await task for task in (tasks[0], *tasks[2:])] == [0, 1000, 2000]
        assert tasks[1].cancelled()
        assert_clean(slow)

    @virtually
    async def test_a_request_that_is_cancelled_in_its_turn_passes_it_on(self) -> None:
        vendor = Scripted(latency_s=1.0)
        slow = gateway(vendor, rate_limit_tpm=150)
        first, second, third = (asyncio.create_task(ask(slow)) for _ in range(3))
        vendor.on_answer = second.cancel  # it has been given the turn by then, and has not run

        assert [await first, await third] == [0, 1000]
        assert (second.cancelled(), len(vendor.called_at)) == (True, 2)
        assert_clean(slow)

    @virtually
    async def test_a_deleted_provider_sends_everybody_away(self) -> None:
        alone = gateway(rate_limit_rpm=1)
        await fill(alone, 1, seconds_ago=57.0)
        waiting = [asyncio.create_task(ask(alone)) for _ in range(1)]
        await asyncio.sleep(1.0)

        alone.limiter.forget(alone.provider.id)
        alone.lines.forget(alone.provider.id)
        alone.lines.forget("unknown")

        [error] = await asyncio.gather(*waiting)
        assert isinstance(error, RateLimited)
        assert error.queued_ms == 1000
        assert_clean(alone)

    @virtually
    async def test_a_failing_limiter_fails_the_request_in_its_turn_only(self) -> None:
        slow = gateway(Scripted(latency_s=1.0), limiter=FailingLimiter, rate_limit_tpm=150)
        tasks = [asyncio.create_task(ask(slow)) for _ in range(3)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [int, RuntimeError, int]
        assert_clean(slow)


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
