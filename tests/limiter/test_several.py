"""Contract of a limiter: windows that a request needs at once, such as those of a key and of its team."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any

import pytest

from llm_gateway.domain.service_key import KeyLimit
from llm_gateway.errors import RateLimited, RequestExceedsLimit
from llm_gateway.limiter.base import Decision, Limiter, Reservation, Wanted
from llm_gateway.worker.pipeline.key_limits import KeyLimits
from tests.limiter.taking import Clock
from tests.worker.pipeline.fakes import request

TPM = 1000


def done(awaited: Awaitable[Any] | None) -> Any:
    """Run what does not wait, and return its result."""
    if awaited is None:
        return None
    assert isinstance(awaited, Coroutine)
    try:
        awaited.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


def take_all(limiter: Limiter, *wanted: Wanted) -> tuple[list[Reservation], Decision | None]:
    came: tuple[list[Reservation], Decision | None] = done(limiter.take_all(wanted))
    return came


def left(limiter: Limiter, window: str) -> tuple[int, int]:
    """Return what is left of 10 requests and 1,000 tokens."""
    state = limiter.state(window, 10, TPM)
    return state.remaining_requests, state.remaining_tokens


def give_back(limiter: Limiter, reservations: list[Reservation]) -> None:
    for reservation in reservations:
        limiter.settle(reservation, tokens=0, sent=False)


def test_a_request_is_counted_in_each_of_its_windows_and_corrected_there(limiter: Limiter) -> None:
    reservations, refused = take_all(limiter, Wanted("key", 10, TPM, 100), Wanted("team", 10, TPM, 70))
    assert refused is None
    assert [(each.provider_id, each.tokens) for each in reservations] == [("key", 100), ("team", 70)]
    assert (left(limiter, "key"), left(limiter, "team")) == ((9, 900), (9, 930))
    limiter.settle(reservations[0], tokens=30)
    limiter.settle(reservations[1], tokens=20)
    assert (left(limiter, "key"), left(limiter, "team")) == ((9, 970), (9, 980))


@pytest.mark.parametrize(("rpm", "tpm"), [(1, TPM), (10, 150)], ids=["requests", "tokens"])
def test_of_a_request_that_the_second_window_refuses_the_first_one_keeps_nothing(
    limiter: Limiter, rpm: int, tpm: int
) -> None:
    take_all(limiter, Wanted("other", 10, TPM, 100), Wanted("team", rpm, tpm, 100))
    reservations, refused = take_all(limiter, Wanted("key", 10, TPM, 100), Wanted("team", rpm, tpm, 100))
    assert refused is not None
    assert refused.reservation is None
    assert 0 < refused.retry_after_s <= 61
    assert [each.provider_id for each in reservations] == ["key"], "the one before the window that is full"
    give_back(limiter, reservations)
    assert (left(limiter, "key"), left(limiter, "team")) == ((10, TPM), (9, 900))


def test_the_first_of_the_full_windows_is_told(limiter: Limiter, clock: Clock) -> None:
    take_all(limiter, Wanted("key", 1, TPM, 0))
    clock.now += 20
    take_all(limiter, Wanted("team", 1, TPM, 0))
    reservations, refused = take_all(limiter, Wanted("key", 1, TPM, 0), Wanted("team", 1, TPM, 0))
    assert reservations == []
    assert refused is not None
    assert 40 < refused.retry_after_s <= 41, "the time of the key's window"
    assert (left(limiter, "key"), left(limiter, "team")) == ((9, TPM), (9, TPM))


def test_a_request_larger_than_the_second_limit_exceeds_it(limiter: Limiter) -> None:
    reservations, refused = take_all(limiter, Wanted("key", 10, TPM, 100), Wanted("team", 10, 99, 100))
    assert refused == Decision(exceeds=True)
    assert [each.provider_id for each in reservations] == ["key"]
    give_back(limiter, reservations)
    assert (left(limiter, "key"), left(limiter, "team")) == ((10, TPM), (10, TPM))


def test_three_windows_grant_until_one_is_full(limiter: Limiter) -> None:
    wanted = Wanted("key", 9, TPM, 10), Wanted("team", 4, TPM, 10), Wanted("company", 9, TPM, 10)
    granted = [take_all(limiter, *wanted)[0] for _ in range(6)]
    assert [len(reservations) for reservations in granted] == [3, 3, 3, 3, 1, 1]
    for reservations in granted[4:]:
        give_back(limiter, reservations)
    assert [left(limiter, each.window) for each in wanted] == [(6, 960)] * 3


def test_a_refusal_names_the_limit_that_is_full(limiter: Limiter) -> None:
    limits = KeyLimits(limiter)
    key, team = KeyLimit("key", rpm=3), KeyLimit("team", rpm=2, tpm=5000)
    for number in range(2):
        assert done(limits.admit(request(id=str(number), max_tokens=100), (key, team))) is None
    for _ in range(3):  # those that are refused count for neither
        with pytest.raises(RateLimited, match="limit of 2 requests and 5000 tokens in 60 seconds"):
            done(limits.admit(request(id="refused", max_tokens=100), (key, team)))
    with pytest.raises(RequestExceedsLimit, match="more than the 5000"):
        done(limits.admit(request(id="large", max_tokens=6000), (key, team)))
    assert done(limits.admit(request(id="2"), (key,))) is None
    with pytest.raises(RateLimited, match="limit of 3 requests in"):
        done(limits.admit(request(id="3"), (key, team)))
