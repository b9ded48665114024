"""Errors in the body of an answer with status 200 are classified as if they had come as their status."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llm_gateway.domain.conversation import Conversation
from llm_gateway.domain.request import ClientRequest
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.errors import (
    GatewayError,
    ProviderAccountRefused,
    ProviderFailed,
    ProviderRefused,
    RateLimited,
)
from tests.worker.pipeline.fakes import KEY, World, answer, plan, provider, refusal, request

A, B = provider("a"), provider("b")


def ok(error: Any) -> UpstreamResult:
    return UpstreamResult(200, msgspec.json.encode({"error": error}))


async def failing(world: World, *, is_chat: bool = False) -> GatewayError:
    """Return the error of a lone provider, for a client of /generate or of /v1/chat/completions."""
    asked = request()
    if is_chat:
        document = {"model": "m1", "messages": [{"role": "user", "content": "Hi"}]}
        asked = msgspec.structs.replace(
            asked, client_request=ClientRequest("openai_chat", document, lambda _: (Conversation(turns=[]), ()))
        )
    with pytest.raises(GatewayError) as raised:
        await world.failover.run(asked, plan([A]), world.open(asked))
    return raised.value


@pytest.mark.parametrize(
    ("error", "meant"),
    [
        ({"code": 429, "message": "Rate limit exceeded"}, RateLimited),
        ({"code": 502, "message": "The provider is down"}, ProviderFailed),
        ({"message": "on fire"}, ProviderFailed),
        ({"code": "insufficient_quota", "message": "You exceeded your quota"}, ProviderAccountRefused),
        ({"code": 401, "message": "No auth"}, ProviderAccountRefused),
        ({"code": 400, "message": "max_tokens is too large"}, ProviderFailed),
    ],
    ids=["429", "502", "unknown", "quota", "401", "400"],
)
async def test_an_error_in_a_200_is_the_error_that_it_names(
    world: World, error: Any, meant: type[GatewayError]
) -> None:
    world.script(a=[ok(error)] * 3)

    assert type(await failing(world)) is meant
    assert all(settled == ("id-a", 0, True) for settled in world.limiter.settled), "the tokens are given back"
    assert {(each.cost_nanos, each.status) for each in world.journal.outcomes()} == {(0, 200)}


async def test_five_overloads_in_a_200_open_the_breaker(world: World) -> None:
    world.script(a=[ok({"code": 529, "message": "Overloaded"})] * 6)
    for _ in range(3):
        await failing(world)

    assert [event for event, _ in world.logged] == ["circuit breaker opened"]


async def test_five_429s_in_a_200_close_the_gate(world: World) -> None:
    world.script(a=[ok({"code": 429, "message": "slow"})] * 6)
    for _ in range(2):
        await failing(world)

    assert [event for event, _ in world.logged] == ["rate limit gate closed"]


async def test_an_answer_that_is_none_and_reports_no_error_keeps_its_reservation(world: World) -> None:
    world.script(a=[UpstreamResult(200, b'{"choices": []}')] * 3)

    assert type(await failing(world)) is ProviderFailed
    assert world.limiter.settled == [("id-a", 118, True)] * 3, "all that was reserved counts as used"


class TestTold:
    @pytest.mark.parametrize("status", [400, 413, 422])
    async def test_a_rejected_request_gets_the_providers_status_and_words(self, world: World, status: int) -> None:
        body = {"message": f"Bad {KEY}", "type": "invalid_request_error", "param": "n", "code": "invalid_value"}
        world.script(a=[UpstreamResult(status, msgspec.json.encode({"error": body}))])

        error = await failing(world, is_chat=True)

        assert isinstance(error, ProviderRefused)
        assert (error.status, error.detail, error.retryable, error.provider) == (status, "Bad [redacted]", False, "a")
        assert error.reported is not None
        assert (error.reported.code, error.reported.param) == ("invalid_value", "n")

    async def test_a_full_context_window_is_a_400_even_if_the_provider_says_500(self, world: World) -> None:
        body = {"message": "too long", "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 5}
        world.script(a=[UpstreamResult(500, msgspec.json.encode({"error": body}))])

        error = await failing(world, is_chat=True)

        assert (type(error), error.status, error.detail) == (ProviderRefused, 400, "too long")

    async def test_a_failure_keeps_its_502_with_the_providers_words(self, world: World) -> None:
        world.script(a=[refusal(503, "over capacity")] * 3)

        error = await failing(world, is_chat=True)

        assert (type(error), error.status, error.detail, error.retryable) == (
            ProviderFailed,
            502,
            "over capacity",
            True,
        )

    @pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>"])
    async def test_an_error_without_a_message_names_provider_and_status(self, world: World, body: bytes) -> None:
        world.script(a=[UpstreamResult(502, body)] * 3)

        error = await failing(world, is_chat=True)

        assert error.detail.startswith("Provider a: answered 502")
        assert error.provider == "a"

    async def test_a_missing_model_is_not_worth_a_retry(self, world: World) -> None:
        world.script(a=[refusal(404, "The model `m1` does not exist")])

        error = await failing(world, is_chat=True)

        assert (error.status, error.retryable, error.detail) == (502, False, "The model `m1` does not exist")

    async def test_a_refused_account_says_whose_it_is(self, world: World) -> None:
        world.script(a=[refusal(401, "Incorrect API key provided")])

        error = await failing(world, is_chat=True)

        assert (error.code, error.provider, error.retryable) == ("provider_account_refused", "a", False)
        assert error.detail == "Provider a: answered 401: Incorrect API key provided"

    async def test_generate_keeps_status_and_prefix(self, world: World) -> None:
        world.script(a=[refusal(400, "no")])

        error = await failing(world)

        assert (error.status, error.code, error.detail) == (502, "provider_error", "Provider a: answered 400: no")
        assert (error.reported, error.provider) == (None, "a")

    async def test_a_retry_helps_if_any_provider_failed_for_the_moment(self, world: World) -> None:
        world.script(a=[refusal(500)], b=[refusal(404)])
        asked = request()
        with pytest.raises(ProviderFailed) as raised:
            await world.failover.run(asked, plan([A], [B]), world.open(asked))

        assert raised.value.retryable


async def test_the_next_candidate_answers_after_an_error_in_a_200(world: World) -> None:
    world.script(a=[ok({"code": 503, "message": "down"})], b=[answer()])

    assert (await world.failover.run(request(), plan([A], [B]), world.open(request()))).provider == "b"
