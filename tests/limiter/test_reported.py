"""Contract of a limiter: the limits that a provider reports lower its window."""

from __future__ import annotations

import pytest

from llm_gateway.domain.rate_limits import ReportedLimit, ReportedLimits
from llm_gateway.limiter.base import Before, Limiter
from tests.limiter.taking import Clock, reserved, run, taken

MANY = 10**6


def requests(remaining: int, reset_s: float, limit: int | None = None) -> ReportedLimits:
    return ReportedLimits(requests=ReportedLimit(remaining, reset_s, limit))


def tokens(remaining: int, reset_s: float, limit: int | None = None, *, counts_bound: bool = True) -> ReportedLimits:
    return ReportedLimits(tokens=ReportedLimit(remaining, reset_s, limit, counts_bound))


def wait_s(limiter: Limiter, size: int = 0, model: str = "m") -> float:
    """Return how long a request has to wait; 0 if it is granted."""
    decision = run(limiter.take("p", MANY, 10**9, size, model))
    assert (decision.reservation is None) == (decision.retry_after_s > 0)
    return decision.retry_after_s


def test_no_more_calls_are_granted_than_the_provider_has_left(limiter: Limiter) -> None:
    limiter.cap(reserved(limiter, MANY, model="m"), requests(2, 30.0))

    assert [wait_s(limiter) for _ in range(3)] == [0, 0, 30.0]


def test_the_limit_refills_evenly_where_the_whole_limit_is_reported(limiter: Limiter, clock: Clock) -> None:
    limiter.cap(reserved(limiter, MANY, model="m"), requests(0, 10.0, limit=20))

    assert wait_s(limiter) == 0.5
    assert limiter.next_free("p", MANY, 10**9, 0, "m", before=Before(3)) == 2.0
    clock.now += 1.0
    assert [wait_s(limiter) for _ in range(3)] == [0, 0, 0.5]


def test_the_limit_is_never_more_than_whole(limiter: Limiter, clock: Clock) -> None:
    limiter.cap(reserved(limiter, MANY, model="m"), requests(0, 10.0, limit=20))
    clock.now += 30.0

    assert [wait_s(limiter) for _ in range(21)] == [0] * 20 + [0.5]


def test_a_limit_of_unknown_size_is_forgotten_when_it_is_whole_again(limiter: Limiter, clock: Clock) -> None:
    limiter.cap(reserved(limiter, MANY, model="m"), requests(0, 10.0))
    clock.now += 10.0

    assert [wait_s(limiter) for _ in range(50)] == [0] * 50


def test_a_report_is_forgotten_when_the_account_changes_but_calls_stay_counted(limiter: Limiter) -> None:
    limiter.cap(reserved(limiter, MANY, model="m"), requests(0, 30.0))
    limiter.uncap("p", 5)
    limiter.uncap("unknown", 5)

    assert [wait_s(limiter) for _ in range(5)] == [0] * 5
    assert limiter.state("p", MANY, 10**9, "m").remaining_requests == MANY - 6


def test_a_report_that_came_after_the_account_changed_outlives_a_worker_that_learns_of_the_change_later(
    limiter: Limiter,
) -> None:
    first = reserved(limiter, MANY, model="m")
    limiter.uncap("p", 5)
    limiter.cap(first, requests(0, 30.0))
    limiter.uncap("p", 5)
    assert wait_s(limiter) == 30.0
    limiter.uncap("p", 6)
    assert wait_s(limiter) == 0


def test_a_report_is_believed_for_2_minutes(limiter: Limiter, clock: Clock) -> None:
    limiter.cap(reserved(limiter, MANY, model="m"), requests(0, 3600.0))

    assert wait_s(limiter) == 120.0
    clock.now += 120.0
    assert wait_s(limiter) == 0


def test_calls_after_the_one_that_brought_the_report_are_subtracted(limiter: Limiter) -> None:
    first = reserved(limiter, MANY, model="m")
    for _ in range(3):
        reserved(limiter, MANY, model="m")
    limiter.cap(first, requests(4, 60.0))

    assert [wait_s(limiter) == 0 for _ in range(2)] == [True, False]


def test_the_report_of_an_earlier_call_does_not_replace_a_later_ones(limiter: Limiter) -> None:
    earlier, later = reserved(limiter, MANY, model="m"), reserved(limiter, MANY, model="m")
    limiter.cap(later, requests(0, 60.0))
    limiter.cap(earlier, requests(50, 60.0))

    assert wait_s(limiter) == 60.0


def test_tokens_are_capped_as_requests_are(limiter: Limiter, clock: Clock) -> None:
    limiter.cap(reserved(limiter, MANY, 10**9, 10, model="m"), tokens(100, 6.0, limit=160))

    assert wait_s(limiter, 60) == 0
    assert wait_s(limiter, 60) == 2.0
    clock.now += 2.0
    assert wait_s(limiter, 60) == 0


def test_a_request_above_the_reported_limit_waits_until_it_is_whole_and_is_granted(
    limiter: Limiter, clock: Clock
) -> None:
    limiter.cap(reserved(limiter, MANY, model="m"), tokens(100, 6.0, limit=160))

    assert wait_s(limiter, 5_000) == 6.0
    clock.now += 6.0
    assert wait_s(limiter, 5_000) == 0


def test_a_provider_that_counts_tokens_as_they_are_produced_is_asked_while_any_are_left(limiter: Limiter) -> None:
    call = reserved(limiter, MANY, model="m")
    limiter.cap(call, tokens(100, 6.0, limit=8_000, counts_bound=False))
    assert wait_s(limiter, 64_000) == 0
    limiter.cap(reserved(limiter, MANY, model="m"), tokens(0, 60.0, limit=8_000, counts_bound=False))
    assert 0 < wait_s(limiter, 64_000) < 0.1, "one token is enough"


def test_a_report_concerns_its_model_only(limiter: Limiter) -> None:
    limiter.cap(reserved(limiter, MANY, model="m"), requests(0, 30.0))

    assert wait_s(limiter, model="other") == 0


def test_calls_of_another_model_are_not_subtracted_from_a_report(limiter: Limiter) -> None:
    first = reserved(limiter, MANY, model="m")
    for _ in range(50):
        reserved(limiter, MANY, 10**9, 10, model="other")
    limiter.cap(first, requests(4, 60.0))
    limiter.cap(first, tokens(400, 60.0))
    for _ in range(50):
        reserved(limiter, MANY, 10**9, 10, model="other")

    state = limiter.state("p", MANY, 10**9, "m")
    assert (state.remaining_requests, state.remaining_tokens) == (4, 400)
    assert [wait_s(limiter, 100) for _ in range(5)] == [0, 0, 0, 0, 60.0]


def test_a_decision_tells_whether_only_the_model_is_held_back(limiter: Limiter) -> None:
    limiter.cap(reserved(limiter, 2, model="m"), requests(0, 30.0))
    assert run(limiter.take("p", 2, 10**9, 0, "m")).by_model
    reserved(limiter, 2, model="other")

    assert not run(limiter.take("p", 2, 10**9, 0, "m")).by_model
    assert not run(limiter.take("p", 2, 10**9, 0, "other")).by_model


def test_a_report_without_limits_changes_nothing(limiter: Limiter) -> None:
    limiter.cap(reserved(limiter, MANY, model="m"), requests(0, 30.0))
    limiter.cap(reserved(limiter, MANY, model="other"), ReportedLimits())
    later = run(limiter.take("p", MANY, 10**9, 0, "other")).reservation
    assert later is not None
    limiter.cap(later, ReportedLimits())

    assert wait_s(limiter) == 30.0


@pytest.mark.parametrize("forgotten", [True, False])
def test_a_report_for_a_provider_that_is_gone_does_nothing(limiter: Limiter, *, forgotten: bool) -> None:
    call = reserved(limiter, MANY, model="m", provider="p" if forgotten else "q")
    limiter.forget(call.provider_id)
    limiter.cap(call, requests(0, 30.0))

    assert wait_s(limiter) == 0


def test_the_state_is_the_smaller_one_of_the_window_and_the_report(limiter: Limiter) -> None:
    taken(limiter, 10, 1000, 100)
    limiter.cap(reserved(limiter, 10, 1000, 0, model="m"), requests(3, 60.0))
    state = limiter.state("p", 10, 1000, "m")
    assert (state.remaining_requests, state.remaining_tokens) == (3, 900)
    assert limiter.state("p", 10, 1000, "other").remaining_requests == 8
    limiter.cap(reserved(limiter, 10, 1000, 0, model="m"), tokens(50, 60.0))
    state = limiter.state("p", 10, 1000, "m")
    assert (state.remaining_requests, state.remaining_tokens) == (2, 50)


def test_a_report_is_told_to_whoever_watches(limiter: Limiter) -> None:
    freed: list[bool] = []
    call = reserved(limiter, MANY, model="m")
    limiter.watch("p", lambda: freed.append(True))
    limiter.cap(call, requests(5, 30.0))
    assert freed == [True]
