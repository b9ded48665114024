"""Failover: the order of candidates, the number of attempts, and the attempts' records."""

from __future__ import annotations

import time

import msgspec
import pytest

from llm_gateway.domain.trace_context import TraceContext, span_id
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.usage import Price, Usage
from llm_gateway.errors import ProviderFailed
from llm_gateway.worker.pipeline.timing import Timing
from tests.worker.pipeline.failing import failing_request
from tests.worker.pipeline.fakes import (
    BROKEN,
    NOT_SENT,
    PRICE,
    TIMEOUT,
    World,
    answer,
    plan,
    provider,
    refusal,
    request,
)

A, B, C, D = provider("a"), provider("b"), provider("c"), provider("d")
MALFORMED = UpstreamResult(200, b"<html>")
NEXT_CANDIDATE = [
    NOT_SENT,
    TIMEOUT,
    BROKEN,
    MALFORMED,
    *(refusal(status) for status in (301, 401, 403, 404, 408, 409, 429, 500, 502, 503, 504, 529)),
]


async def test_the_first_candidate_serves(world: World) -> None:
    world.script(a=[answer()], b=[])
    record = world.open(request())

    served = await world.failover.run(request(), plan([A], [B]), record)

    assert world.upstream.calls == [("a", "m1", 60.0)]
    assert (served.provider, served.model, served.cost_nanos) == ("a", "m1", 130_000)
    assert served.cache_part == b"id-a\0openai\0None\0m1"
    assert served.reply.content == "hello"
    assert served.reply.upstream_model == "m1-2026"


async def test_only_a_provider_with_trace_gets_the_clients_trace_context(world: World) -> None:
    trace = TraceContext(f"00-{'a' * 32}-{'b' * 16}-01", b"vendor=1")
    traced, other = provider("a", trace=True), provider("b")
    world.script(a=[TIMEOUT, answer()], b=[answer()])
    asked = request(trace=trace)
    record = world.open(asked)
    await world.failover.run(asked, plan([traced], [other]), record)
    without = request()
    await world.failover.run(without, plan([traced]), world.open(without))

    first, _ = record.attempts
    assert record.traceparent == trace.traceparent
    assert world.upstream.header_lines == [trace.header_lines(first.id), b"", b""]
    assert span_id(first.id).encode() in world.upstream.header_lines[0]


async def test_a_successful_attempt_is_recorded(world: World) -> None:
    world.script(a=[world.after(1.25, answer())])
    record = world.open(request())

    await world.failover.run(request(), plan([A]), record)

    [attempt] = record.attempts
    assert world.journal.kinds == ["intent"], "the settle that follows holds the outcome"
    assert (attempt.provider_id, attempt.provider, attempt.kind, attempt.model) == ("id-a", "a", "openai", "m1")
    assert (attempt.upstream_model, attempt.upstream_request_id) == ("m1-2026", "chatcmpl-1")
    assert (attempt.status, attempt.error, attempt.finish_reason, attempt.sent) == (200, None, "stop", True)
    assert attempt.usage == Usage(input_tokens=20, output_tokens=30)
    assert (attempt.price, attempt.cost_nanos, attempt.cost_status) == (PRICE, 130_000, "exact")
    assert (attempt.reserved_tokens, attempt.limit_tokens, attempt.latency_ms) == (118, 50, 1250)


async def test_the_intent_is_journalled_before_anything_is_sent(world: World) -> None:
    async def look(_: float) -> UpstreamResult:
        assert world.journal.kinds == ["intent"]
        return answer()

    world.script(a=[look])
    await world.failover.run(request(), plan([A]), world.open(request()))

    [intended] = world.journal.records("intent")
    [bound] = intended.attempts
    assert bound.usage == Usage(input_tokens=18, output_tokens=100)
    assert (bound.cost_nanos, bound.cost_status, bound.limit_tokens) == (336_000, "estimated", 118)


async def test_the_dialect_receives_the_request_and_the_candidates_model(world: World) -> None:
    world.script(a=[answer()])

    await world.failover.run(request(prompt="Say JSON", json_mode=False), plan([A]), world.open(request()))

    [body] = world.upstream.bodies
    assert msgspec.json.decode(body)["messages"][1] == {"role": "user", "content": "Say JSON"}


@pytest.mark.parametrize("failure", NEXT_CANDIDATE, ids=repr)
async def test_a_failure_tries_the_next_candidate(world: World, failure: UpstreamResult) -> None:
    world.script(a=[failure], b=[answer()])
    record = world.open(request())

    served = await world.failover.run(request(), plan([A], [B]), record)

    assert served.provider == "b"
    assert world.upstream.called == ["a", "b"]
    assert [attempt.status for attempt in record.attempts] == [failure.status or None, 200]
    assert [attempt.error is None for attempt in record.attempts] == [False, True]
    assert world.slept == []


NOT_JSON = answer("not json")


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (NOT_SENT, "failover:not_sent"),
        (TIMEOUT, "failover:timeout"),
        (BROKEN, "failover:broken"),
        (MALFORMED, "failover:malformed"),
        (NOT_JSON, "failover:not_json"),
        (refusal(429), "failover:429"),
        (refusal(503), "failover:503"),
    ],
    ids=repr,
)
async def test_an_attempt_is_recorded_with_why_it_was_made(world: World, failure: UpstreamResult, why: str) -> None:
    world.script(a=[failure], b=[answer("{}")])
    record = world.open(request())

    await world.failover.run(request(json_mode=True), plan([A], [B]), record)

    assert [attempt.why for attempt in record.attempts] == [None, why]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_status_that_blames_the_request_ends_it(world: World, status: int) -> None:
    world.script(a=[refusal(status, "max_tokens is too large")], b=[answer()])

    error, record = await failing_request(world, request(), plan([A], [B]))

    assert type(error) is ProviderFailed
    assert error.detail == f"Provider a: answered {status}: max_tokens is too large"
    assert error.retryable is False
    assert world.upstream.called == ["a"]
    assert record.attempts[0].error == error.detail


async def test_a_status_that_blames_the_request_ends_it_after_failures_too(world: World) -> None:
    world.script(a=[refusal(500)], b=[refusal(400, "bad")], c=[answer()])

    error, _ = await failing_request(world, request(), plan([A], [B], [C]))

    assert (error.detail, error.retryable) == ("Provider b: answered 400: bad", False)


@pytest.mark.parametrize("status", [200, 201, 299])
async def test_every_2xx_is_an_answer(world: World, status: int) -> None:
    world.script(a=[UpstreamResult(status, answer().body)])

    served = await world.failover.run(request(), plan([A]), world.open(request()))

    assert served.reply.content == "hello"


@pytest.mark.parametrize("status", [199, 300])
async def test_a_status_outside_2xx_is_not_an_answer(world: World, status: int) -> None:
    world.script(a=[UpstreamResult(status, answer().body)], b=[answer("b")])

    served = await world.failover.run(request(), plan([A], [B]), world.open(request()))

    assert served.provider == "b"


async def test_three_attempts_are_sent_at_most(world: World) -> None:
    world.script(a=[refusal(500)], b=[TIMEOUT], c=[BROKEN], d=[answer()])

    error, record = await failing_request(world, request(), plan([A], [B], [C, D]))

    assert type(error) is ProviderFailed
    assert error.detail == "Provider c: The connection broke: reset"
    assert error.retryable is True
    assert world.upstream.called == ["a", "b", "c"]
    assert [attempt.sent for attempt in record.attempts] == [True, True, True]


async def test_attempts_that_were_never_sent_do_not_count(world: World) -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    world.script(a=[NOT_SENT], b=[refusal(500)], c=[NOT_SENT], d=[refusal(500)], e=[NOT_SENT], f=[answer()])
    record = world.open(request())

    served = await world.failover.run(request(), plan(*([provider(name)] for name in names)), record)

    assert served.provider == "f"
    assert [attempt.sent for attempt in record.attempts] == [False, True, False, True, False, True]


async def test_all_of_a_tier_is_tried_in_order_before_the_next_tier(world: World) -> None:
    world.script(a=[refusal(500)], b=[refusal(500)], c=[answer()])

    served = await world.failover.run(request(), plan([B, A], [C]), world.open(request()))

    assert served.provider == "c"
    assert world.upstream.called == ["b", "a", "c"]


async def test_a_session_keeps_to_one_provider_of_a_tier_and_goes_on_at_another_when_it_fails(world: World) -> None:
    asked, equal = request(session="s"), plan([A, B, C])
    world.script(**{name: [answer(), answer(), refusal(500)] for name in "abc"})
    home, again, elsewhere = [(await world.failover.run(asked, equal, world.open(asked))).provider for _ in range(3)]
    assert home == again != elsewhere
    assert world.upstream.called == [home, home, home, elsewhere]


async def test_within_a_tier_the_fewest_calls_in_flight_come_first(world: World) -> None:
    for busy in ("id-a", "id-a", "id-b", "id-d"):
        world.availability.begin(busy)
    world.script(b=[refusal(500)], c=[refusal(500)], d=[answer()])

    await world.failover.run(request(), plan([A, B, C, D]), world.open(request()))

    assert world.upstream.called == ["c", "b", "d"]


async def test_busy_providers_of_a_higher_tier_still_come_first(world: World) -> None:
    for _ in range(9):
        world.availability.begin("id-a")
    world.script(a=[answer()])

    served = await world.failover.run(request(), plan([A], [B]), world.open(request()))

    assert served.provider == "a"


async def test_a_call_counts_as_in_flight_until_it_ends(world: World) -> None:
    seen: list[int] = []

    async def look(_: float) -> UpstreamResult:
        seen.append(world.availability.in_flight("id-a"))
        return answer()

    world.script(a=[look])
    await world.failover.run(request(), plan([A]), world.open(request()))

    assert (seen, world.availability.in_flight("id-a")) == ([1], 0)


class TestUsage:
    async def test_tokens_that_the_provider_did_not_count_are_estimated(self, world: World) -> None:
        world.script(a=[answer("four times five 20..", usage=None)])
        record = world.open(request())

        served = await world.failover.run(request(), plan([A]), record)

        [attempt] = record.attempts
        assert served.reply.usage == attempt.usage == Usage(input_tokens=18, output_tokens=6)
        assert (attempt.cost_nanos, attempt.cost_status, attempt.limit_tokens) == (54_000, "estimated", 24)
        assert served.cost_nanos == 54_000

    async def test_a_price_is_found_by_the_reported_name(self, world: World) -> None:
        world.reported["a", "m1-2026"] = Price(input=((0, 10**9),), output=((0, 10**9),))
        world.script(a=[answer()])
        record = world.open(request())

        await world.failover.run(request(), plan([provider("a", price_by_model={})]), record)

        assert (record.attempts[0].cost_nanos, record.attempts[0].cost_status) == (50_000, "exact")
        assert world.journal.records("intent")[0].attempts[0].cost_status == "unpriced"

    async def test_an_attempt_without_a_price_is_unpriced(self, world: World) -> None:
        world.script(a=[answer()])
        record = world.open(request())

        await world.failover.run(request(), plan([provider("a", price_by_model={})]), record)

        assert (record.attempts[0].cost_nanos, record.attempts[0].cost_status) == (0, "unpriced")


async def test_clock_sleep_and_random_numbers_are_real_by_default(world: World) -> None:
    world.script(a=[answer()])
    failover = world.unpaced()
    asked = request(deadline=time.monotonic() + 5)

    await failover.run(asked, plan([A]), world.open(asked))

    [(_, _, timeout_s)] = world.upstream.calls
    assert 4.9 < timeout_s <= 5
    assert 0.2 <= Timing().uniform(0.2, 2.0) <= 2.0
