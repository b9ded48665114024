"""Health: a breaker per provider and model, rests, calls in flight, retries."""

from __future__ import annotations

import pytest

from llm_gateway.pipeline.health import Health
from tests.pipeline.breaking import Chance, Clock, admitted, opened, state


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
