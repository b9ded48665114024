"""Effects of an attempt's end on rate limit, breaker and record, including cancellation and defects."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.conversation import Completion
from llm_gateway.domain.request import Request
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.usage import AttemptRecord, Usage
from llm_gateway.errors import GatewayError, JournalUnavailable
from llm_gateway.limiter.base import Decision
from llm_gateway.upstream.pool import CancelledBeforeSend
from llm_gateway.worker.pipeline.admission import Admission
from llm_gateway.worker.pipeline.availability.circuit_breaker import CircuitBreaker
from tests.worker.pipeline.fakes import (
    BROKEN,
    NOT_SENT,
    NOW,
    OUT_OF_FILES,
    TIMEOUT,
    Step,
    World,
    answer,
    plan,
    provider,
    refusal,
    request,
)

A, B = provider("a"), provider("b")
MALFORMED = UpstreamResult(200, b"<html>")
BOUND = Usage(input_tokens=18, output_tokens=100)


async def attempted(world: World, step: Step, **changes: Any) -> AttemptRecord:
    """Run a request whose first attempt is `step`, and return that attempt's record."""
    world.script(a=[step], b=[answer()])
    record = world.open(request())
    await world.failover.run(request(**changes), plan([A], [B]), record)
    assert world.journal.outcomes() == [attempt for attempt in record.attempts if attempt.error is not None]
    return record.attempts[0]


def almost_open(world: World, failures: int = 4) -> CircuitBreaker:
    """Return the breaker of A, one failure before it opens."""
    breaker = world.availability.breaker("id-a", "m1")
    for _ in range(failures):
        breaker.fail(breaker.admit() or 0)
    return breaker


class TestLimit:
    async def test_a_success_is_settled_with_the_tokens_used(self, world: World) -> None:
        attempt = await attempted(world, answer())

        assert (attempt.reserved_tokens, attempt.limit_tokens) == (118, 50)
        assert world.limiter.settled == [("id-a", 50, True)]

    async def test_a_success_may_settle_more_than_was_reserved(self, world: World) -> None:
        attempt = await attempted(world, answer(usage={"prompt_tokens": 200, "completion_tokens": 30}))

        assert attempt.limit_tokens == 230
        assert world.limiter.settled == [("id-a", 230, True)]

    async def test_a_call_that_was_not_sent_releases_everything_and_costs_nothing(self, world: World) -> None:
        attempt = await attempted(world, NOT_SENT)

        assert (attempt.sent, attempt.limit_tokens) == (False, 0)
        assert (attempt.usage, attempt.cost_nanos, attempt.cost_status) == (Usage(), 0, "exact")
        assert (attempt.status, attempt.error) == (None, "Provider a: No connection: refused")
        assert world.limiter.settled[0] == ("id-a", 0, False)

    @pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 409, 429, 500, 503, 529])
    async def test_a_providers_error_releases_the_tokens_and_costs_nothing(self, world: World, status: int) -> None:
        attempt = await attempted(world, refusal(status))

        assert (attempt.sent, attempt.status, attempt.limit_tokens) == (True, status, 0)
        assert (attempt.usage, attempt.cost_nanos, attempt.cost_status) == (Usage(), 0, "exact")
        assert world.limiter.settled[0] == ("id-a", 0, True)

    @pytest.mark.parametrize("step", [TIMEOUT, BROKEN, MALFORMED], ids=repr)
    async def test_an_unknown_end_keeps_the_reservation_and_an_estimated_cost(
        self, world: World, step: UpstreamResult
    ) -> None:
        attempt = await attempted(world, step)

        assert (attempt.sent, attempt.limit_tokens) == (True, 118)
        assert (attempt.usage, attempt.cost_nanos, attempt.cost_status) == (BOUND, 336_000, "estimated")
        assert world.limiter.settled == [("id-a", 118, True), ("id-b", 50, True)]

    @pytest.mark.parametrize(
        "step",
        [refusal(504), refusal(524), UpstreamResult(408, b"<html>timeout</html>"), UpstreamResult(408)],
        ids=repr,
    )
    async def test_a_proxys_timeout_may_be_billed_and_keeps_the_reservation(
        self, world: World, step: UpstreamResult
    ) -> None:
        attempt = await attempted(world, step)

        assert (attempt.sent, attempt.status, attempt.limit_tokens) == (True, step.status, 118)
        assert (attempt.usage, attempt.cost_nanos, attempt.cost_status) == (BOUND, 336_000, "estimated")
        assert attempt.usage_estimated
        assert world.limiter.settled == [("id-a", 118, True), ("id-b", 50, True)]

    async def test_only_sent_attempts_count_against_the_request_limit(self, world: World) -> None:
        narrow = provider("a", rate_limit_rpm=2)
        world.script(a=[NOT_SENT, answer(), refusal(500)], b=[answer()] * 3)
        for serving in ("b", "a", "b", "b"):
            served = await world.failover.run(request(), plan([narrow], [B]), world.open(request()))
            assert served.provider == serving
        assert world.upstream.called == ["a", "b", "a", "a", "b", "b"]


class TestBreaker:
    COUNTED = (NOT_SENT, TIMEOUT, BROKEN, MALFORMED, *(refusal(status) for status in (301, 500, 503, 529)))
    NOT_COUNTED = tuple(refusal(status) for status in (401, 403, 404, 408, 409, 429, 499))

    @pytest.mark.parametrize("step", COUNTED, ids=repr)
    async def test_a_failure_of_the_provider_counts_against_its_breaker(
        self, world: World, step: UpstreamResult
    ) -> None:
        breaker = almost_open(world)
        await attempted(world, step)

        assert breaker.state == "open"

    @pytest.mark.parametrize("step", NOT_COUNTED, ids=repr)
    async def test_other_failures_do_not_change_the_breaker(self, world: World, step: UpstreamResult) -> None:
        breaker = almost_open(world)
        await attempted(world, step)

        before = breaker.state
        breaker.fail(breaker.admit() or 0)
        assert (before, breaker.state) == ("closed", "open"), "not counted, and none forgotten"

    @pytest.mark.parametrize("status", [400, 413, 422])
    async def test_a_status_that_blames_the_request_is_not_counted(self, world: World, status: int) -> None:
        breaker = almost_open(world)
        with pytest.raises(GatewayError):
            await attempted(world, refusal(status))

        assert breaker.state == "closed"

    @pytest.mark.parametrize("content", ["{}", "no JSON"])
    async def test_an_answer_ends_a_row_of_failures(self, world: World, content: str) -> None:
        breaker = almost_open(world)
        world.script(a=[answer(content)], b=[answer("{}")])
        await world.failover.run(request(json_mode=True), plan([A], [B]), world.open(request()))
        breaker.fail(breaker.admit() or 0)

        assert breaker.state == "closed"

    @pytest.mark.parametrize(("left", "state"), [(60.0, "open"), (59.999, "closed")])
    async def test_a_timeout_counts_only_if_the_provider_had_its_full_timeout(
        self, world: World, left: float, state: str
    ) -> None:
        breaker = almost_open(world)
        await attempted(world, TIMEOUT, deadline=NOW + left)

        assert breaker.state == state

    @pytest.mark.parametrize("step", [NOT_SENT, BROKEN, MALFORMED, refusal(500)], ids=repr)
    async def test_other_failures_count_however_short_the_deadline(self, world: World, step: UpstreamResult) -> None:
        breaker = almost_open(world)
        await attempted(world, step, deadline=NOW + 1)

        assert breaker.state == "open"

    @pytest.mark.parametrize(
        ("step", "state"),
        [(answer(), "closed"), (refusal(500), "open"), (TIMEOUT, "open"), (NOT_SENT, "open"), (MALFORMED, "open")],
        ids=repr,
    )
    async def test_a_half_open_breaker_is_decided_by_its_one_call(
        self, world: World, step: UpstreamResult, state: str
    ) -> None:
        breaker = almost_open(world, failures=5)
        world.clock.now += 30
        await attempted(world, step, deadline=NOW + 300)

        assert breaker.state == state

    @pytest.mark.parametrize("step", [refusal(404), refusal(408), refusal(429), OUT_OF_FILES], ids=repr)
    async def test_a_half_open_breaker_admits_another_call_after_an_inconclusive_one(
        self, world: World, step: Step
    ) -> None:
        breaker = almost_open(world, failures=5)
        world.clock.now += 30
        await attempted(world, step)

        assert breaker.admit() is not None

    async def test_a_half_open_breaker_admits_another_call_after_a_timeout_cut_short_by_the_deadline(
        self, world: World
    ) -> None:
        breaker = almost_open(world, failures=5)
        world.clock.now += 30
        await attempted(world, TIMEOUT, deadline=world.clock.now + 59)

        assert breaker.admit() is not None

    async def test_a_half_open_breaker_gets_its_permit_back_if_the_limit_is_full(self, world: World) -> None:
        breaker = almost_open(world, failures=5)
        world.clock.now += 30
        taken = await world.limiter.take("id-a", 1, 10, 10)
        assert taken.reservation is not None
        world.script(b=[answer()])

        await world.failover.run(request(), plan([provider("a", rate_limit_rpm=1)], [B]), world.open(request()))

        assert breaker.admit() is not None

    async def test_every_model_has_its_own_breaker(self, world: World) -> None:
        almost_open(world, failures=5)
        world.script(a=[answer()])

        served = await world.failover.run(request(), plan([provider("a", models=("m2",))]), world.open(request()))

        assert served.model == "m2"


class TestCutShort:
    async def test_a_cancelled_attempt_is_recorded_with_its_upper_bound(self, world: World) -> None:
        breaker = almost_open(world)
        sent = asyncio.Event()

        async def hang(_: float) -> UpstreamResult:
            sent.set()
            await asyncio.sleep(60)
            raise AssertionError

        world.script(a=[hang])
        record = world.open(request())
        task = asyncio.create_task(world.failover.run(request(), plan([A], [B]), record))
        await sent.wait()
        world.clock.now += 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        [attempt] = record.attempts
        assert world.journal.outcomes() == [attempt]
        assert (attempt.error, attempt.sent, attempt.status, attempt.latency_ms) == ("cancelled", True, None, 2000)
        assert (attempt.usage, attempt.cost_nanos, attempt.cost_status) == (BOUND, 336_000, "estimated")
        assert (attempt.limit_tokens, world.limiter.settled) == (118, [("id-a", 118, True)])
        assert (breaker.state, world.availability.in_flight("id-a")) == ("closed", 0)

    async def test_a_call_cancelled_before_it_was_sent_costs_nothing(self, world: World) -> None:
        """For example while a connection was made: it costs nothing, and counts against no limit."""
        world.script(a=[CancelledBeforeSend()])
        record = world.open(request())
        with pytest.raises(asyncio.CancelledError):
            await world.failover.run(request(), plan([A], [B]), record)

        [attempt] = record.attempts
        assert (attempt.error, attempt.sent, attempt.cost_nanos, attempt.usage) == ("cancelled", False, 0, Usage())
        assert (attempt.limit_tokens, world.availability.in_flight("id-a")) == (0, 0)

    async def test_a_cancelled_call_returns_the_permit_of_a_half_open_breaker(self, world: World) -> None:
        breaker = almost_open(world, failures=5)
        world.clock.now += 30
        world.script(a=[asyncio.CancelledError()])
        with pytest.raises(asyncio.CancelledError):
            await world.failover.run(request(), plan([A]), world.open(request()))

        assert breaker.admit() is not None

    async def test_a_defect_during_an_attempt_is_recorded_with_its_upper_bound(self, world: World) -> None:
        world.script(a=[RuntimeError("of ours")])
        record = world.open(request())
        with pytest.raises(RuntimeError, match="of ours"):
            await world.failover.run(request(), plan([A], [B]), record)

        [attempt] = record.attempts
        assert (attempt.error, attempt.cost_status, attempt.limit_tokens) == ("defect", "estimated", 118)
        assert world.availability.in_flight("id-a") == 0

    async def test_an_attempt_that_cannot_be_journalled_is_not_sent(self, world: World) -> None:
        breaker = almost_open(world, failures=5)
        world.clock.now += 30
        world.journal.fails["intent"] = JournalUnavailable("disk full")
        record = world.open(request())
        with pytest.raises(JournalUnavailable):
            await world.failover.run(request(), plan([A], [B]), record)

        assert (world.upstream.calls, record.attempts) == ([], [])
        assert world.limiter.settled == [("id-a", 0, False)]
        assert breaker.admit() is not None
        assert world.availability.in_flight("id-a") == 0

    async def test_a_request_that_cannot_be_encoded_is_not_sent(self, world: World) -> None:
        record = world.open(request())
        with pytest.raises(UnicodeEncodeError):
            await world.failover.run(request(prompt="\ud800"), plan([A], [B]), record)

        assert (world.upstream.calls, world.journal.entries) == ([], [])
        assert world.limiter.settled == []

    async def test_a_limiter_that_hangs_does_not_keep_the_permit(self, world: World) -> None:
        class Deaf(Admission):
            async def admit(self, request: Request, candidate: Candidate) -> Decision:
                await asyncio.sleep(60)
                raise AssertionError("The call was not given up.")

        breaker = almost_open(world, failures=5)
        world.clock.now += 30
        run = world.with_admission(Deaf(world.limiter)).run(request(), plan([A]), world.open(request()))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run, 0.01)

        assert breaker.admit() is not None


async def test_a_call_is_not_sent_if_the_breaker_opened_while_its_intent_was_written(world: World) -> None:
    breaker = almost_open(world)

    def fail() -> None:
        if breaker.state == "closed":
            breaker.fail(breaker.admit() or 0)

    world.journal.on_intent = fail
    world.script(a=[answer()], b=[answer()])
    record = world.open(request())

    await world.failover.run(request(), plan([A], [B]), record)

    spared, _ = record.attempts
    assert world.upstream.called == ["b"]
    assert (spared.sent, spared.cost_nanos, spared.limit_tokens) == (False, 0, 0)
    assert spared.error == "Provider a: Not called, since it became unavailable"


def broken_reader(body: bytes) -> Completion:
    raise ZeroDivisionError


async def test_a_defect_in_reading_an_answer_releases_the_permit(world: World) -> None:
    breaker = almost_open(world, failures=5)
    world.clock.now += 60
    world.script(a=[answer()])
    broken = provider("a", translation_codec=A.translation_codec._replace(read_reply=broken_reader))

    with pytest.raises(ZeroDivisionError):
        await world.failover.run(request(), plan([broken]), world.open(request()))

    assert breaker.admit() is not None, "half-open gives the next one a try"
