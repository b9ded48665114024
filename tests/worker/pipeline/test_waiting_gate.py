"""Requests wait behind the gate that 429s close, and leave the line however they end; in virtual time."""

from __future__ import annotations

import asyncio

from llm_gateway.domain.catalog import Candidate
from llm_gateway.errors import GatewayError, RateLimited
from llm_gateway.limiter.base import Decision
from llm_gateway.limiter.memory import MemoryLimiter
from llm_gateway.worker.pipeline.availability import Permit
from tests.worker.pipeline.fakes import refusal
from tests.worker.pipeline.simulation import SimulatedGateway
from tests.worker.pipeline.waiting_requests import Scripted, ask, assert_clean, fill, gateway, virtually

THIRD = 3


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
