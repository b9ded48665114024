"""Errors returned once no candidate is left, with their Retry-After."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from llm_gateway.domain.request import ClientRequest, Request
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.errors import (
    GatewayError,
    Invalid,
    ProviderAccountRefused,
    ProviderFailed,
    ProvidersUnavailable,
    RateLimited,
    RequestExceedsLimit,
)
from llm_gateway.protocols import openai_chat
from tests.worker.pipeline.failing import (
    JUST,
    LARGE,
    A,
    B,
    broken_open,
    failing,
    failing_request,
    failing_with_record,
    fill,
)
from tests.worker.pipeline.fakes import (
    BROKEN,
    KEY,
    NOT_SENT,
    TIMEOUT,
    World,
    answer,
    plan,
    provider,
    refusal,
    request,
)

CLAUDE = provider("claude", kind="anthropic", models=("claude-haiku-4-5",))


class TestLimits:
    async def test_full_limits_of_all_candidates_are_a_429_with_the_shortest_wait(self, world: World) -> None:
        one, two = provider("one", rate_limit_rpm=1), provider("two", rate_limit_rpm=1)
        await fill(world, "two", seconds_ago=40)
        await fill(world, "one", seconds_ago=10)

        error, record = await failing_with_record(world, plan([one], [two]))

        assert type(error) is RateLimited
        assert error.detail == (
            "Every provider that could serve this request is at its rate limit. "
            "two takes 1 request and 100000 tokens a minute."
        )
        assert (error.status, error.code, error.retryable, error.retry_after_s) == (429, "rate_limited", True, 21.0)
        assert (world.upstream.calls, record.attempts) == ([], [])

    async def test_the_shortest_wait_is_returned_in_either_order(self, world: World) -> None:
        one, two = provider("one", rate_limit_rpm=1), provider("two", rate_limit_rpm=1)
        await fill(world, "one", seconds_ago=40)
        await fill(world, "two", seconds_ago=10)

        assert (await failing(world, plan([one], [two]))).retry_after_s == 21.0

    async def test_a_candidate_at_its_limit_is_skipped(self, world: World) -> None:
        await fill(world, "one")
        world.script(b=[answer()])
        record = world.open(request())

        served = await world.failover.run(request(), plan([provider("one", rate_limit_rpm=1)], [B]), record)

        assert served.provider == "b"
        assert [attempt.why for attempt in record.attempts] == ["failover:limit"]

    async def test_a_request_larger_than_every_limit_is_refused(self, world: World) -> None:
        error = await failing(world, plan([LARGE], [provider("other", rate_limit_tpm=1)]))

        assert type(error) is RequestExceedsLimit
        assert (error.status, error.code, error.retryable, error.retry_after_s) == (
            429,
            "request_exceeds_limit",
            False,
            None,
        )
        assert error.detail == (
            "Prompt and max_tokens together exceed every provider's token limit per minute: "
            "lower max_tokens, or raise rate_limit_tpm."
        )

    async def test_a_request_as_large_as_the_limit_is_admitted(self, world: World) -> None:
        world.script(just=[answer()])

        record = world.open(request())
        served = await world.failover.run(request(), plan([LARGE], [JUST]), record)

        assert served.provider == "just"
        assert [attempt.why for attempt in record.attempts] == ["failover:exceeds_limit"]

    async def test_a_full_limit_wins_over_one_that_the_request_exceeds(self, world: World) -> None:
        await fill(world, "one", seconds_ago=10)

        error = await failing(world, plan([LARGE], [provider("one", rate_limit_rpm=1)]))

        assert (type(error), error.retry_after_s) == (RateLimited, 51.0)

    async def test_an_open_breaker_wins_over_a_limit_that_the_request_exceeds(self, world: World) -> None:
        broken_open(world, "a")

        assert type(await failing(world, plan([LARGE], [A]))) is ProvidersUnavailable

    @pytest.mark.parametrize(
        ("said", "told", "attempts"), [(7.5, 7.5, 1), (None, 1.0, 3), (500.0, 120.0, 1), (0.0, 1.0, 3), (1.5, 1.5, 3)]
    )
    async def test_a_providers_429_is_returned_with_its_retry_after(
        self, world: World, said: float | None, told: float, attempts: int
    ) -> None:
        world.script(a=[refusal(429, "slow down", said)] * attempts)

        error, record = await failing_with_record(world, plan([A]))

        assert (type(error), error.retry_after_s) == (RateLimited, told)
        assert [attempt.error for attempt in record.attempts] == ["Provider a: answered 429: slow down"] * attempts
        assert (world.wait(A), world.logged) == (None, [])

    async def test_five_429s_in_a_row_hold_back_all_requests(self, world: World) -> None:
        world.script(a=[refusal(429, "slow down", 7)] * 5)
        for _ in range(5):
            assert (await failing(world, plan([A]))).retry_after_s == 7

        for moved, told in ((0.0, 7.0), (6.5, 0.5)):
            world.clock.now += moved
            error = await failing(world, plan([A]))
            assert (type(error), error.retry_after_s) == (RateLimited, told)
        assert len(world.upstream.calls) == 5

    async def test_429s_of_all_providers_return_the_shortest_wait(self, world: World) -> None:
        waits = {"a": 30.0, "b": 20.0, "c": 25.0, "d": 40.0}
        world.script(**{name: [refusal(429, "", wait_s)] for name, wait_s in waits.items()})

        error = await failing(world, plan(*([provider(name)] for name in waits)))

        assert (type(error), error.retry_after_s, len(world.upstream.calls)) == (RateLimited, 20, 4)

    async def test_429s_do_not_use_up_the_three_attempts_but_eight_are_the_most(self, world: World) -> None:
        names = "abcdefghi"
        world.script(**{name: [refusal(429, "", 9)] * 2 for name in names}).script(i=[answer()])
        error = await failing(world, plan(*([provider(name)] for name in names)))
        assert (type(error), len(world.upstream.calls)) == (RateLimited, 8)

        served = await world.failover.run(
            request(), plan(*([provider(name)] for name in names[2:])), world.open(request())
        )
        assert served.provider == "i"

    async def test_a_closed_gate_fails_over_until_its_wait_is_over(self, world: World) -> None:
        world.script(a=[*[refusal(429, "", 7)] * 5, answer()], b=[answer()] * 6)
        for _ in range(4):
            await world.failover.run(request(), plan([A], [B]), world.open(request()))
        for moved, serving in ((0.0, "b"), (6.99, "b"), (0.01, "a")):
            world.clock.now += moved
            served = await world.failover.run(request(), plan([A], [B]), world.open(request()))
            assert served.provider == serving

    @pytest.mark.parametrize(("rests", "told"), [(7.0, 7.0), (40.0, 30.0)])
    async def test_a_closed_gate_and_an_open_breaker_return_the_shorter_wait(
        self, world: World, rests: float, told: float
    ) -> None:
        world.script(a=[refusal(429, "", rests)] * 5)
        for _ in range(5):
            await failing(world, plan([A]))
        broken_open(world, "b")

        for order in ([A], [B]), ([B], [A]):
            error = await failing(world, plan(*order))
            assert (type(error), error.retry_after_s) == (RateLimited, told)


class TestUnavailable:
    async def test_open_breakers_of_all_candidates_are_a_503(self, world: World) -> None:
        broken_open(world, "a")
        world.clock.now += 10
        broken_open(world, "b")

        for order in ([A], [B]), ([B], [A]):
            error, record = await failing_with_record(world, plan(*order))
            assert type(error) is ProvidersUnavailable
            assert error.detail == "Every provider that could serve this request failed recently and is paused."
            assert (error.status, error.code, error.retryable) == (503, "providers_unavailable", True)
            assert error.retry_after_s == 20.0
            assert (world.upstream.calls, record.attempts) == ([], [])

    async def test_a_candidate_with_an_open_breaker_is_skipped(self, world: World) -> None:
        broken_open(world, "a")
        world.script(b=[answer()])

        assert (await world.failover.run(request(), plan([A], [B]), world.open(request()))).provider == "b"

    async def test_two_refused_keys_pause_the_account(self, world: World) -> None:
        world.script(a=[refusal(401, "bad key")] * 2, b=[answer()] * 3)
        for name in ("1", "2", "3"):
            await world.failover.run(request(id=name), plan([A], [B]), world.open(request()))

        assert world.upstream.called == ["a", "b", "a", "b", "b"]
        reason = "2 refusals in a row: Provider a: answered 401: bad key"
        fields = {"level": "warning", "provider": "a", "model": "m1", "reason": reason, "seconds": 15.0}
        assert world.logged == [("provider account paused", fields)]
        error = await failing(world, plan([A]))
        assert (type(error), error.retry_after_s) == (ProvidersUnavailable, 15.0)

    @pytest.mark.parametrize("status", [401, 402, 403])
    async def test_one_refusal_is_returned_and_pauses_nothing(self, world: World, status: int) -> None:
        world.script(a=[refusal(status)])

        error = await failing(world, plan([A]))

        assert (type(error), error.status, error.code) == (ProviderAccountRefused, 502, "provider_account_refused")
        assert (error.detail, error.retryable) == (f"Provider a: answered {status}: no", False)
        assert (world.wait(A), world.logged) == (None, [])

    @pytest.mark.parametrize(
        ("others", "meant"),
        [
            ([refusal(401)], ProviderAccountRefused),
            ([refusal(500)], ProviderFailed),
            ([refusal(429, "", 5)], RateLimited),
        ],
        ids=["refused, too", "failed", "limited"],
    )
    async def test_a_refused_account_is_the_error_only_if_no_other_provider_may_answer_later(
        self, world: World, others: list[UpstreamResult], meant: type[GatewayError]
    ) -> None:
        for scripts in ({"a": [refusal(401)], "b": others}, {"a": others, "b": [refusal(401)]}):
            world.script(**scripts)
            assert type(await failing(world, plan([A], [B]))) is meant

    @pytest.mark.parametrize("status", [404, 501])
    async def test_a_missing_model_does_not_pause_the_account(self, world: World, status: int) -> None:
        world.script(a=[refusal(status)] * 3)
        for name in ("1", "2", "3"):
            with pytest.raises(ProviderFailed):
                await world.failover.run(request(id=name), plan([A]), world.open(request()))

        assert (world.wait(A), world.logged) == (None, [])


class TestAttemptsFailed:
    @pytest.mark.parametrize("first", [refusal(500), NOT_SENT, TIMEOUT, BROKEN, refusal(401)], ids=repr)
    async def test_the_last_attempts_message_is_returned(self, world: World, first: UpstreamResult) -> None:
        world.script(a=[first], b=[refusal(503, "over capacity")])

        error = await failing(world, plan([A], [B]))

        assert (type(error), error.status, error.code) == (ProviderFailed, 502, "provider_error")
        assert (error.detail, error.retryable) == ("Provider b: answered 503: over capacity", True)
        assert error.retry_after_s is None

    @pytest.mark.parametrize("statuses", [(429, 500), (500, 429), (429, 500, 429), (500, 429, 429)], ids=str)
    async def test_one_failure_other_than_a_429_makes_the_error_a_502(
        self, world: World, statuses: tuple[int, ...]
    ) -> None:
        names = "abc"[: len(statuses)]
        world.script(**{name: [refusal(status, "no", 5)] for name, status in zip(names, statuses, strict=True)})

        error = await failing(world, plan(*([provider(name)] for name in names)))

        assert type(error) is ProviderFailed
        assert error.detail == f"Provider {names[statuses.index(500)]}: answered 500: no"

    async def test_a_failed_attempt_wins_over_a_full_limit(self, world: World) -> None:
        await fill(world, "one")
        world.script(a=[refusal(500)])
        one = provider("one", rate_limit_rpm=1)

        assert type(await failing(world, plan([A], [one]))) is ProviderFailed
        world.script(a=[refusal(500)])
        assert type(await failing(world, plan([one], [A]))) is ProviderFailed

    async def test_a_providers_429_and_an_open_breaker_return_the_shorter_wait(self, world: World) -> None:
        broken_open(world, "b")
        world.script(a=[refusal(429, "", 45)])

        error = await failing(world, plan([A], [B]))

        assert (type(error), error.retry_after_s) == (RateLimited, 30.0)

    async def test_the_status_is_returned_if_there_is_no_message(self, world: World) -> None:
        world.script(a=[UpstreamResult(404)], b=[UpstreamResult(404)])

        assert (await failing(world, plan([A], [B]))).detail == "Provider b: answered 404"

    async def test_secrets_are_removed_from_providers_messages(self, world: World) -> None:
        world.script(a=[refusal(400, f"key {KEY} or sk-abcdefgh12 is bad")])

        error, record = await failing_with_record(world, plan([A]))

        assert error.detail == "Provider a: answered 400: key [redacted] or sk-[redacted] is bad"
        assert record.attempts[0].error == error.detail

    async def test_a_long_message_is_redacted_before_it_is_cut(self, world: World) -> None:
        world.script(a=[refusal(400, "x" * 490 + KEY + "y" * 100)])

        error = await failing(world, plan([A]))

        assert error.detail == f"Provider a: answered 400: {'x' * 490}[redacted]"

    async def test_messages_are_cut_to_500_characters(self, world: World) -> None:
        world.script(a=[refusal(400, "x" * 501)])

        assert (await failing(world, plan([A]))).detail == f"Provider a: answered 400: {'x' * 500}"


class TestUnreadableRequests:
    """A document that only the client's own protocol may understand is no reason to refuse it for all providers."""

    DOCUMENT: ClassVar[dict[str, Any]] = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 3}

    def asked(self) -> Request:
        def read(document: dict[str, Any]) -> Any:
            found = openai_chat.read_request(document)
            return found.conversation, found.dropped

        return request(client_request=ClientRequest("openai_chat", self.DOCUMENT, read))

    async def test_a_candidate_that_cannot_be_sent_a_translation_is_passed_over(self, world: World) -> None:
        world.script(a=[answer()])
        asked = self.asked()
        record = world.open(asked)

        served = await world.failover.run(asked, plan([CLAUDE], [A]), record)

        assert (served.provider, [attempt.why for attempt in record.attempts]) == ("a", ["failover:unsupported"])
        assert json.loads(world.upstream.bodies[0])["temperature"] == 3, "the vendor decides"

    async def test_the_invalid_field_is_the_error_if_no_other_candidate_is_left(self, world: World) -> None:
        error, _ = await failing_request(world, self.asked(), plan([CLAUDE]))

        assert isinstance(error, Invalid)
        assert (error.status, error.errors[0]["loc"]) == (422, ["body", "temperature"])
        assert world.upstream.called == []
