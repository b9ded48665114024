"""Contract of a limiter: granted and refused requests, and the Retry-After of a refusal."""

from __future__ import annotations

import pytest

from llm_gateway.limiter.base import Decision, Limiter
from llm_gateway.limiter.memory import MOST_WINDOWS, MemoryLimiter
from tests.limiter.taking import Clock, free, place, take, taken


def test_it_grants_up_to_rpm_requests(limiter: Limiter) -> None:
    assert [take(limiter, 3).reservation is not None for _ in range(5)] == [True, True, True, False, False]


def test_it_grants_up_to_tpm_tokens(limiter: Limiter) -> None:
    assert place(take(limiter, 9, tpm=100, tokens=60)) == (1000, 60)
    assert take(limiter, 9, tpm=100, tokens=41).reservation is None
    assert place(take(limiter, 9, tpm=100, tokens=40)) == (1000, 40)
    assert take(limiter, 9, tpm=100, tokens=1).reservation is None
    assert take(limiter, 9, tpm=100, tokens=0).reservation is not None


def test_a_refused_request_reserves_no_tokens(limiter: Limiter) -> None:
    taken(limiter, 3, tpm=100, tokens=90)
    for _ in range(5):
        assert take(limiter, 3, tpm=100, tokens=20).reservation is None
    taken(limiter, 3, tpm=100, tokens=5)
    taken(limiter, 3, tpm=100, tokens=5)
    for _ in range(5):
        assert take(limiter, 3, tpm=1000, tokens=20).reservation is None
    taken(limiter, 4, tpm=120, tokens=20)


def test_a_request_larger_than_the_whole_limit_exceeds_it(limiter: Limiter) -> None:
    assert take(limiter, 1, tpm=100, tokens=101) == Decision(None, 0.0, exceeds=True)
    assert take(limiter, 0, tpm=100, tokens=1) == Decision(None, 0.0, exceeds=True)
    decision = take(limiter, 1, tpm=100, tokens=100)
    assert place(decision) == (1000, 100)
    assert decision.exceeds is False
    refused = take(limiter, 1, tpm=100, tokens=100)
    assert refused.reservation is None
    assert refused.exceeds is False
    assert take(limiter, 1, tpm=100, tokens=101).exceeds is True


def test_negative_tokens_reserve_a_request_and_no_tokens(limiter: Limiter) -> None:
    assert place(take(limiter, 2, tpm=10, tokens=-5)) == (1000, 0)
    assert take(limiter, 2, tpm=10, tokens=11).exceeds is True
    taken(limiter, 2, tpm=10, tokens=10)
    assert take(limiter, 2, tpm=10).reservation is None


@pytest.mark.parametrize("at", [1000.0, 1000.5, 1000.999])
def test_a_second_leaves_the_window_after_61_seconds(limiter: Limiter, clock: Clock, at: float) -> None:
    clock.now = at
    taken(limiter, 1, tpm=10, tokens=10)
    clock.now = 1060.999
    assert take(limiter, 1, tpm=10, tokens=10).reservation is None
    assert take(limiter, 2, tpm=10, tokens=1).reservation is None
    clock.now = 1061.0
    assert place(take(limiter, 1, tpm=10, tokens=10)) == (1061, 10)


@pytest.mark.parametrize("gap", [61, 62, 121, 122, 123, 10_000])
def test_a_long_silence_empties_the_window(limiter: Limiter, clock: Clock, gap: int) -> None:
    for second in range(61):
        clock.now = 1000.0 + second
        taken(limiter, 61, tpm=61, tokens=1)
    assert take(limiter, 61, tpm=61, tokens=1).reservation is None
    clock.now = 1060.0 + gap
    for _ in range(61):
        taken(limiter, 61, tpm=61, tokens=1)
    assert take(limiter, 61, tpm=62, tokens=1).reservation is None
    assert take(limiter, 62, tpm=61, tokens=1).reservation is None


def test_buckets_leave_the_window_one_by_one(limiter: Limiter, clock: Clock) -> None:
    for second, tokens in [(1000, 1), (1001, 2), (1002, 4)]:
        clock.now = second
        taken(limiter, 10, tpm=7, tokens=tokens)
    clock.now = 1060.9
    assert free(limiter, 7) == 0
    clock.now = 1061.9
    assert free(limiter, 7) == 1
    clock.now = 1062.9
    assert free(limiter, 7) == 3
    clock.now = 1063.0
    assert free(limiter, 7) == 7


def test_retry_after_waits_for_the_bucket_that_makes_room(limiter: Limiter, clock: Clock) -> None:
    for second, tokens in [(1000.5, 10), (1003.25, 20), (1010.0, 30)]:
        clock.now = second
        taken(limiter, 3, tpm=60, tokens=tokens)
    clock.now = 1020.25
    assert take(limiter, 3, tpm=60, tokens=0) == Decision(None, 40.75)
    assert take(limiter, 4, tpm=60, tokens=10) == Decision(None, 40.75)
    assert take(limiter, 4, tpm=60, tokens=11) == Decision(None, 43.75)
    assert take(limiter, 4, tpm=60, tokens=30) == Decision(None, 43.75)
    assert take(limiter, 4, tpm=60, tokens=31) == Decision(None, 50.75)
    assert take(limiter, 4, tpm=60, tokens=60) == Decision(None, 50.75)
    assert take(limiter, 2, tpm=60, tokens=0) == Decision(None, 43.75)
    assert take(limiter, 1, tpm=60, tokens=0) == Decision(None, 50.75)
    assert take(limiter, 2, tpm=60, tokens=10) == Decision(None, 43.75)
    assert take(limiter, 3, tpm=60, tokens=30) == Decision(None, 43.75)


def test_retry_after_lasts_until_the_current_second_leaves_the_window(limiter: Limiter, clock: Clock) -> None:
    clock.now = 1000.75
    taken(limiter, 1)
    assert take(limiter, 1) == Decision(None, 60.25)
    clock.now = 1060.75
    assert take(limiter, 1) == Decision(None, 0.25)


def test_each_call_is_checked_against_its_own_limits(limiter: Limiter) -> None:
    taken(limiter, 2, tpm=50, tokens=50)
    assert take(limiter, 1, tpm=100, tokens=10).reservation is None
    taken(limiter, 2, tpm=100, tokens=50)
    assert take(limiter, 2, tpm=200, tokens=1).reservation is None
    taken(limiter, 3, tpm=101, tokens=1)
    assert take(limiter, 1, tpm=1, tokens=1) == Decision(None, 61.0)


def test_each_provider_has_its_own_window(limiter: Limiter) -> None:
    taken(limiter, 1, provider="a")
    taken(limiter, 1, provider="b")
    assert take(limiter, 1, provider="a").reservation is None
    limiter.forget("a")
    taken(limiter, 1, provider="a")
    assert take(limiter, 1, provider="b").reservation is None


def test_windows_of_service_keys_that_are_idle_are_dropped() -> None:
    clock = Clock()
    limiter = MemoryLimiter(clock)
    held = taken(limiter, 2, provider="busy")
    for hour in range(4):
        clock.now += 3600
        for number in range(700):
            taken(limiter, 1, provider=f"key {hour} {number}")
        held = taken(limiter, 2, tokens=5, provider="busy")
    assert len(limiter._windows) <= MOST_WINDOWS + 700
    limiter.settle(held, tokens=0)
    assert take(limiter, 2, provider="busy").reservation is not None
    assert take(limiter, 2, provider="busy").reservation is None
