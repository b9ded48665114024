"""Waiting with several candidates, and while limits change: Retry-After, the budget of retries, raised limits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from llm_gateway.domain.catalog import Candidate, Provider
from llm_gateway.domain.rate_limits import ReportedLimit, ReportedLimits
from llm_gateway.errors import ProvidersUnavailable, RateLimited
from llm_gateway.worker.pipeline.availability import Permit
from tests.virtual_time import run_virtually
from tests.worker.pipeline.fakes import plan, provider, refusal, request
from tests.worker.pipeline.simulation import SimulatedGateway
from tests.worker.pipeline.waiting_requests import Scripted, ask, assert_clean, close_gate, fill, gateway, virtually


async def served_by(one: SimulatedGateway, *others: Provider, **changes: Any) -> tuple[str, int]:
    """Send one request to several providers. Returns which one answered, and how long the request waited."""
    asked = request(user_id="a", deadline=asyncio.get_running_loop().time() + 200, **changes)
    tiers = ([one.provider], *([other] for other in others))
    served = await one.failover.run(asked, plan(*tiers), one.recorder.start(asked))
    return served.provider, served.queued_ms


def permit_of(one: SimulatedGateway) -> Permit:
    permit = one.availability.admit(Candidate.of(one.provider, "m1"))
    assert isinstance(permit, Permit)
    return permit


class TestRetryAfter:
    @virtually
    async def test_who_runs_out_of_time_in_one_line_is_told_when_another_candidate_is_free(self) -> None:
        one, b = gateway(), provider("b", rate_limit_rpm=1)
        await one.limiter.take("id-b", 1, 10**9, 1, "m1")  # free again after 61 s
        await asyncio.sleep(41.0)
        closing = permit_of(one)
        close_gate(one, 2.0)
        waiting = asyncio.create_task(served_by(one, b))
        await asyncio.sleep(1.0)
        closing.limited(60.0, "much slower")  # a call that was under way

        with pytest.raises(RateLimited) as caught:
            await waiting
        assert (caught.value.queued_ms, caught.value.limited_by) == (8000, "b")
        assert caught.value.retry_after_s == 61.0 - 41.0 - 8.0
        assert_clean(one)

    @virtually
    async def test_a_request_does_not_count_as_ahead_of_itself(self) -> None:
        one = gateway()
        closing = permit_of(one)
        close_gate(one, 2.0)
        waiting = asyncio.create_task(served_by(one))
        await asyncio.sleep(1.0)
        closing.limited(60.0, "much slower")

        with pytest.raises(RateLimited) as caught:
            await waiting
        assert caught.value.retry_after_s == 61.0 - 8.0
        assert_clean(one)

    @virtually
    async def test_the_wait_of_a_candidate_that_became_unavailable_is_forgotten(self) -> None:
        one = gateway(rate_limit_rpm=2)
        await fill(one, 2, seconds_ago=57.0)
        waiting = asyncio.create_task(served_by(one))
        await asyncio.sleep(3.5)
        breaker = one.availability.breaker(one.provider.id, "m1")
        for _ in range(5):
            breaker.fail(breaker.admit() or 0)
        pause_s = breaker.retry_after_s()

        with pytest.raises(ProvidersUnavailable) as caught:
            await waiting
        assert caught.value.retry_after_s == round(pause_s - 0.5, 6)
        assert_clean(one)

    @virtually
    async def test_the_time_that_passed_since_a_candidate_was_skipped_is_subtracted(self) -> None:
        """The breaker of the first candidate is open; the second one takes 3 s to fail for a reason of its own."""
        vendor = Scripted(latency_s=3.0)
        one, b = gateway(vendor), provider("b", rate_limit_rpm=1)
        assert await served_by(one, b, prompt="warm up") == ("a", 0)
        close_gate(one, 20.0)
        vendor.script = []
        assert await served_by(one, b) == ("b", 0)

        with pytest.raises(RateLimited) as caught:
            await served_by(one, b)
        assert caught.value.retry_after_s == 17.0
        assert caught.value.limited_by == "a"


def test_no_429_of_a_provider_tells_its_client_to_come_at_once() -> None:
    """SDKs obey `retry-after-ms`: with 1 they use up their retries before the provider has recovered."""

    async def told(said: float | None, candidates: int) -> float:
        vendor = Scripted()
        vendor.script = [refusal(429, retry_after_s=said)] * 8
        with pytest.raises(RateLimited) as caught:
            await served_by(gateway(vendor), *(provider(f"b{number}") for number in range(candidates - 1)))
        assert len(vendor.called_at) >= candidates
        return caught.value.retry_after_s or 0.0

    for candidates in (1, 2, 3):
        for said, expected in ((None, 1.0), (0.0, 1.0), (9.0, 9.0)):
            assert run_virtually(told(said, candidates)) == expected, (said, candidates)


def retries(one: SimulatedGateway) -> dict[str, int]:
    """Return the retries that each provider's budget paid for."""
    return {name: state.calls.sum_marked for name, state in one.availability._providers.items()}


class TestBudgetOfRetries:
    @virtually
    async def test_it_is_the_called_providers_that_pays(self) -> None:
        vendor = Scripted()
        one, b = gateway(vendor, rate_limit_rpm=1), provider("b", rate_limit_rpm=1)
        one.lines.max_wait_s = 100.0
        vendor.script = [refusal(429), refusal(429)]
        waiting = asyncio.create_task(served_by(one, b))
        await asyncio.sleep(0.1)

        assert retries(one) == {"id-a": 0, "id-b": 1}
        assert (await waiting)[0] == "b"

    @virtually
    async def test_nothing_is_paid_for_a_call_that_is_no_retry(self) -> None:
        vendor = Scripted()
        one, b = gateway(vendor, rate_limit_rpm=1), provider("b", rate_limit_rpm=1)
        one.lines.max_wait_s = 100.0
        await one.limiter.take("id-b", 1, 10**9, 1, "m1")
        await asyncio.sleep(10.0)
        vendor.script = [refusal(429)]
        waiting = asyncio.create_task(served_by(one, b))
        await asyncio.sleep(0.1)

        assert retries(one) == {"id-a": 0, "id-b": 0}
        assert (await waiting)[0] == "b"

    @virtually
    async def test_a_provider_without_budget_is_not_waited_for_but_another_one_is(self) -> None:
        vendor = Scripted()
        one, b = gateway(vendor, rate_limit_rpm=1), provider("b", rate_limit_rpm=1)
        one.lines.max_wait_s = 100.0
        while one.availability.may_retry("id-b"):
            pass
        vendor.script = [refusal(429), refusal(429)]

        assert (await served_by(one, b))[0] == "a"


def changed(one: SimulatedGateway, **limits: int) -> None:
    """Change the provider's limits, as the configuration does."""
    one.lines.change(replace(one.provider, updated_at_ms=2, **limits))


async def full_of_requests(one: SimulatedGateway) -> None:
    await fill(one, 1, seconds_ago=55.0)


async def full_of_tokens(one: SimulatedGateway) -> None:
    await one.limiter.take(one.provider.id, 10, 150, 120, "m1")
    await asyncio.sleep(55.0)


async def paced(one: SimulatedGateway) -> None:
    """More than half of the window is taken and two customers ask, so the next place is due in some seconds."""
    for customer in "baaaaaaaaaaab":
        assert await ask(one, customer) == 0


RAISES: dict[str, tuple[dict[str, Any], Any, dict[str, int]]] = {
    "requests": ({"rate_limit_rpm": 1}, full_of_requests, {"rate_limit_rpm": 5}),
    "tokens": ({"rate_limit_rpm": 10, "rate_limit_tpm": 150}, full_of_tokens, {"rate_limit_tpm": 500}),
    "pacing": ({"rate_limit_rpm": 20}, paced, {"rate_limit_rpm": 200}),
}


class TestChangedLimits:
    @pytest.mark.parametrize("kind", RAISES)
    def test_a_raised_limit_serves_those_who_wait_at_once(self, kind: str) -> None:
        async def main() -> None:
            limits, prepare, raised = RAISES[kind]
            one = gateway(**limits)
            await prepare(one)
            waiting = asyncio.create_task(ask(one))
            await asyncio.sleep(1.0)
            assert not waiting.done()
            changed(one, **raised)

            assert await waiting == 1000
            assert_clean(one)

        run_virtually(main())

    @virtually
    async def test_a_raised_limit_does_not_hold_new_requests_back_with_the_old_ones_pace(self) -> None:
        one = gateway(rate_limit_rpm=20)
        await paced(one)
        changed(one, rate_limit_rpm=22)  # still more than half full
        one.provider = replace(one.provider, updated_at_ms=2, rate_limit_rpm=22)

        assert await ask(one) == 0

    @virtually
    async def test_a_lowered_limit_holds_for_those_who_wait(self) -> None:
        one = gateway(rate_limit_rpm=3)
        await fill(one, 2, seconds_ago=5.0)
        await fill(one, 1, seconds_ago=52.0)
        waiting = asyncio.create_task(ask(one))
        await asyncio.sleep(1.0)
        changed(one, rate_limit_rpm=1)

        assert isinstance(await waiting, RateLimited)
        assert_clean(one)

    @virtually
    async def test_those_who_have_yet_to_join_the_line_have_the_new_limit_too(self) -> None:
        """The request waits for its own Retry-After when the limit is raised."""
        vendor = Scripted()
        one = gateway(vendor, rate_limit_rpm=1)
        one.lines.max_wait_s = 100.0
        permit = permit_of(one)
        for _ in range(4):
            permit.limited(5.0, "slow")
        vendor.script = [refusal(429, retry_after_s=5.0)]  # it closes the gate
        waiting = asyncio.create_task(served_by(one))
        await asyncio.sleep(1.0)
        changed(one, rate_limit_rpm=10)

        assert await waiting == ("a", 5000)

    @virtually
    async def test_a_request_that_pauses_before_a_retry_has_the_new_limit_too(self) -> None:
        vendor = Scripted()
        one = gateway(vendor, rate_limit_rpm=1)
        vendor.script = [refusal(500)]
        waiting = asyncio.create_task(ask(one))
        await asyncio.sleep(0.1)
        changed(one, rate_limit_rpm=10)

        assert await waiting == 0
        assert len(vendor.called_at) == 2

    @virtually
    async def test_another_key_or_address_ends_the_waits_for_a_gate_and_for_reported_limits(self) -> None:
        for is_gate in (True, False):
            one = gateway()
            if is_gate:
                close_gate(one, 7.0)
            else:
                reservation = (await one.limiter.take(one.provider.id, 10**6, 10**9, 1, "m1")).reservation
                assert reservation is not None
                one.limiter.cap(reservation, ReportedLimits(requests=ReportedLimit(0, 7.0)))
            waiting = asyncio.create_task(ask(one))
            await asyncio.sleep(1.0)
            one.availability.reset(one.provider.id)
            one.limiter.uncap(one.provider.id, 1)
            changed(one)

            assert await waiting == 1000
            assert_clean(one)
