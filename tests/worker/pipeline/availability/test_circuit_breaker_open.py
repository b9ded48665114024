"""Circuit breaker, open and half-open: cooldown, trial calls, closing, and late reports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.worker.pipeline.availability.circuit_breaker import CircuitBreaker
from tests.examples import examples
from tests.worker.pipeline.breaking import Chance, Clock, admitted, calls, opened, state


def test_no_call_is_admitted_until_the_cooldown_ends(breaker: CircuitBreaker, clock: Clock) -> None:
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
def test_the_cooldown_is_jittered(breaker: CircuitBreaker, luck: Chance, drawn: float, cooldown: float) -> None:
    luck.value = drawn
    opened(breaker)
    assert breaker.retry_after_s() == pytest.approx(cooldown, abs=1e-9)


def test_half_open_admits_one_call(breaker: CircuitBreaker, clock: Clock) -> None:
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


def test_a_success_in_half_open_closes_it_and_forgets_all_failures(breaker: CircuitBreaker, clock: Clock) -> None:
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


def test_the_failure_rate_is_forgotten_when_it_closes(breaker: CircuitBreaker, clock: Clock) -> None:
    calls(breaker, "x." * 10)
    assert state(breaker) == "open"
    clock.now += 30
    breaker.succeed(admitted(breaker))
    clock.now -= 30
    calls(breaker, ".x" * 9 + ".")
    assert state(breaker) == "closed"


def test_the_cooldown_doubles_up_to_5_minutes(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    cooldowns = []
    for _ in range(7):
        cooldowns.append(breaker.retry_after_s())
        clock.now += breaker.retry_after_s()
        breaker.fail(admitted(breaker))
        assert state(breaker) == "open"
    assert cooldowns == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0, 300.0]


def test_a_release_in_half_open_admits_another_call(breaker: CircuitBreaker, clock: Clock) -> None:
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


def test_a_late_report_after_a_release_is_ignored(breaker: CircuitBreaker, clock: Clock) -> None:
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


def test_late_reports_do_not_change_half_open(breaker: CircuitBreaker, clock: Clock) -> None:
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


def test_late_reports_are_ignored_once_it_closed_again(breaker: CircuitBreaker, clock: Clock) -> None:
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


def test_a_probe_reported_twice_counts_once(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 30
    probe = admitted(breaker)
    breaker.fail(probe)
    breaker.fail(probe)
    breaker.succeed(probe)
    assert breaker.retry_after_s() == 60.0


def test_a_release_while_closed_changes_nothing(breaker: CircuitBreaker) -> None:
    permit = admitted(breaker)
    breaker.release(permit)
    assert breaker.admit() == permit


def test_a_clock_that_steps_back_keeps_the_counts(breaker: CircuitBreaker, clock: Clock) -> None:
    calls(breaker, "x." * 9)
    clock.now = 900.0
    calls(breaker, "x")
    clock.now = 1009.0
    calls(breaker, ".")
    assert state(breaker) == "open"


@examples(4)
@given(st.lists(st.tuples(st.sampled_from("adxr."), st.integers(0, 30), st.integers(0, 50)), max_size=150))
def test_at_most_one_call_is_admitted_while_it_is_not_closed(steps: list[tuple[str, int, int]]) -> None:
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
