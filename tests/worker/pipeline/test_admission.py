"""Admission to rate limits: tokens reserved per request, and tokens released by each kind of end."""

from __future__ import annotations

import pytest

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.usage import SentAttempt
from llm_gateway.limiter.base import Decision, Reservation
from llm_gateway.worker.pipeline.admission import Admission
from tests.worker.pipeline.fakes import Clock, LimiterSpy, provider, request

ONE = Candidate.of(provider("one", rate_limit_rpm=3, rate_limit_tpm=300), "m1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> LimiterSpy:
    return LimiterSpy(clock)


@pytest.fixture
def admission(limiter: LimiterSpy) -> Admission:
    return Admission(limiter)


async def granted(admission: Admission, **changes: object) -> Reservation:
    decision = await admission.admit(request(**changes), ONE)
    assert decision.reservation is not None
    return decision.reservation


async def test_it_reserves_the_estimated_input_and_max_tokens(admission: Admission) -> None:
    reservation = await granted(admission)
    assert (reservation.provider_id, reservation.bucket, reservation.tokens, reservation.model) == (
        "id-one", 1000, 118, "m1",
    )  # fmt: skip
    assert (await granted(admission, prompt="", system="", max_tokens=7)).tokens == 15


async def test_it_enforces_both_limits(admission: Admission) -> None:
    for _ in range(2):
        admission.unknown(await granted(admission))
    assert await admission.admit(request(), ONE) == Decision(None, 61.0)
    admission.unknown(await granted(admission, max_tokens=46))
    assert await admission.admit(request(max_tokens=1, prompt="", system=""), ONE) == Decision(None, 61.0)


async def test_a_request_larger_than_the_limit_never_fits(admission: Admission) -> None:
    assert await admission.admit(request(max_tokens=283), ONE) == Decision(exceeds=True)
    assert (await granted(admission, max_tokens=282)).tokens == 300


async def test_a_call_that_was_never_sent_releases_its_reservation(admission: Admission, limiter: LimiterSpy) -> None:
    assert admission.never_sent(await granted(admission)) == 0
    assert limiter.settled == [("id-one", 0, False)]
    for _ in range(3):
        await granted(admission, max_tokens=1)


@pytest.mark.parametrize("tokens", [0, 50, 118, 200])
async def test_a_settled_call_counts_the_tokens_it_used(admission: Admission, limiter: LimiterSpy, tokens: int) -> None:
    assert admission.used(await granted(admission), tokens) == tokens
    assert limiter.settled == [("id-one", tokens, True)]


async def test_a_call_of_unknown_usage_keeps_its_reservation(admission: Admission, limiter: LimiterSpy) -> None:
    assert admission.unknown(await granted(admission)) == 118
    assert limiter.settled == [("id-one", 118, True)]


async def test_an_earlier_runs_attempts_are_counted_with_their_age(admission: Admission, clock: Clock) -> None:
    now_ms = 10_000_000
    admission.refill([SentAttempt("id-one", now_ms - 20_000, 250), SentAttempt("id-two", now_ms, 300)], now_ms)

    assert await admission.admit(request(), ONE) == Decision(None, 42.0)
    clock.now += 42
    assert (await granted(admission)).tokens == 118


async def test_an_attempt_from_the_future_counts_as_now(admission: Admission) -> None:
    admission.refill([SentAttempt("id-one", 5_000, 250)], 1_000)

    assert await admission.admit(request(), ONE) == Decision(None, 61.0)


async def test_a_refill_without_attempts_reserves_nothing(admission: Admission) -> None:
    admission.refill([], 0)

    assert (await granted(admission)).tokens == 118
