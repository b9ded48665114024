"""Sampling after the end: what is always sent, the share of the rest, and the flag of the caller."""

from __future__ import annotations

import random

import pytest

from llm_gateway.control.otlp.sampling import REMEMBERED, Sampler, TopShare
from llm_gateway.control.otlp.spans import trace_id_of
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.domain.uuid7 import new_id
from tests.control.otlp.samples import PARENT, attempt, cached, cut_off, failed_over, record, refused


def reason(own: UsageRecord, ratio: float = 0.0) -> str | None:
    return Sampler(ratio).reason(own, trace_id_of(own))


@pytest.mark.parametrize(
    ("own", "found"),
    [
        (refused(), "error"),
        (cut_off(), "error"),
        (record(outcome="refused_budget", status=402, error_code="budget_exceeded"), "error"),
        (record(outcome="no_provider", status=503, error_code="providers_unavailable"), "error"),
        (record(attempt(), outcome="failed", status=502, error_code="provider_error"), "error"),
        (failed_over(), "failover"),
        (record(attempt(why="failover:limit")), "failover"),
        (record(attempt()), None),
        (cached(), None),
        (record(attempt(), outcome="cancelled", status=499, error_code="cancelled"), None),
    ],
)
def test_errors_and_failovers_are_always_sent(own: UsageRecord, found: str | None) -> None:
    assert reason(own) == found
    assert reason(own, 1.0) == (found or "ratio")


@pytest.mark.parametrize(("flags", "found"), [("01", "parent"), ("03", "parent"), ("00", None), ("02", None)])
def test_the_flag_of_the_caller_wins(flags: str, found: str | None) -> None:
    for own in (refused(), failed_over(), cached()):
        own.traceparent = PARENT + flags
        assert reason(own, 0.0) == reason(own, 1.0) == found


def test_a_share_of_the_rest_is_sent_by_trace_id() -> None:
    ids, hit = [new_id() for _ in range(3000)], cached()
    samplers = [Sampler(ratio) for ratio in (0.1, 0.5, 1.0)]
    chosen = [{own for own in ids if sampler.reason(hit, own.replace("-", ""))} for sampler in samplers]
    assert [round(len(each) / len(ids), 1) for each in chosen] == [0.1, 0.5, 1.0]
    assert chosen[0] < chosen[1] < chosen[2], "a larger ratio sends what a smaller one does"


def test_the_slowest_and_the_dearest_are_sent() -> None:
    generator = random.Random(1)
    sampler, own = Sampler(0.0), record(attempt())
    found: dict[str | None, list[int]] = {"slow": [], "dear": [], None: []}
    for _ in range(10_000):
        own.latency_ms, own.cost_nanos = (int(generator.lognormvariate(mean, 1)) for mean in (6, 12))
        found[sampler.reason(own, trace_id_of(own))].append(own.latency_ms)
    assert 50 < len(found["slow"]) < 120
    assert 50 < len(found["dear"]) < 120
    assert sorted(found["slow"])[len(found["slow"]) // 2] > sorted(found[None])[-250]


def test_of_equal_values_none_is_among_the_largest() -> None:
    is_top = TopShare()
    assert not any(is_top(value) for value in [700] * 1000 + [0] * 1000 + [-1])


def test_the_bound_follows_values_that_change() -> None:
    is_top = TopShare()
    for value in range(REMEMBERED):
        is_top(1_000_000 + value % 7)
    for _ in range(12 * REMEMBERED):
        is_top(10)
    assert [number for number in range(3000) if is_top(20 if number % 1000 == 999 else 10)] == [999, 1999, 2999]
    assert len(is_top._counts) < 10
