"""Circuit breaker, closed: rows of failures and failure rates that open it."""

from __future__ import annotations

import random as chance
import time

import pytest

from llm_gateway.worker.pipeline.availability import ProviderAvailability
from llm_gateway.worker.pipeline.availability.circuit_breaker import CircuitBreaker
from tests.worker.pipeline.breaking import Clock, admitted, calls, opened, state


def test_a_new_breaker_is_closed(breaker: CircuitBreaker) -> None:
    assert state(breaker) == "closed"
    assert breaker.retry_after_s() == 0.0
    assert breaker.admit()


def test_clock_and_random_numbers_are_real_by_default() -> None:
    breaker = CircuitBreaker()
    opened(breaker)
    assert 23.0 < breaker.retry_after_s() <= 36.0
    assert isinstance(ProviderAvailability(log=lambda *_, **__: None).breaker("p", "m"), CircuitBreaker)
    assert (time.monotonic, chance.random) == (breaker._clock, breaker._random)


def test_it_opens_on_the_fifth_failure_in_a_row(breaker: CircuitBreaker) -> None:
    calls(breaker, "xxxx")
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"
    assert breaker.admit() is None


def test_of_many_calls_it_opens_on_the_tenth_failure_in_a_row(breaker: CircuitBreaker, clock: Clock) -> None:
    calls(breaker, "." * 20 + "x" * 9)
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"


def test_calls_count_as_many_only_for_ten_seconds(breaker: CircuitBreaker, clock: Clock) -> None:
    calls(breaker, "." * 30)
    clock.now += 11
    calls(breaker, "xxxx")
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"


def test_a_success_ends_a_row_of_failures(breaker: CircuitBreaker) -> None:
    calls(breaker, "xxxx.xxxx")
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"


def test_a_released_call_neither_ends_a_row_nor_counts_as_failure(breaker: CircuitBreaker) -> None:
    calls(breaker, "xxxx" + "-" * 30)
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"


def test_a_row_of_failures_has_no_time_limit(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(4):
        calls(breaker, "x")
        clock.now += 3600
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"


def test_the_failure_rate_needs_20_calls(breaker: CircuitBreaker) -> None:
    calls(breaker, "xxx." * 4 + "xxx")
    assert state(breaker) == "closed"
    calls(breaker, ".")
    assert state(breaker) == "open"


def test_the_failure_rate_opens_it_at_half_of_the_calls(breaker: CircuitBreaker) -> None:
    calls(breaker, "." * 20 + "x." * 19)
    assert state(breaker) == "closed"
    for _ in range(18):
        calls(breaker, "xx.")
    calls(breaker, "x")
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"


def test_it_stays_closed_at_nine_failures_in_twenty(breaker: CircuitBreaker) -> None:
    calls(breaker, ".." + "x." * 9)
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"


def test_the_failure_rate_is_judged_after_a_success_too(breaker: CircuitBreaker) -> None:
    calls(breaker, "x." * 9 + "x")
    assert state(breaker) == "closed"
    calls(breaker, ".")
    assert state(breaker) == "open"


def test_the_failure_rate_forgets_calls_after_10_seconds(breaker: CircuitBreaker, clock: Clock) -> None:
    clock.now = 1000.9
    calls(breaker, "x." * 9)
    clock.now = 1009.999
    calls(breaker, ".")
    assert state(breaker) == "closed"
    clock.now = 1010.0
    calls(breaker, "x.x")
    assert state(breaker) == "closed"
    clock.now = 1019.9
    calls(breaker, ".x" * 7 + ".x")
    assert state(breaker) == "closed"
    calls(breaker, ".")
    assert state(breaker) == "open"


def test_the_failure_rate_counts_calls_of_9_seconds_ago(breaker: CircuitBreaker, clock: Clock) -> None:
    calls(breaker, "x." * 9)
    clock.now = 1009.999
    calls(breaker, "x.")
    assert state(breaker) == "open"


@pytest.mark.parametrize("gap", [10, 11, 19, 20, 21, 1000])
def test_the_failure_rate_forgets_everything_in_a_long_silence(breaker: CircuitBreaker, clock: Clock, gap: int) -> None:
    for second in range(10):
        clock.now = 1000.0 + second
        calls(breaker, "x" if second % 2 else ".")
    clock.now = 1009.0 + gap
    calls(breaker, ".x" * 9 + ".")
    assert state(breaker) == "closed"


def test_late_failures_of_concurrent_calls_open_it_once(breaker: CircuitBreaker, clock: Clock) -> None:
    permits = [admitted(breaker) for _ in range(12)]
    for permit in permits[:5]:
        breaker.fail(permit)
    assert breaker.retry_after_s() == 30.0
    clock.now += 20
    for permit in permits[5:11]:
        breaker.fail(permit)
    assert breaker.retry_after_s() == 10.0
    breaker.succeed(permits[11])
    assert state(breaker) == "open"
    clock.now += 10
    breaker.fail(admitted(breaker))
    assert breaker.retry_after_s() == 60.0
