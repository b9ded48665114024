"""Failover after an attempt that exceeded the model's context window, and what later requests learn from it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llm_gateway.domain.catalog import Candidate, Provider
from llm_gateway.domain.upstream_call import Success, UpstreamResult
from llm_gateway.errors import GatewayError, ProviderFailed, RateLimited
from tests.upstream.behaviour import REFUSALS
from tests.worker.pipeline.fakes import World, answer, plan, provider, refusal, request

TOO_LONG = UpstreamResult(400, msgspec.json.encode({"error": REFUSALS["context-length"][1]}))
A, B, C = provider("a"), provider("b"), provider("c")


def sized(name: str, window: int | None) -> Provider:
    """Return a provider whose model's context window is listed with this size."""
    return provider(name, context_window_by_model={} if window is None else {"m1": window})


def exceeded(limit: int) -> UpstreamResult:
    message = f"This model's maximum context length is {limit} tokens. However, you requested {limit + 9} tokens."
    return UpstreamResult(400, msgspec.json.encode({"error": {"message": message}}))


async def ask(world: World, *tiers: list[Provider], **changes: Any) -> str | GatewayError:
    """Return the name of the provider that answers, or the error."""
    asked = request(**changes)
    try:
        served = await world.failover.run(asked, plan(*tiers), world.open(asked))
    except GatewayError as error:
        return error
    assert isinstance(served, Success)
    return served.provider


def test_a_candidates_window_is_the_listed_one() -> None:
    assert Candidate.of(sized("a", 8192), "m1").context_window == 8192
    assert Candidate.of(sized("a", 8192), "m2").context_window is None


async def test_the_next_candidate_answers_what_is_too_long_for_the_first(world: World) -> None:
    world.script(a=[TOO_LONG], b=[answer()])

    assert await ask(world, [A], [B]) == "b"
    assert (world.logged, world.limiter.settled[0]) == ([], ("id-a", 0, True)), "the tokens are given back"
    assert world.availability.breaker("id-a", "m1").answered() == 0


@pytest.mark.parametrize(
    ("first", "said", "called"),
    [
        (8000, TOO_LONG, ["a", "large", "unknown"]),
        (None, exceeded(8000), ["a", "large", "unknown"]),
        (9000, exceeded(8000), ["a", "large", "unknown"]),
        (None, TOO_LONG, ["a", "small", "equal"]),
    ],
    ids=["listed", "reported", "both", "unknown"],
)
async def test_candidates_whose_window_is_known_to_be_no_larger_are_skipped(
    world: World, first: int | None, said: UpstreamResult, called: list[str]
) -> None:
    others = [sized("small", 4000), sized("equal", 8000), sized("large", 9000), sized("unknown", None)]
    world.script(a=[said], small=[TOO_LONG], equal=[TOO_LONG], large=[TOO_LONG], unknown=[answer()])

    await ask(world, [sized("a", first)], *[[other] for other in others])

    assert world.upstream.called == called


async def test_the_providers_error_is_returned_if_no_candidate_takes_the_request(world: World) -> None:
    world.script(a=[TOO_LONG], b=[TOO_LONG])

    error = await ask(world, [A], [B])

    assert isinstance(error, ProviderFailed)
    assert (error.status, error.retryable, error.provider) == (502, False, "b")
    assert error.detail.startswith("Provider b: answered 400: Your input exceeds the context window")


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_a_larger_candidate_at_its_limit_is_worth_waiting_for(world: World, order: str) -> None:
    world.script(a=[TOO_LONG], b=[refusal(429, "", 30)])
    named = {"a": A, "b": B}

    error = await ask(world, *[[named[name]] for name in order])

    assert isinstance(error, RateLimited)
    assert error.retry_after_s == 30


class TestLearned:
    async def test_a_later_request_of_this_size_tries_others_first_for_ten_minutes(self, world: World) -> None:
        world.script(a=[TOO_LONG, answer()], b=[answer()] * 3)

        assert [await ask(world, [A], [B]) for _ in range(2)] == ["b", "b"]
        world.clock.now += 599.9
        assert await ask(world, [A], [B], deadline=world.clock.now + 60) == "b"
        assert world.upstream.called == ["a", "b", "b", "b"]
        world.clock.now += 0.1
        assert await ask(world, [A], [B], deadline=world.clock.now + 60) == "a"

    @pytest.mark.parametrize(
        ("changes", "serving"),
        [
            ({"prompt": "p" * 26}, "a"),
            ({"prompt": "p" * 40}, "b"),
            ({"max_tokens": 99}, "a"),
            ({"max_tokens": 500}, "b"),
            ({"prompt": "p" * 40, "max_tokens": 50}, "a"),
        ],
        ids=["shorter", "longer", "less output", "more output", "longer, but less in all"],
    )
    async def test_only_requests_at_least_as_large_are_passed_over(
        self, world: World, changes: dict[str, Any], serving: str
    ) -> None:
        world.script(a=[TOO_LONG, answer()], b=[answer()] * 2)
        await ask(world, [A], [B])

        assert await ask(world, [A], [B], **changes) == serving

    async def test_the_record_says_that_the_context_window_of_the_candidate_before_was_too_small(
        self, world: World
    ) -> None:
        world.script(a=[TOO_LONG], b=[answer()] * 2)
        await ask(world, [A], [B])
        asked = request()
        record = world.open(asked)

        await world.failover.run(asked, plan([A], [B]), record)

        assert [(attempt.provider, attempt.why) for attempt in record.attempts] == [("b", "failover:context_length")]

    async def test_another_model_of_the_provider_is_not_passed_over(self, world: World) -> None:
        world.script(a=[TOO_LONG, answer()], b=[answer()])
        await ask(world, [A], [B])

        assert await ask(world, [provider("a", models=("m2",))], [B]) == "a"

    async def test_a_lone_candidate_is_asked_again(self, world: World) -> None:
        world.script(a=[TOO_LONG, TOO_LONG])

        for _ in range(2):
            assert isinstance(await ask(world, [A]), ProviderFailed)
        assert (world.upstream.called, world.slept) == (["a", "a"], [])

    async def test_a_candidate_that_was_passed_over_is_not_asked_after_another_failed(self, world: World) -> None:
        world.script(a=[TOO_LONG], b=[answer(), refusal(500, "down")])
        await ask(world, [A], [B])

        error = await ask(world, [A], [B])

        assert isinstance(error, ProviderFailed)
        assert (error.detail, error.retryable) == ("Provider b: answered 500: down", True)
        assert world.upstream.called == ["a", "b", "b"]

    async def test_the_smallest_size_counts(self, world: World) -> None:
        world.script(a=[TOO_LONG, TOO_LONG], b=[answer()] * 3)
        await ask(world, [A], [B], prompt="p" * 100)
        await ask(world, [A], [B])

        assert await ask(world, [A], [B]) == "b"
        assert world.upstream.called == ["a", "b", "a", "b", "b"]

    @pytest.mark.parametrize("end", ["reset", "forget"])
    async def test_a_change_of_the_provider_forgets_it(self, world: World, end: str) -> None:
        world.script(a=[TOO_LONG, answer()], b=[answer()])
        await ask(world, [A], [B])

        getattr(world.availability, end)("id-a")

        assert await ask(world, [A], [B]) == "a"


class TestAttempts:
    async def test_429s_and_account_refusals_do_not_use_up_the_three_attempts(self, world: World) -> None:
        scripts = {"a": refusal(429), "b": refusal(401), "c": refusal(500), "d": refusal(500), "e": refusal(429)}
        world.script(**{name: [step] for name, step in scripts.items()}, f=[answer()])

        assert await ask(world, *[[provider(name)] for name in "abcdef"]) == "f"

    async def test_eight_attempts_are_made_at_most(self, world: World) -> None:
        names = [f"p{number}" for number in range(10)]
        world.script(**{name: [refusal(429, "", 9)] for name in names})

        error = await ask(world, *[[provider(name)] for name in names])

        assert isinstance(error, RateLimited)
        assert world.upstream.called == names[:8]

    async def test_retries_of_429s_and_of_failures_pay_one_budget(self, world: World) -> None:
        world.script(a=[refusal(429, "", 1), answer(), refusal(500), answer(), refusal(429, "", 1), answer()])
        for _ in range(3):
            assert await ask(world, [A], deadline=world.clock.now + 60) == "a"
        world.script(a=[refusal(500), answer()])

        assert isinstance(await ask(world, [A], deadline=world.clock.now + 60), ProviderFailed)
