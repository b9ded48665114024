"""Contract of a limiter: settling of reservations, calls of an earlier run, and clocks that step back."""

from __future__ import annotations

import pytest

from llm_gateway.limiter.base import Decision, Limiter, Reservation
from tests.limiter.taking import Clock, free, take, taken


def test_settling_fewer_tokens_releases_the_rest_and_keeps_the_request(limiter: Limiter) -> None:
    reservation = taken(limiter, 2, tpm=100, tokens=100)
    limiter.settle(reservation, tokens=30)
    assert take(limiter, 2, tpm=100, tokens=71).reservation is None
    taken(limiter, 2, tpm=100, tokens=70)
    assert take(limiter, 2, tpm=200, tokens=1).reservation is None


def test_settling_more_tokens_counts_them(limiter: Limiter, clock: Clock) -> None:
    reservation = taken(limiter, 9, tpm=100, tokens=10)
    limiter.settle(reservation, tokens=120)
    assert take(limiter, 9, tpm=100, tokens=0) == Decision(None, 61.0)
    assert free(limiter, 130) == 10
    clock.now = 1061.0
    assert free(limiter, 100) == 100


def test_settling_an_unsent_call_releases_request_and_tokens(limiter: Limiter) -> None:
    limiter.settle(taken(limiter, 1, tpm=100, tokens=100), tokens=0, sent=False)
    limiter.settle(taken(limiter, 1, tpm=100, tokens=100), tokens=0, sent=True)
    assert take(limiter, 1, tpm=100, tokens=1).reservation is None
    taken(limiter, 2, tpm=100, tokens=100)


def test_settling_corrects_the_second_of_the_reservation(limiter: Limiter, clock: Clock) -> None:
    first = taken(limiter, 9, tpm=100, tokens=60)
    clock.now = 1030.0
    taken(limiter, 9, tpm=100, tokens=40)
    limiter.settle(first, tokens=10)
    assert free(limiter, 100) == 50
    clock.now = 1061.0
    assert free(limiter, 100) == 60


def test_settling_has_no_effect_once_its_second_left_the_window(limiter: Limiter, clock: Clock) -> None:
    early, late = taken(limiter, 9, tpm=100, tokens=30), taken(limiter, 9, tpm=100, tokens=30)
    clock.now = 1060.0
    taken(limiter, 9, tpm=100, tokens=10)
    limiter.settle(early, tokens=0, sent=False)
    assert free(limiter, 100) == 60
    clock.now = 1061.0
    taken(limiter, 2, tpm=100, tokens=40)
    limiter.settle(late, tokens=0, sent=False)
    assert free(limiter, 100) == 50
    assert take(limiter, 2).reservation is None
    taken(limiter, 3)


def test_settling_an_unknown_second_does_nothing(limiter: Limiter) -> None:
    taken(limiter, 1, tpm=100, tokens=100)
    for bucket in (1000 - 61, 1001, 1061, -1):
        limiter.settle(Reservation("p", bucket, 100), tokens=0, sent=False)
    limiter.settle(Reservation("unknown", 1000, 100), tokens=0, sent=False)
    assert take(limiter, 1, tpm=200, tokens=0).reservation is None
    assert free(limiter, 100) == 0
    limiter.settle(Reservation("p", 1000, 100), tokens=0, sent=False)
    taken(limiter, 1, tpm=100, tokens=100)


def test_settling_twice_leaves_no_count_below_zero(limiter: Limiter, clock: Clock) -> None:
    first = taken(limiter, 9, tpm=100, tokens=60)
    for _ in range(3):
        limiter.settle(first, tokens=-7, sent=False)
    assert free(limiter, 100) == 100
    taken(limiter, 1)
    assert take(limiter, 1).reservation is None
    clock.now = 1061.0
    assert free(limiter, 100) == 100
    taken(limiter, 1)
    assert take(limiter, 1).reservation is None


def test_settling_negative_tokens_counts_as_zero(limiter: Limiter) -> None:
    reservation = taken(limiter, 9, tpm=100, tokens=20)
    taken(limiter, 9, tpm=100, tokens=50)
    limiter.settle(reservation, tokens=-1000)
    assert free(limiter, 100) == 50


def test_settling_after_forget_does_nothing(limiter: Limiter) -> None:
    reservation = taken(limiter, 1)
    limiter.forget("p")
    limiter.forget("p")
    limiter.settle(reservation, tokens=5)
    taken(limiter, 1)


@pytest.mark.parametrize(
    ("age", "leaves"),
    [(0.0, 1061), (-5.0, 1061), (0.25, 1061), (0.75, 1061), (1.5, 1061), (1.75, 1060), (10.0, 1052), (60.0, 1002)],
)
def test_a_refilled_call_counts_in_the_second_after_its_start(
    limiter: Limiter, clock: Clock, age: float, leaves: int
) -> None:
    clock.now = 1000.5
    limiter.refill("p", age, 7)
    assert take(limiter, 1, tpm=10, tokens=0) == Decision(None, leaves - 1000.5)
    assert free(limiter, 10) == 3
    clock.now = leaves - 0.001
    assert take(limiter, 1).reservation is None
    clock.now = leaves
    assert free(limiter, 10) == 10


def test_a_refilled_call_older_than_the_window_is_ignored(limiter: Limiter, clock: Clock) -> None:
    clock.now = 1000.5
    limiter.refill("p", 61.5, 7)
    assert free(limiter, 10) == 3
    limiter.refill("p", 61.75, 2)
    limiter.refill("p", 1000.0, 2)
    assert free(limiter, 10) == 3
    assert take(limiter, 1) == Decision(None, 0.5)
    clock.now = 1001.0
    assert free(limiter, 10) == 10


def test_refilled_calls_add_up_and_negative_tokens_count_as_zero(limiter: Limiter) -> None:
    for tokens in (3, 4, -9):
        limiter.refill("p", 5.0, tokens)
    assert free(limiter, 10) == 3
    assert take(limiter, 3).reservation is None
    taken(limiter, 4)


def test_refilled_calls_leave_the_window_one_by_one(limiter: Limiter, clock: Clock) -> None:
    for tokens in (3, 4, -9):
        limiter.refill("p", 5.5, tokens)
    limiter.refill("p", 3.5, 1)
    clock.now = 1055.999
    assert take(limiter, 4).reservation is None
    clock.now = 1056.0
    assert take(limiter, 1).reservation is None
    taken(limiter, 2)
    assert free(limiter, 10) == 9
    clock.now = 1057.0
    assert take(limiter, 2).reservation is None
    clock.now = 1058.0
    assert take(limiter, 1).reservation is None
    taken(limiter, 2)
    assert free(limiter, 10) == 10


def test_a_clock_that_steps_back_stands_still_and_goes_on(limiter: Limiter, clock: Clock) -> None:
    taken(limiter, 1)
    clock.now = 400.0
    assert take(limiter, 1) == Decision(None, 61.0)
    clock.now = 460.5
    assert take(limiter, 1) == Decision(None, 0.5)
    clock.now = 100.0
    assert take(limiter, 1) == Decision(None, 0.5)
    clock.now = 100.5
    assert taken(limiter, 1).bucket == 1061
    clock.now = 160.5
    assert take(limiter, 1) == Decision(None, 1.0)
