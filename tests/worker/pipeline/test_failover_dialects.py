"""Failover with each vendor's dialect: meaning of its refusals, retry delays, and JSON mode."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.errors import GatewayError, ProviderFailed, RateLimited
from llm_gateway.worker.pipeline.availability import Wait
from tests.providers.documents import ANTHROPIC, ANTHROPIC_TOOL, GEMINI, GEMINI_BLOCKED
from tests.worker.pipeline.fakes import World, answer, plan, provider, request

CLAUDE = provider("claude", kind="anthropic", models=("claude-opus-5-5",))
GEM = provider("gem", kind="gemini", models=("gemini-2.5-flash",))
A, B = provider("a"), provider("b")


def said(status: int, document: Any, retry_after_s: float | None = None) -> UpstreamResult:
    return UpstreamResult(status, msgspec.json.encode(document), retry_after_s)


def google(code: int, status: str, *details: object) -> Any:
    return {"error": {"code": code, "message": f"It is {status}.", "status": status, "details": list(details)}}


INVALID_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37s"}
NO_CREDIT = {
    "type": "error",
    "error": {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."},
}
NO_JSON = {"error": {"message": "Failed to generate JSON.", "code": "json_validate_failed"}}
XAI_KEY = {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***x."}


async def test_every_dialect_answers_a_request(world: World) -> None:
    world.script(claude=[said(200, ANTHROPIC)], gem=[said(200, GEMINI)])
    record = world.open(request())
    claude = await world.failover.run(request(), plan([CLAUDE]), record)
    gem = await world.failover.run(request(), plan([GEM]), world.open(request()))

    assert (claude.reply.content, gem.reply.content) == ("Hi! My name is Claude.", "Hello! How can I help?")
    assert [model for _, model, _ in world.upstream.calls] == [
        "claude-opus-5-5",
        "/v1beta/models/gemini-2.5-flash:generateContent",
    ]
    # 2,000 nano-dollars per input token, 3,000 per output token; cached and reasoning tokens cost the same here.
    assert (claude.cost_nanos, gem.cost_nanos) == (6146 * 2000 + 503 * 3000, 730 * 2000 + 70 * 3000)
    assert [tokens for _, tokens, _ in world.limiter.settled] == [6146 + 503, 730 + 70]


async def test_the_input_of_anthropics_json_tool_is_the_content(world: World) -> None:
    world.script(claude=[said(200, ANTHROPIC_TOOL)])
    asked = request(json_mode=True)

    served = await world.failover.run(asked, plan([CLAUDE]), world.open(asked))

    assert served.reply.content == '{"capital":"Paris","of":["France"]}'


async def test_a_blocked_prompt_is_returned_without_trying_others(world: World) -> None:
    world.script(gem=[said(200, GEMINI_BLOCKED)])

    served = await world.failover.run(request(), plan([GEM], [A]), world.open(request()))

    assert (served.reply.content, served.reply.finish_reason) == ("", "content_filter")
    assert world.upstream.called == ["gem"], "no other provider is tried until one complies"


class TestRefusedKeys:
    @pytest.mark.parametrize(
        ("provider_name", "refusal"),
        [
            ("gem", said(400, google(400, "INVALID_ARGUMENT", INVALID_KEY))),
            ("claude", said(400, NO_CREDIT)),
            ("claude", said(402, {"type": "error", "error": {"type": "billing_error", "message": "x"}})),
            ("a", said(400, XAI_KEY)),
            ("a", said(402, {"error": {"message": "Insufficient Balance"}})),
        ],
        ids=["gemini key", "anthropic credit", "anthropic billing", "xai key", "deepseek balance"],
    )
    async def test_a_refused_account_fails_over_and_the_second_refusal_pauses_it(
        self, world: World, provider_name: str, refusal: UpstreamResult
    ) -> None:
        one = {"gem": GEM, "claude": CLAUDE, "a": A}[provider_name]
        world.script(**{provider_name: [refusal, refusal], "b": [answer(), answer()]})
        for prompt in ("first", "second"):
            assert world.wait(one) is None
            asked = request(id=prompt, prompt=prompt)
            record = world.open(asked)
            await world.failover.run(asked, plan([one], [B]), record)
            assert record.attempts[0].status == refusal.status, "as it was said"

        assert world.upstream.called == [provider_name, "b"] * 2
        assert world.wait(one) == Wait(15.0, limited=False)
        assert [(event, fields["provider"]) for event, fields in world.logged] == [
            ("provider account paused", provider_name)
        ]

    async def test_a_400_about_the_request_is_returned_to_the_client(self, world: World) -> None:
        world.script(gem=[said(400, google(400, "INVALID_ARGUMENT"))])

        with pytest.raises(ProviderFailed) as raised:
            await world.failover.run(request(), plan([GEM], [B]), world.open(request()))

        assert raised.value.detail == "Provider gem: answered 400: It is INVALID_ARGUMENT."
        assert not raised.value.retryable


class TestRetryInfo:
    async def test_one_429_with_a_retry_delay_does_not_close_the_gate(self, world: World) -> None:
        world.script(gem=[said(429, google(429, "RESOURCE_EXHAUSTED", RETRY))], b=[answer()])

        await world.failover.run(request(), plan([GEM], [B]), world.open(request()))

        assert world.wait(GEM) is None, "one alone is no evidence"

    async def test_the_gate_closes_for_the_retry_delay_in_the_body(self, world: World) -> None:
        limited = said(429, google(429, "RESOURCE_EXHAUSTED", RETRY))
        world.script(gem=[limited] * 5, b=[answer()] * 5)
        for _ in range(5):
            await world.failover.run(request(), plan([GEM], [B]), world.open(request()))

        assert world.wait(GEM) == Wait(37.0, limited=True, by_model=True)

    async def test_a_lone_candidates_retry_delay_is_returned_to_the_client(self, world: World) -> None:
        world.script(gem=[said(429, google(429, "RESOURCE_EXHAUSTED", RETRY))])

        with pytest.raises(GatewayError) as raised:
            await world.failover.run(request(), plan([GEM]), world.open(request()))

        assert (type(raised.value), raised.value.retry_after_s) == (RateLimited, 37.0)


class TestRetryOfALoneVendor:
    @pytest.mark.parametrize(("asked", "slept"), [(None, [1.0]), (0.3, [1.0]), (1.5, [1.5]), (2.0, [2.0])])
    async def test_a_retry_waits_for_the_retry_after(
        self, world: World, asked: float | None, slept: list[float]
    ) -> None:
        world.script(claude=[said(529, {"error": {"message": "Overloaded"}}, asked), said(200, ANTHROPIC)])

        await world.failover.run(request(), plan([CLAUDE]), world.open(request()))

        assert world.slept == slept

    async def test_a_retry_after_above_2_seconds_is_not_waited_for(self, world: World) -> None:
        world.script(claude=[said(529, {"error": {"message": "Overloaded"}}, 2.1)])

        with pytest.raises(ProviderFailed):
            await world.failover.run(request(), plan([CLAUDE]), world.open(request()))

        assert (world.slept, world.drawn) == ([], [])


class TestJsonMode:
    async def test_a_model_that_failed_to_write_json_fails_over_without_blame(self, world: World) -> None:
        world.script(a=[said(400, NO_JSON)], b=[answer("{}")])
        asked = request(json_mode=True)

        served = await world.failover.run(asked, plan([A], [B]), world.open(asked))

        assert (served.provider, world.wait(A), world.logged) == ("b", None, [])

    async def test_a_code_fence_is_removed_in_json_mode(self, world: World) -> None:
        world.script(a=[answer('```json\n{"a": 1}\n```')])
        asked = request(json_mode=True)

        served = await world.failover.run(asked, plan([A]), world.open(asked))

        assert served.reply.content == '{"a": 1}'

    async def test_a_code_fence_stays_without_json_mode(self, world: World) -> None:
        world.script(a=[answer("```json\n{}\n```")])

        served = await world.failover.run(request(), plan([A]), world.open(request()))

        assert served.reply.content == "```json\n{}\n```"

    @pytest.mark.parametrize("has_json_mode", [True, False])
    async def test_json_is_requested_in_the_prompt_and_in_response_format_if_supported(
        self, world: World, has_json_mode: bool
    ) -> None:
        world.script(a=[answer("{}")])
        asked = request(json_mode=True)

        await world.failover.run(asked, plan([provider("a", has_json_mode=has_json_mode)]), world.open(asked))

        body = msgspec.json.decode(world.upstream.bodies[0])
        assert ("response_format" in body) is has_json_mode
        assert "JSON" in body["messages"][0]["content"]


@pytest.mark.parametrize("status", [429, 500, 503, 529])
@pytest.mark.parametrize("one", [CLAUDE, GEM], ids=["anthropic", "gemini"])
async def test_an_overloaded_provider_fails_over(world: World, one: Any, status: int) -> None:
    world.script(**{one.name: [said(status, {"error": {"message": "Overloaded"}})], "b": [answer()]})

    assert (await world.failover.run(request(), plan([one], [B]), world.open(request()))).provider == "b"
