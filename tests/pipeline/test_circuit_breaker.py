"""Breakers: when they open, whom they let through, what closes them. Health: rests, calls in flight, retries."""

from __future__ import annotations

import random as chance
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_gateway.pipeline.circuit_breaker import CircuitBreaker, Health


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Chance:
    """0.5 is no jitter at all."""

    def __init__(self) -> None:
        self.value = 0.5

    def __call__(self) -> float:
        return self.value


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def luck() -> Chance:
    return Chance()


@pytest.fixture
def breaker(clock: Clock, luck: Chance) -> CircuitBreaker:
    return CircuitBreaker(clock, luck)


@pytest.fixture
def health(clock: Clock, luck: Chance) -> Health:
    return Health(clock, luck)


def state(breaker: CircuitBreaker) -> str:
    return breaker.state


def admitted(breaker: CircuitBreaker) -> int:
    permit = breaker.admit()
    assert permit is not None
    return permit


def calls(breaker: CircuitBreaker, ends: str) -> None:
    """One call after the other: `.` succeeds, `x` fails, `-` tells nothing."""
    for end in ends:
        permit = admitted(breaker)
        {".": breaker.succeed, "x": breaker.fail, "-": breaker.release}[end](permit)


def opened(breaker: CircuitBreaker) -> CircuitBreaker:
    calls(breaker, "xxxxx")
    assert state(breaker) == "open"
    return breaker


def test_starts_closed(breaker: CircuitBreaker) -> None:
    assert state(breaker) == "closed"
    assert breaker.retry_after_s() == 0.0
    assert breaker.admit()


def test_uses_the_real_clock_and_chance_by_default() -> None:
    breaker = CircuitBreaker()
    opened(breaker)
    assert 23.0 < breaker.retry_after_s() <= 36.0
    assert isinstance(Health().breaker("p", "m"), CircuitBreaker)
    assert (time.monotonic, chance.random) == (breaker._clock, breaker._random)


def test_opens_on_the_fifth_failure_in_a_row(breaker: CircuitBreaker) -> None:
    calls(breaker, "xxxx")
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"
    assert breaker.admit() is None


def test_a_success_breaks_the_row(breaker: CircuitBreaker) -> None:
    calls(breaker, "xxxx.xxxx")
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"


def test_what_tells_nothing_does_not_break_the_row_and_is_no_failure(breaker: CircuitBreaker) -> None:
    calls(breaker, "xxxx" + "-" * 30)
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"


def test_a_row_has_no_time_limit(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(4):
        calls(breaker, "x")
        clock.now += 3600
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"


def test_rate_needs_20_calls(breaker: CircuitBreaker) -> None:
    calls(breaker, "xxx." * 4 + "xxx")
    assert state(breaker) == "closed"
    calls(breaker, ".")
    assert state(breaker) == "open"


def test_rate_needs_half(breaker: CircuitBreaker) -> None:
    calls(breaker, "." * 20 + "x." * 19)
    assert state(breaker) == "closed"
    for _ in range(18):
        calls(breaker, "xx.")
    calls(breaker, "x")
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"


def test_rate_of_nine_in_twenty_stays_closed(breaker: CircuitBreaker) -> None:
    calls(breaker, ".." + "x." * 9)
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"


def test_rate_of_half_is_judged_on_a_success_too(breaker: CircuitBreaker) -> None:
    calls(breaker, "x." * 9 + "x")
    assert state(breaker) == "closed"
    calls(breaker, ".")
    assert state(breaker) == "open"


def test_rate_forgets_after_10_seconds(breaker: CircuitBreaker, clock: Clock) -> None:
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


def test_rate_counts_9_seconds_back(breaker: CircuitBreaker, clock: Clock) -> None:
    calls(breaker, "x." * 9)
    clock.now = 1009.999
    calls(breaker, "x.")
    assert state(breaker) == "open"


@pytest.mark.parametrize("gap", [10, 11, 19, 20, 21, 1000])
def test_rate_forgets_everything_in_a_long_silence(breaker: CircuitBreaker, clock: Clock, gap: int) -> None:
    for second in range(10):
        clock.now = 1000.0 + second
        calls(breaker, "x" if second % 2 else ".")
    clock.now = 1009.0 + gap
    calls(breaker, ".x" * 9 + ".")
    assert state(breaker) == "closed"


def test_late_failures_of_concurrent_calls_open_once(breaker: CircuitBreaker, clock: Clock) -> None:
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


def test_no_call_until_the_cooldown_ends(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    assert breaker.retry_after_s() == 30.0
    clock.now = 1029.999
    assert breaker.admit() is None
    assert state(breaker) == "open"
    clock.now = 1030.0
    assert state(breaker) == "half_open"
    assert breaker.retry_after_s() == 0.0
    clock.now = 1031.0
    assert breaker.retry_after_s() == 0.0
    assert breaker.admit() is not None


@pytest.mark.parametrize(("drawn", "cooldown"), [(0.0, 24.0), (0.25, 27.0), (0.5, 30.0), (1.0, 36.0)])
def test_cooldown_jitter(breaker: CircuitBreaker, luck: Chance, drawn: float, cooldown: float) -> None:
    luck.value = drawn
    opened(breaker)
    assert breaker.retry_after_s() == pytest.approx(cooldown, abs=1e-9)


def test_half_open_lets_one_call_through(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 30
    permit = admitted(breaker)
    assert state(breaker) == "half_open"
    assert [breaker.admit() for _ in range(3)] == [None, None, None]
    assert breaker.retry_after_s() == 1.0
    clock.now += 1000
    assert breaker.admit() is None
    breaker.succeed(permit)
    assert state(breaker) == "closed"
    assert breaker.retry_after_s() == 0.0
    assert breaker.admit() is not None
    assert breaker.admit() is not None


def test_success_in_half_open_forgets_everything(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    for _ in range(3):
        clock.now += breaker.retry_after_s()
        breaker.fail(admitted(breaker))
    assert breaker.retry_after_s() == 240.0
    clock.now += 240
    breaker.succeed(admitted(breaker))
    calls(breaker, "xxxx")
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert breaker.retry_after_s() == 30.0


def test_failure_rate_from_before_is_forgotten(breaker: CircuitBreaker, clock: Clock) -> None:
    calls(breaker, "x." * 10)
    assert state(breaker) == "open"
    clock.now += 30
    breaker.succeed(admitted(breaker))
    clock.now -= 30
    calls(breaker, ".x" * 9 + ".")
    assert state(breaker) == "closed"


def test_cooldown_doubles_up_to_5_minutes(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    cooldowns = []
    for _ in range(7):
        cooldowns.append(breaker.retry_after_s())
        clock.now += breaker.retry_after_s()
        breaker.fail(admitted(breaker))
        assert state(breaker) == "open"
    assert cooldowns == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0, 300.0]


def test_release_in_half_open_lets_another_one_try(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 30
    first = admitted(breaker)
    breaker.release(first)
    assert state(breaker) == "half_open"
    assert breaker.retry_after_s() == 0.0
    second = admitted(breaker)
    for late in (breaker.succeed, breaker.fail, breaker.release):
        late(first)
    assert state(breaker) == "half_open"
    assert breaker.admit() is None
    breaker.fail(second)
    assert breaker.retry_after_s() == 60.0


def test_what_ends_late_after_a_release_does_not_count(breaker: CircuitBreaker, clock: Clock) -> None:
    old = [admitted(breaker) for _ in range(9)]
    opened(breaker)
    clock.now += 30
    breaker.release(admitted(breaker))
    for permit in old:
        breaker.fail(permit)
    assert state(breaker) == "half_open"
    second = admitted(breaker)
    for permit in old:
        breaker.succeed(permit)
    assert state(breaker) == "half_open"
    breaker.succeed(second)
    assert state(breaker) == "closed"


def test_what_ends_late_does_not_touch_half_open(breaker: CircuitBreaker, clock: Clock) -> None:
    old = [admitted(breaker) for _ in range(3)]
    opened(breaker)
    clock.now += 30
    breaker.succeed(old[0])
    assert state(breaker) == "half_open"
    probe = admitted(breaker)
    breaker.succeed(old[0])
    breaker.fail(old[1])
    breaker.release(old[2])
    assert state(breaker) == "half_open"
    assert breaker.admit() is None
    breaker.succeed(probe)
    assert state(breaker) == "closed"


def test_what_ends_late_does_not_count_once_closed_again(breaker: CircuitBreaker, clock: Clock) -> None:
    old = [admitted(breaker) for _ in range(9)]
    opened(breaker)
    clock.now += 30
    probe = admitted(breaker)
    breaker.succeed(probe)
    for permit in [*old, probe]:
        breaker.fail(permit)
    calls(breaker, "xxxx")
    breaker.succeed(old[0])
    assert state(breaker) == "closed"
    calls(breaker, "x")
    assert state(breaker) == "open"


def test_probe_ended_twice_counts_once(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 30
    probe = admitted(breaker)
    breaker.fail(probe)
    breaker.fail(probe)
    breaker.succeed(probe)
    assert breaker.retry_after_s() == 60.0


def test_release_while_closed_changes_nothing(breaker: CircuitBreaker) -> None:
    permit = admitted(breaker)
    breaker.release(permit)
    assert breaker.admit() == permit


def test_clock_that_steps_back_keeps_the_counts(breaker: CircuitBreaker, clock: Clock) -> None:
    calls(breaker, "x." * 9)
    clock.now = 900.0
    calls(breaker, "x")
    clock.now = 1009.0
    calls(breaker, ".")
    assert state(breaker) == "open"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("adxr."), st.integers(0, 30), st.integers(0, 50)), max_size=150))
def test_one_call_at_most_while_not_closed(steps: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock, lambda: 0.5)
    out: list[int] = []
    for what, which, wait in steps:
        if what == "a":
            before = state(breaker)
            permit = breaker.admit()
            assert permit is None if before == "open" else permit is not None or before == "half_open"
            if permit is not None:
                if before == "half_open":
                    assert breaker.admit() is None
                out.append(permit)
        elif what == "d":
            clock.now += wait
        elif out:
            permit = out.pop(which % len(out))
            {"x": breaker.fail, ".": breaker.succeed, "r": breaker.release}[what](permit)
    if state(breaker) != "closed":
        clock.now += 301
        for permit in out:
            breaker.release(permit)
        assert breaker.admit() is not None
        assert breaker.admit() is None


def test_breakers_are_per_provider_and_model(health: Health) -> None:
    opened(health.breaker("a", "m"))
    assert state(health.breaker("a", "m")) == "open"
    assert state(health.breaker("a", "n")) == "closed"
    assert state(health.breaker("b", "m")) == "closed"
    assert health.breaker("a", "m") is health.breaker("a", "m")
    assert health.states() == {("a", "m"): "open", ("a", "n"): "closed", ("b", "m"): "closed"}


def test_breakers_take_the_clock_and_the_chance(health: Health, clock: Clock, luck: Chance) -> None:
    luck.value = 1.0
    breaker = opened(health.breaker("a", "m"))
    assert breaker.retry_after_s() == pytest.approx(36.0, abs=1e-9)
    clock.now += 36
    assert health.states() == {("a", "m"): "half_open"}


@pytest.mark.parametrize(
    ("seconds", "rests"), [(None, 10.0), (0.5, 0.5), (7.0, 7.0), (120.0, 120.0), (121.0, 120.0), (float("inf"), 120.0)]
)
def test_rate_limited_rests_for_retry_after(health: Health, clock: Clock, seconds: float | None, rests: float) -> None:
    health.rest("p", seconds, "rate_limited")
    assert health.resting("p") == (rests, "rate_limited")
    assert health.resting("q") is None
    clock.now += rests - 0.25
    assert health.resting("p") == (0.25, "rate_limited")
    clock.now += 0.25
    assert health.resting("p") is None
    assert health.resting("p") is None


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_no_rest_for_no_time(health: Health, seconds: float) -> None:
    health.rest("p", seconds, "rate_limited")
    assert health.resting("p") is None
    health.rest("p", 5.0, "rate_limited")
    health.rest("p", seconds, "rate_limited")
    assert health.resting("p") == (5.0, "rate_limited")


@pytest.mark.parametrize("seconds", [None, 1.0, 0.0, 1000.0])
def test_refused_rests_5_minutes(health: Health, seconds: float | None) -> None:
    health.rest("p", seconds, "refused")
    assert health.resting("p") == (300.0, "refused")


def test_of_two_rests_the_longer_holds(health: Health, clock: Clock) -> None:
    health.rest("p", 20.0, "rate_limited")
    health.rest("p", 5.0, "rate_limited")
    assert health.resting("p") == (20.0, "rate_limited")
    health.rest("p", 30.0, "rate_limited")
    assert health.resting("p") == (30.0, "rate_limited")
    health.rest("p", None, "refused")
    health.rest("p", 120.0, "rate_limited")
    assert health.resting("p") == (300.0, "refused")
    clock.now += 200
    health.rest("p", 100.0, "rate_limited")
    assert health.resting("p") == (100.0, "refused")
    health.rest("p", 101.0, "rate_limited")
    assert health.resting("p") == (101.0, "rate_limited")


def test_rest_on_a_clock_below_zero() -> None:
    clock = Clock(-500.0)
    health = Health(clock)
    health.rest("p", 5.0, "rate_limited")
    assert health.resting("p") == (5.0, "rate_limited")


def test_in_flight_counts_up_and_down(health: Health) -> None:
    assert health.in_flight("p") == 0
    for _ in range(3):
        health.begin("p")
    health.begin("q")
    assert (health.in_flight("p"), health.in_flight("q")) == (3, 1)
    health.end("p")
    assert health.in_flight("p") == 2
    health.end("p")
    assert health.in_flight("p") == 1
    health.end("p")
    assert health.in_flight("p") == 0
    health.end("p")
    health.end("unknown")
    assert (health.in_flight("p"), health.in_flight("q")) == (0, 1)
    health.begin("p")
    assert health.in_flight("p") == 1


def test_three_retries_are_free(health: Health) -> None:
    assert [health.may_retry("p") for _ in range(5)] == [True, True, True, False, False]
    assert health.may_retry("q") is True


@pytest.mark.parametrize(("begun", "retries"), [(0, 3), (19, 3), (20, 4), (24, 4), (25, 5), (100, 20)])
def test_retries_are_a_fifth_of_the_calls(health: Health, begun: int, retries: int) -> None:
    for _ in range(begun):
        health.begin("p")
    granted = 0
    while health.may_retry("p"):
        health.begin("p")
        granted += 1
    assert granted == retries


def retries(health: Health, tries: int) -> list[bool]:
    granted = []
    for _ in range(tries):
        granted.append(health.may_retry("p"))
        if granted[-1]:
            health.begin("p")
    return granted


def test_retries_and_calls_are_forgotten_after_10_seconds(health: Health, clock: Clock) -> None:
    for _ in range(20):
        health.begin("p")
    assert retries(health, 2) == [True, True]
    clock.now = 1009.999
    assert retries(health, 3) == [True, True, False]
    clock.now = 1010.0
    assert retries(health, 2) == [True, False]
    clock.now = 1018.999
    assert retries(health, 1) == [False]
    clock.now = 1019.0
    assert retries(health, 3) == [True, True, False]


def test_reset_starts_anew_but_calls_in_flight_stay(health: Health) -> None:
    old = health.breaker("p", "m")
    permit = admitted(old)
    opened(old)
    health.rest("p", None, "refused")
    health.rest("q", None, "refused")
    opened(health.breaker("q", "m"))
    health.begin("p")
    for _ in range(3):
        health.may_retry("p")
    health.reset("p")
    health.reset("unknown")
    assert health.states() == {("q", "m"): "open"}
    assert health.resting("p") is None
    assert health.resting("q") == (300.0, "refused")
    assert health.in_flight("p") == 1
    assert health.may_retry("p") is False
    old.fail(permit)
    assert state(health.breaker("p", "m")) == "closed"


def test_forget_drops_everything(health: Health) -> None:
    for provider_id in ("p", "q"):
        health.breaker(provider_id, "m")
        health.rest(provider_id, None, "refused")
        health.begin(provider_id)
        for _ in range(3):
            health.may_retry(provider_id)
    health.forget("p")
    health.forget("unknown")
    assert health.states() == {("q", "m"): "closed"}
    assert (health.resting("p"), health.resting("q")) == (None, (300.0, "refused"))
    assert (health.in_flight("p"), health.in_flight("q")) == (0, 1)
    assert (health.may_retry("p"), health.may_retry("q")) == (True, False)
