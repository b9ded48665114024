"""Contract of a limiter: what is only reserved counts apart from what was used; when a request could fit; waiting."""

from __future__ import annotations

import pytest

from llm_gateway.limiter.base import Before, Limiter
from tests.limiter.taking import Clock, reserved, take, taken


def finish(limiter: Limiter, clock: Clock, *seconds: float) -> None:
    """Let calls of these durations start and end, at a provider whose limits they do not fill."""
    for duration in seconds:
        call = reserved(limiter, 10**6)
        clock.now += duration
        limiter.settle(call, tokens=0)


def test_a_request_that_a_reservation_keeps_out_is_told_when_calls_usually_end(limiter: Limiter, clock: Clock) -> None:
    finish(limiter, clock, *[0.5] * 9, 30.5)
    clock.now += 100
    reserved(limiter, 10**6, 100, 90)

    told = take(limiter, 10**6, 100, 20)

    assert told.reservation is None
    assert 1.0 <= told.retry_after_s <= 2.0, "nine of ten calls end within a second"
    assert limiter.next_free("p", 10**6, 100, 20) == told.retry_after_s


def test_a_request_that_used_tokens_keep_out_is_told_when_they_leave_the_window(limiter: Limiter) -> None:
    taken(limiter, 9, 100, 90)

    assert take(limiter, 9, 100, 20).retry_after_s == 61.0


def test_a_full_request_limit_does_not_depend_on_open_reservations(limiter: Limiter) -> None:
    reserved(limiter, 1, 100, 100)

    assert take(limiter, 1, 100, 20).retry_after_s == 61.0


def test_reservations_that_are_too_small_to_make_the_room_leave_the_wait_to_used_tokens(
    limiter: Limiter, clock: Clock
) -> None:
    taken(limiter, 9, 100, 80)
    clock.now += 30
    reserved(limiter, 9, 100, 20)

    assert take(limiter, 9, 100, 20).retry_after_s <= 3.0
    assert take(limiter, 9, 100, 21).retry_after_s == 31.0, "one of the 80 used tokens has to leave as well"


@pytest.mark.parametrize(("age", "told"), [(0.0, 1.5), (2.0, 5.5), (6.5, 1.0), (20.0, 1.0)])
def test_the_remaining_time_is_that_of_calls_that_lasted_as_long(
    limiter: Limiter, clock: Clock, age: float, told: float
) -> None:
    clock.now = 1000.0
    for _ in range(19):
        call = reserved(limiter, 10**6)
        clock.now += 1.0
        limiter.settle(call, tokens=0)
    call = reserved(limiter, 10**6)
    clock.now += 7.0
    limiter.settle(call, tokens=0)
    clock.now = 2000.5
    reserved(limiter, 10**6, 100, 90)
    clock.now += age

    assert limiter.next_free("p", 10**6, 100, 20) == pytest.approx(told, abs=0.5)


def test_how_long_a_call_took_can_be_told(limiter: Limiter, clock: Clock) -> None:
    for _ in range(9):
        limiter.settle(reserved(limiter, 10**6), tokens=0, lasted_s=20)
    clock.now += 100
    reserved(limiter, 10**6, 100, 90)

    assert 20.0 <= take(limiter, 10**6, 100, 20).retry_after_s <= 21.0


def test_before_any_call_has_ended_a_reservation_is_expected_to_end_in_1_to_3_seconds(limiter: Limiter) -> None:
    reserved(limiter, 9, 100, 90)

    assert 1.0 <= take(limiter, 9, 100, 20).retry_after_s <= 3.0


def test_a_reservation_that_is_never_settled_counts_until_it_leaves_the_window(limiter: Limiter, clock: Clock) -> None:
    reserved(limiter, 9, 100, 90)
    clock.now += 60.9
    assert take(limiter, 9, 100, 20).reservation is None
    clock.now += 0.1
    assert take(limiter, 9, 100, 20).reservation is not None


def test_next_free_counts_requests_that_come_before(limiter: Limiter, clock: Clock) -> None:
    for _ in range(3):
        taken(limiter, 4, 100, 10)
        clock.now += 1

    assert limiter.next_free("p", 4, 100, 10) == 0
    assert limiter.next_free("p", 4, 100, 10, before=Before(1)) == 58.0
    assert limiter.next_free("p", 4, 100, 10, before=Before(3)) == 60.0
    assert limiter.next_free("p", 4, 100, 10, before=Before(399)) == 60.0, "no more than the whole limit is waited for"
    assert limiter.next_free("p", 4, 100, 10, before=Before(0, 60)) == 0
    assert limiter.next_free("p", 4, 100, 10, before=Before(0, 61)) == 58.0
    assert limiter.next_free("p", 4, 100, 71) == 58.0
    assert limiter.next_free("p", 4, 100, 10**9) == 60.0


def test_of_the_tokens_of_requests_that_come_before_only_the_usual_share_counts(limiter: Limiter) -> None:
    limiter.settle(reserved(limiter, 9, 100, 100), tokens=25)

    assert limiter.next_free("p", 9, 100, 35, before=Before(1, 160)) == 0
    assert limiter.next_free("p", 9, 100, 36, before=Before(1, 160)) == 61.0


def test_more_than_half_of_a_limit_is_crowded(limiter: Limiter) -> None:
    assert [take(limiter, 4).is_crowded for _ in range(4)] == [False, False, True, True]
    assert take(limiter, 100, 100, 50, "other").is_crowded is False
    assert take(limiter, 100, 100, 1, "other").is_crowded is True


def test_a_settled_call_is_told_to_whoever_watches(limiter: Limiter) -> None:
    freed: list[str] = []
    watched, other = reserved(limiter, 9, 100, 90), reserved(limiter, 9, 100, 90, provider="other")
    limiter.watch("p", lambda: freed.append("p"))

    limiter.settle(other, tokens=0)
    assert freed == []
    limiter.settle(watched, tokens=10)
    assert freed == ["p"]
    assert take(limiter, 9, 100, 90).reservation is not None
    limiter.watch("p", None)
    limiter.watch("p", None)
    limiter.settle(reserved(limiter, 9), tokens=0)
    assert freed == ["p"]


def test_the_state_tells_limits_what_is_left_and_when_the_window_is_empty(limiter: Limiter, clock: Clock) -> None:
    state = limiter.state("p", 4, 100)
    assert (state.limit_requests, state.remaining_requests, state.limit_tokens, state.remaining_tokens) == (
        4,
        4,
        100,
        100,
    )
    assert state.reset_s == 0
    taken(limiter, 4, 100, 10)
    clock.now += 20
    reserved(limiter, 4, 100, 20)
    clock.now += 10.5
    state = limiter.state("p", 4, 100)
    assert (state.remaining_requests, state.remaining_tokens, state.reset_s) == (2, 70, 50.5)
    state = limiter.state("p", 1, 15)
    assert (state.remaining_requests, state.remaining_tokens) == (0, 0), "limits that were lowered"
    clock.now += 61
    assert limiter.state("p", 4, 100).reset_s == 0
