"""One deadline over all attempts of a request, and answers that are not JSON in JSON mode."""

from __future__ import annotations

import pytest

from llm_gateway.errors import DeadlineExceeded, ProviderFailed
from llm_gateway.worker.pipeline.timing import TOO_LATE
from tests.worker.pipeline.failing import failing_request
from tests.worker.pipeline.fakes import (
    NOW,
    TIMEOUT,
    World,
    answer,
    plan,
    provider,
    refusal,
    request,
)

A, B, C, D = provider("a"), provider("b"), provider("c"), provider("d")


class TestDeadline:
    @pytest.mark.parametrize(("timeout_s", "left", "given"), [(60, 120, 60), (60, 60, 60), (60, 59.5, 59.5), (5, 7, 5)])
    async def test_an_attempts_timeout_is_capped_by_the_deadline(
        self, world: World, timeout_s: float, left: float, given: float
    ) -> None:
        world.script(a=[answer()])

        await world.failover.run(
            request(deadline=NOW + left), plan([provider("a", timeout_s=timeout_s)]), world.open(request())
        )

        assert world.upstream.calls == [("a", "m1", given)]

    async def test_all_attempts_share_one_deadline(self, world: World) -> None:
        world.script(a=[world.after(50, TIMEOUT)], b=[world.after(30, refusal(500))], c=[answer()])

        await world.failover.run(request(deadline=NOW + 100), plan([A], [B], [C]), world.open(request()))

        assert [timeout for _, _, timeout in world.upstream.calls] == [60.0, 50.0, 20.0]

    async def test_a_deadline_that_passes_during_an_attempt_ends_the_request(self, world: World) -> None:
        world.script(a=[world.after(10, TIMEOUT)], b=[answer()])

        error, _ = await failing_request(world, request(deadline=NOW + 10), plan([A], [B]))

        assert type(error) is DeadlineExceeded
        assert error.detail == (f"{TOO_LATE} The last attempt: Provider a: No complete answer in time")
        assert world.upstream.called == ["a"]

    @pytest.mark.parametrize("names", ["a", "abc"])
    async def test_a_deadline_that_passes_during_the_last_attempt_is_the_error(self, world: World, names: str) -> None:
        world.script(a=[refusal(500)], b=[refusal(500)])
        world.script(**{names[-1]: [world.after(10, TIMEOUT)]})

        error, _ = await failing_request(world, request(deadline=NOW + 10), plan(*([provider(n)] for n in names)))

        assert type(error) is DeadlineExceeded
        assert (error.status, error.code, error.retryable) == (504, "deadline_exceeded", True)

    async def test_a_status_that_blames_the_request_wins_over_the_deadline(self, world: World) -> None:
        world.script(a=[world.after(10, refusal(400, "bad"))])

        error, _ = await failing_request(world, request(deadline=NOW + 10), plan([A], [B]))

        assert type(error) is ProviderFailed

    @pytest.mark.parametrize("left", [-1.0, 0.0, 0.005])
    async def test_no_attempt_starts_after_the_deadline(self, world: World, left: float) -> None:
        world.clock.now = 0.0
        world.script(a=[answer()])

        error, record = await failing_request(world, request(deadline=left), plan([A]))

        assert type(error) is DeadlineExceeded
        assert error.detail == TOO_LATE
        assert (world.upstream.calls, record.attempts, world.journal.entries) == ([], [], [])

    async def test_an_attempt_starts_just_before_the_deadline(self, world: World) -> None:
        world.clock.now = 0.0
        world.script(a=[answer()])

        await world.failover.run(request(deadline=0.006), plan([A]), world.open(request()))

        assert world.upstream.calls == [("a", "m1", 0.006)]


class TestJsonMode:
    @pytest.mark.parametrize("content", ['{"a": 1}', "[]", "1", ' "text" ', "null"])
    async def test_json_content_is_returned(self, world: World, content: str) -> None:
        world.script(a=[answer(content)])

        served = await world.failover.run(request(json_mode=True), plan([A], [B]), world.open(request()))

        assert served.reply.content == content

    @pytest.mark.parametrize("content", ["", "Sure! {}", "{", '{"a": NaN}', "[" * 100_000])
    async def test_content_that_is_not_json_tries_the_next_candidate(self, world: World, content: str) -> None:
        world.script(a=[answer(content)], b=[answer("{}")])
        record = world.open(request())

        served = await world.failover.run(request(json_mode=True), plan([A], [B]), record)

        assert (served.provider, served.cost_nanos) == ("b", 130_000)
        assert record.attempts[0].error == "Provider a: The request requires JSON, and the answer is not JSON"

    async def test_content_that_is_not_json_is_billed(self, world: World) -> None:
        world.script(a=[answer("none")], b=[answer("{}")])
        record = world.open(request())

        await world.failover.run(request(json_mode=True), plan([A], [B]), record)

        bought = [(a.usage.output_tokens, a.cost_nanos, a.cost_status, a.limit_tokens) for a in record.attempts]
        assert bought == [(30, 130_000, "exact", 50)] * 2
        assert world.limiter.settled == [("id-a", 50, True), ("id-b", 50, True)]

    async def test_content_cut_by_length_is_returned_unchecked(self, world: World) -> None:
        choices = [{"message": {"content": '{"a": '}, "finish_reason": "length"}]
        world.script(a=[answer(choices=choices)])

        served = await world.failover.run(request(json_mode=True), plan([A], [B]), world.open(request()))

        assert (served.reply.content, served.reply.finish_reason) == ('{"a": ', "length")

    async def test_without_json_mode_any_content_is_returned(self, world: World) -> None:
        world.script(a=[answer("no JSON")])

        served = await world.failover.run(request(), plan([A], [B]), world.open(request()))

        assert served.reply.content == "no JSON"
