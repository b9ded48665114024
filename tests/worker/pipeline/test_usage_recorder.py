"""Usage records: their fields, the order in which they are written, sums over attempts, and one settle per request."""

from __future__ import annotations

import time
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.reply import Answer
from llm_gateway.domain.usage import RECORD_VERSION, AttemptRecord, CostStatus, Outcome, Price, Usage, UsageRecord
from llm_gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    InternalError,
    JournalUnavailable,
    NoProvider,
    Overloaded,
    ProviderFailed,
    ProvidersUnavailable,
    RateLimited,
    RequestExceedsLimit,
)
from llm_gateway.worker.pipeline.usage_recorder import UsageRecorder
from tests.worker.pipeline.fakes import NOW, PRICE, JournalSpy, World, provider, reply, request, served

ONE = Candidate.of(provider("one"), "m1")
UNPRICED = Candidate.of(provider("one", price_by_model={}), "m1")


def attempt(record: UsageRecord, **changes: Any) -> AttemptRecord:
    fields = {
        "id": f"attempt-{len(record.attempts)}",
        "provider_id": "id-one",
        "provider": "one",
        "kind": "openai",
        "model": "m1",
        "started_ms": 1,
        **changes,
    }
    made = AttemptRecord(**fields)
    record.attempts.append(made)
    return made


async def test_a_new_record_holds_the_requests_labels(world: World) -> None:
    asked = request(
        id="request-1",
        at_ms=123,
        key_name="main",
        surface="openai",
        user_id="u",
        service="s",
        task_type="t",
        client_request_id="theirs",
        session="session-1",
        agent="codex",
        tags={"a": "b"},
    )

    record = world.open(asked)

    assert record == UsageRecord(
        id="request-1",
        version=RECORD_VERSION,
        at_ms=123,
        instance="instance",
        key_name="main",
        surface="openai",
        user_id="u",
        service="s",
        task_type="t",
        client_request_id="theirs",
        session="session-1",
        agent="codex",
        tags={"a": "b"},
        outcome="cancelled",
        cache="miss",
    )
    assert (world.journal.entries, world.observed) == ([], [])


class TestAttempts:
    async def test_an_intent_holds_the_upper_bound_of_the_cost(self, world: World) -> None:
        record = world.open(request())
        before = time.time_ns() // 1_000_000
        made = await world.begin(record, request(), ONE, 118)

        assert record.attempts == [made]
        assert (made.provider_id, made.provider, made.kind, made.model) == ("id-one", "one", "openai", "m1")
        assert (made.reserved_tokens, made.limit_tokens, made.sent) == (118, 118, True)
        assert made.usage == Usage(input_tokens=18, output_tokens=100)
        assert (made.price, made.cost_nanos, made.cost_status) == (PRICE, 336_000, "estimated")
        assert before <= made.started_ms <= before + 1000
        assert len(made.id) == 36
        [(kind, request_id, _)] = world.journal.entries
        assert (kind, request_id) == ("intent", "request")
        assert world.journal.records("intent") == [record]

    async def test_an_intent_without_a_price_is_unpriced(self, world: World) -> None:
        made = await world.begin(world.open(request()), request(), UNPRICED, 118)

        assert (made.price, made.cost_nanos, made.cost_status) == (None, 0, "unpriced")
        assert made.usage_estimated is True

    async def test_a_later_intent_holds_only_its_own_attempt(self, world: World) -> None:
        record = world.open(request())
        first = await world.begin(record, request(), ONE, 1)
        second = await world.begin(record, request(), ONE, 2)

        assert record.attempts == [first, second]
        assert first.id != second.id
        assert [intended.attempts for intended in world.journal.records("intent")] == [[first], [second]]

    async def test_an_intent_that_cannot_be_written_adds_no_attempt(self, world: World) -> None:
        record = world.open(request())
        first = await world.begin(record, request(), ONE, 1)
        world.journal.fails["intent"] = JournalUnavailable("disk full")
        with pytest.raises(JournalUnavailable):
            await world.begin(record, request(), ONE, 2)

        assert record.attempts == [first]

    def test_a_successful_attempt_writes_no_outcome_entry(self, world: World) -> None:
        record = world.open(request())
        world.recorder.write_outcome(record, attempt(record, status=200))

        assert world.journal.entries == []

    def test_a_failed_attempts_outcome_entry_is_the_whole_attempt(self, world: World) -> None:
        record = world.open(request())
        made = attempt(record, error="why", status=500, latency_ms=7, finish_reason="stop", upstream_model="m")
        world.recorder.write_outcome(record, made)

        assert world.journal.outcomes() == [made]
        assert world.journal.entries[0][1] == "request"

    async def test_usage_and_cost_of_an_answered_attempt_are_recorded(self, world: World) -> None:
        made = await world.begin(world.open(request()), request(), ONE, 118)
        world.recorder.set_cost(ONE.provider, made, reply(upstream_model="m1-2026"))

        assert made.usage == Usage(input_tokens=20, output_tokens=30)
        assert (made.cost_nanos, made.cost_status, made.usage_estimated) == (130_000, "exact", False)

    async def test_estimated_usage_makes_the_cost_an_estimate(self, world: World) -> None:
        made = await world.begin(world.open(request()), request(), ONE, 118)
        world.recorder.set_cost(ONE.provider, made, reply(usage_estimated=True))

        assert (made.cost_nanos, made.cost_status, made.usage_estimated) == (130_000, "estimated", True)

    async def test_the_price_of_the_configured_model_is_preferred(self, world: World) -> None:
        world.reported["one", "m1-2026"] = Price(input=((0, 1),), output=((0, 1),))
        made = await world.begin(world.open(request()), request(), ONE, 118)
        world.recorder.set_cost(ONE.provider, made, reply(upstream_model="m1-2026"))

        assert made.price == PRICE

    @pytest.mark.parametrize("reported", [None, "m1-2026"])
    async def test_the_price_of_the_reported_model_is_used_without_a_configured_one(
        self, world: World, reported: str | None
    ) -> None:
        cheap = Price(input=((0, 1_000_000),), output=((0, 0),))
        world.reported["one", "m1-2026"] = cheap
        made = await world.begin(world.open(request()), request(), UNPRICED, 118)
        world.recorder.set_cost(ONE.provider, made, reply(upstream_model=reported))

        if reported is None:
            assert (made.price, made.cost_nanos, made.cost_status) == (None, 0, "unpriced")
        else:
            assert (made.price, made.cost_nanos, made.cost_status) == (cheap, 20, "exact")

    async def test_a_free_attempt_costs_exactly_nothing(self, world: World) -> None:
        made = await world.begin(world.open(request()), request(), UNPRICED, 118)
        world.recorder.set_free(made)

        assert (made.usage, made.cost_nanos, made.cost_status) == (Usage(), 0, "exact")
        assert made.usage_estimated is False


class TestSettle:
    async def test_settling_returns_the_answer_with_its_cost(self, world: World) -> None:
        record = world.open(request())
        attempt(record, usage=Usage(input_tokens=20, output_tokens=30), cost_nanos=130_000)

        answer = await world.recorder.settle_success(record, NOW, served("hello", ONE), b"model")

        assert answer == Answer(
            reply=served("hello", ONE).reply,
            provider="one",
            model="m1",
            cost_nanos=130_000,
            cost_status="exact",
            cached=False,
            route=b"model",
        )
        assert (record.outcome, record.status, record.error_code) == ("ok", 200, None)
        assert (record.provider, record.model, record.cache) == ("one", "m1", "miss")
        assert (record.usage, record.cost_nanos) == (Usage(input_tokens=20, output_tokens=30), 130_000)
        assert world.journal.records() == world.observed == [record]
        assert (world.journal.kinds, world.journal.synced) == (["settle"], 1)

    async def test_the_settle_entry_is_written_before_durability_is_awaited(self) -> None:
        class Order(JournalSpy):
            async def durable(self) -> None:
                assert self.kinds == ["settle"]

        recorder = UsageRecorder(Order(), instance="i", list_price=lambda *_: None, observe=lambda _: None)

        await recorder.settle_success(recorder.start(request()), NOW, served(), b"priority")

    async def test_the_answers_usage_is_its_own_and_its_cost_that_of_all_attempts(self, world: World) -> None:
        record = world.open(request())
        attempt(record, usage=Usage(input_tokens=5, output_tokens=7, reasoning_tokens=1), cost_nanos=11)
        attempt(record, usage=Usage(input_tokens=20, output_tokens=30), cost_nanos=130_000, cost_status="estimated")

        answer = await world.recorder.settle_success(record, NOW, served("hello", ONE), b"priority")

        assert (answer.reply.usage.input_tokens, answer.reply.usage.output_tokens) == (20, 30)
        assert (answer.cost_nanos, answer.cost_status) == (130_011, "estimated")
        assert record.usage == Usage(input_tokens=25, output_tokens=37, reasoning_tokens=1)

    @pytest.mark.parametrize("arrived_ms", [0, 2**42], ids=["clock set forward", "clock set back"])
    async def test_latency_is_measured_by_a_clock_that_nobody_sets(self, world: World, arrived_ms: int) -> None:
        asked = request(at_ms=arrived_ms)
        record = world.open(asked)
        world.clock.now += 0.25
        world.recorder.note_first_token(record, asked.started)
        world.clock.now += 1.25
        await world.recorder.settle_success(record, asked.started, served(), b"priority")

        assert (record.at_ms, record.first_token_ms, record.latency_ms) == (arrived_ms, 250, 1500)

    @pytest.mark.parametrize("order", list(permutations(["exact", "estimated", "unpriced"])), ids=str)
    async def test_the_requests_cost_status_is_the_worst_of_its_attempts(
        self, world: World, order: tuple[CostStatus, ...]
    ) -> None:
        for count, worst in ((3, "unpriced"), (2, "unpriced" if "unpriced" in order[:2] else "estimated")):
            record = world.open(request())
            for status in order[:count]:
                attempt(record, cost_status=status)
            await world.recorder.settle_success(record, NOW, served(), b"priority")

            assert record.cost_status == worst

    @pytest.mark.parametrize("status", ["exact", "estimated", "unpriced"])
    async def test_the_cost_status_of_a_single_attempt_is_the_requests(self, world: World, status: CostStatus) -> None:
        record = world.open(request())
        attempt(record, cost_status=status)

        assert (await world.recorder.settle_success(record, NOW, served(), b"priority")).cost_status == status


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**50)), max_size=5))
def test_a_records_sums_equal_those_of_its_attempts(attempts: list[tuple[int, int, int]]) -> None:
    world = World()
    record = world.open(request())
    for into, out, nanos in attempts:
        attempt(record, usage=Usage(input_tokens=into, output_tokens=out), cost_nanos=nanos)
    world.recorder.settle_cancelled(record, NOW)

    assert record.usage.input_tokens == sum(into for into, _, _ in attempts)
    assert record.usage.output_tokens == sum(out for _, out, _ in attempts)
    assert record.cost_nanos == sum(nanos for _, _, nanos in attempts)


class TestHit:
    def test_a_hit_saves_what_it_would_have_cost(self, world: World) -> None:
        record = world.open(request())

        answer = world.recorder.settle_hit(record, NOW, served("hello", ONE, cost_nanos=99), b"override")

        assert answer == Answer(
            reply=served("hello", ONE).reply,
            provider="one",
            model="m1",
            cost_nanos=0,
            cost_status="exact",
            cached=True,
            route=b"override",
        )
        assert (record.outcome, record.cache, record.status) == ("cached", "hit", 200)
        assert (record.provider, record.model) == ("one", "m1")
        assert (record.saved_input_tokens, record.saved_output_tokens, record.saved_cost_nanos) == (20, 30, 99)
        assert (record.usage, record.cost_nanos, record.cost_status) == (Usage(), 0, "exact")

    def test_a_hit_is_settled_without_waiting_for_durability(self, world: World) -> None:
        record = world.open(request())
        world.recorder.settle_hit(record, NOW, served(), b"priority")

        assert world.journal.records() == world.observed == [record]
        assert world.journal.synced == 0


OUTCOMES: list[tuple[GatewayError, Outcome, int, str]] = [
    (RateLimited("x"), "rate_limited", 429, "rate_limited"),
    (RequestExceedsLimit("x"), "rate_limited", 429, "request_exceeds_limit"),
    (ProviderFailed("x"), "failed", 502, "provider_error"),
    (NoProvider("x"), "no_provider", 503, "no_provider"),
    (ProvidersUnavailable("x"), "failed", 503, "providers_unavailable"),
    (Overloaded("x"), "failed", 503, "overloaded"),
    (JournalUnavailable("x"), "failed", 503, "journal_unavailable"),
    (DeadlineExceeded("x"), "failed", 504, "deadline_exceeded"),
    (InternalError("x"), "failed", 500, "internal_error"),
]


class TestRefuse:
    @pytest.mark.parametrize(("error", "outcome", "status", "code"), OUTCOMES, ids=repr)
    async def test_every_error_has_its_outcome(
        self, world: World, error: GatewayError, outcome: Outcome, status: int, code: str
    ) -> None:
        record = world.open(request())
        await world.recorder.settle_error(record, NOW, error)

        assert (record.outcome, record.status, record.error_code) == (outcome, status, code)
        assert (record.provider, record.model) == (None, None)
        assert world.journal.records() == world.observed == [record]
        assert world.journal.synced == 0, "nothing can have been billed"

    async def test_an_error_after_attempts_names_the_last_provider_and_is_durable(self, world: World) -> None:
        record = world.open(request())
        attempt(record, provider="one", model="m1", cost_nanos=5)
        attempt(record, provider="two", model="m2", cost_nanos=6)
        await world.recorder.settle_error(record, NOW, ProviderFailed("x"))

        assert (record.provider, record.model, record.cost_nanos) == ("two", "m2", 11)
        assert world.journal.synced == 1

    async def test_a_settled_record_is_not_settled_again(self, world: World) -> None:
        record = world.open(request())
        attempt(record, cost_nanos=5)
        attempt(record, cost_nanos=6)
        world.journal.fails["durable"] = JournalUnavailable("disk full")
        with pytest.raises(JournalUnavailable) as raised:
            await world.recorder.settle_success(record, NOW, served("hello", ONE), b"priority")
        await world.recorder.settle_error(record, NOW, raised.value)
        world.recorder.settle_cancelled(record, NOW)

        assert (record.outcome, record.status, record.error_code, record.cost_nanos) == ("ok", 200, None, 11)
        assert (world.journal.kinds, len(world.observed)) == (["settle"], 1)


class TestCancel:
    def test_a_request_cancelled_before_any_attempt_costs_nothing(self, world: World) -> None:
        record = world.open(request())
        world.recorder.settle_cancelled(record, NOW)

        assert (record.outcome, record.status, record.error_code) == ("cancelled", 499, "cancelled")
        assert (record.provider, record.cost_nanos) == (None, 0)
        assert world.journal.records() == world.observed == [record]

    async def test_a_request_cancelled_during_an_attempt_has_an_estimated_cost(self, world: World) -> None:
        record = world.open(request())
        await world.begin(record, request(), ONE, 118)
        world.recorder.settle_cancelled(record, NOW)

        assert (record.provider, record.model) == ("one", "m1")
        assert (record.cost_nanos, record.cost_status) == (336_000, "estimated")
