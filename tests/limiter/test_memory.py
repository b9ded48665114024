"""MemoryLimiter: what is let through, what is said when it is not, and what settling gives back."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_gateway.limiter.base import Decision, Reservation
from llm_gateway.limiter.memory import MemoryLimiter


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def run(coroutine: Coroutine[Any, Any, Decision]) -> Decision:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        decision: Decision = stop.value
        return decision
    raise AssertionError("it waited")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> MemoryLimiter:
    return MemoryLimiter(clock)


def take(limiter: MemoryLimiter, rpm: int, tpm: int = 10**9, tokens: int = 0, provider: str = "p") -> Decision:
    return run(limiter.take(provider, rpm, tpm, tokens))


def taken(limiter: MemoryLimiter, rpm: int, tpm: int = 10**9, tokens: int = 0, provider: str = "p") -> Reservation:
    reservation = take(limiter, rpm, tpm, tokens, provider).reservation
    assert reservation is not None
    return reservation


def free(limiter: MemoryLimiter, tpm: int) -> int:
    """How many of `tpm` tokens could be taken now, found without taking any: no request of none is let through."""
    return next(n for n in range(tpm, -1, -1) if fits(limiter, tpm, n))


def fits(limiter: MemoryLimiter, tpm: int, tokens: int) -> bool:
    reservation = take(limiter, 10**9, tpm, tokens).reservation
    if reservation is None:
        return False
    limiter.settle(reservation, tokens=0, sent=False)
    return True


def test_grants_up_to_rpm_and_no_more(limiter: MemoryLimiter) -> None:
    assert [take(limiter, 3).reservation is not None for _ in range(5)] == [True, True, True, False, False]


def test_grants_up_to_tpm_and_no_more(limiter: MemoryLimiter) -> None:
    assert take(limiter, 9, tpm=100, tokens=60) == Decision(Reservation("p", 1000, 60))
    assert take(limiter, 9, tpm=100, tokens=41).reservation is None
    assert take(limiter, 9, tpm=100, tokens=40) == Decision(Reservation("p", 1000, 40))
    assert take(limiter, 9, tpm=100, tokens=1).reservation is None
    assert take(limiter, 9, tpm=100, tokens=0).reservation is not None


def test_refusal_takes_nothing(limiter: MemoryLimiter) -> None:
    taken(limiter, 3, tpm=100, tokens=90)
    for _ in range(5):
        assert take(limiter, 3, tpm=100, tokens=20).reservation is None
    taken(limiter, 3, tpm=100, tokens=5)
    taken(limiter, 3, tpm=100, tokens=5)
    for _ in range(5):
        assert take(limiter, 3, tpm=1000, tokens=20).reservation is None
    taken(limiter, 4, tpm=120, tokens=20)


def test_larger_than_the_whole_limit_exceeds(limiter: MemoryLimiter) -> None:
    assert take(limiter, 1, tpm=100, tokens=101) == Decision(None, 0.0, exceeds=True)
    assert take(limiter, 0, tpm=100, tokens=1) == Decision(None, 0.0, exceeds=True)
    decision = take(limiter, 1, tpm=100, tokens=100)
    assert decision.reservation == Reservation("p", 1000, 100)
    assert decision.exceeds is False
    refused = take(limiter, 1, tpm=100, tokens=100)
    assert refused.reservation is None
    assert refused.exceeds is False
    assert take(limiter, 1, tpm=100, tokens=101).exceeds is True


def test_negative_tokens_take_a_request_and_no_tokens(limiter: MemoryLimiter) -> None:
    assert take(limiter, 2, tpm=10, tokens=-5) == Decision(Reservation("p", 1000, 0))
    assert take(limiter, 2, tpm=10, tokens=11).exceeds is True
    taken(limiter, 2, tpm=10, tokens=10)
    assert take(limiter, 2, tpm=10).reservation is None


@pytest.mark.parametrize("at", [1000.0, 1000.5, 1000.999])
def test_second_leaves_the_window_after_61_seconds(limiter: MemoryLimiter, clock: Clock, at: float) -> None:
    clock.now = at
    taken(limiter, 1, tpm=10, tokens=10)
    clock.now = 1060.999
    assert take(limiter, 1, tpm=10, tokens=10).reservation is None
    assert take(limiter, 2, tpm=10, tokens=1).reservation is None
    clock.now = 1061.0
    assert take(limiter, 1, tpm=10, tokens=10) == Decision(Reservation("p", 1061, 10))


@pytest.mark.parametrize("gap", [61, 62, 121, 122, 123, 10_000])
def test_long_silence_empties_the_window(limiter: MemoryLimiter, clock: Clock, gap: int) -> None:
    for second in range(61):
        clock.now = 1000.0 + second
        taken(limiter, 61, tpm=61, tokens=1)
    assert take(limiter, 61, tpm=61, tokens=1).reservation is None
    clock.now = 1060.0 + gap
    for _ in range(61):
        taken(limiter, 61, tpm=61, tokens=1)
    assert take(limiter, 61, tpm=62, tokens=1).reservation is None
    assert take(limiter, 62, tpm=61, tokens=1).reservation is None


def test_one_bucket_leaves_at_a_time(limiter: MemoryLimiter, clock: Clock) -> None:
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


def test_retry_after_waits_for_the_bucket_that_makes_room(limiter: MemoryLimiter, clock: Clock) -> None:
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


def test_retry_after_of_a_full_present_second(limiter: MemoryLimiter, clock: Clock) -> None:
    clock.now = 1000.75
    taken(limiter, 1)
    assert take(limiter, 1) == Decision(None, 60.25)
    clock.now = 1060.75
    assert take(limiter, 1) == Decision(None, 0.25)


def test_limits_are_those_of_the_call(limiter: MemoryLimiter) -> None:
    taken(limiter, 2, tpm=50, tokens=50)
    assert take(limiter, 1, tpm=100, tokens=10).reservation is None
    taken(limiter, 2, tpm=100, tokens=50)
    assert take(limiter, 2, tpm=200, tokens=1).reservation is None
    taken(limiter, 3, tpm=101, tokens=1)
    assert take(limiter, 1, tpm=1, tokens=1) == Decision(None, 61.0)


def test_providers_do_not_share(limiter: MemoryLimiter) -> None:
    taken(limiter, 1, provider="a")
    taken(limiter, 1, provider="b")
    assert take(limiter, 1, provider="a").reservation is None
    limiter.forget("a")
    taken(limiter, 1, provider="a")
    assert take(limiter, 1, provider="b").reservation is None


def test_settle_down_gives_tokens_back_and_keeps_the_request(limiter: MemoryLimiter) -> None:
    reservation = taken(limiter, 2, tpm=100, tokens=100)
    limiter.settle(reservation, tokens=30)
    assert take(limiter, 2, tpm=100, tokens=71).reservation is None
    taken(limiter, 2, tpm=100, tokens=70)
    assert take(limiter, 2, tpm=200, tokens=1).reservation is None


def test_settle_up_counts_more_than_was_reserved(limiter: MemoryLimiter, clock: Clock) -> None:
    reservation = taken(limiter, 9, tpm=100, tokens=10)
    limiter.settle(reservation, tokens=120)
    assert take(limiter, 9, tpm=100, tokens=0) == Decision(None, 61.0)
    assert free(limiter, 130) == 10
    clock.now = 1061.0
    assert free(limiter, 100) == 100


def test_settle_unsent_gives_both_back(limiter: MemoryLimiter) -> None:
    limiter.settle(taken(limiter, 1, tpm=100, tokens=100), tokens=0, sent=False)
    limiter.settle(taken(limiter, 1, tpm=100, tokens=100), tokens=0, sent=True)
    assert take(limiter, 1, tpm=100, tokens=1).reservation is None
    taken(limiter, 2, tpm=100, tokens=100)


def test_settle_in_the_bucket_of_the_reservation(limiter: MemoryLimiter, clock: Clock) -> None:
    first = taken(limiter, 9, tpm=100, tokens=60)
    clock.now = 1030.0
    taken(limiter, 9, tpm=100, tokens=40)
    limiter.settle(first, tokens=10)
    assert free(limiter, 100) == 50
    clock.now = 1061.0
    assert free(limiter, 100) == 60


def test_settle_in_the_last_second_of_the_window_and_after_it(limiter: MemoryLimiter, clock: Clock) -> None:
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


def test_settle_of_no_known_second_does_nothing(limiter: MemoryLimiter) -> None:
    taken(limiter, 1, tpm=100, tokens=100)
    for bucket in (1000 - 61, 1001, 1061, -1):
        limiter.settle(Reservation("p", bucket, 100), tokens=0, sent=False)
    limiter.settle(Reservation("unknown", 1000, 100), tokens=0, sent=False)
    assert take(limiter, 1, tpm=200, tokens=0).reservation is None
    assert free(limiter, 100) == 0
    limiter.settle(Reservation("p", 1000, 100), tokens=0, sent=False)
    taken(limiter, 1, tpm=100, tokens=100)


def test_settling_twice_leaves_no_count_below_zero(limiter: MemoryLimiter, clock: Clock) -> None:
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


def test_settle_to_less_than_nothing_is_nothing(limiter: MemoryLimiter) -> None:
    reservation = taken(limiter, 9, tpm=100, tokens=20)
    taken(limiter, 9, tpm=100, tokens=50)
    limiter.settle(reservation, tokens=-1000)
    assert free(limiter, 100) == 50


def test_settle_after_forget_does_nothing(limiter: MemoryLimiter) -> None:
    reservation = taken(limiter, 1)
    limiter.forget("p")
    limiter.forget("p")
    limiter.settle(reservation, tokens=5)
    taken(limiter, 1)


@pytest.mark.parametrize(
    ("age", "leaves"),
    [(0.0, 1061), (-5.0, 1061), (0.25, 1061), (0.75, 1061), (1.5, 1061), (1.75, 1060), (10.0, 1052), (60.0, 1002)],
)
def test_refill_counts_in_the_second_after_it_began(
    limiter: MemoryLimiter, clock: Clock, age: float, leaves: int
) -> None:
    clock.now = 1000.5
    limiter.refill("p", age, 7)
    assert take(limiter, 1, tpm=10, tokens=0) == Decision(None, leaves - 1000.5)
    assert free(limiter, 10) == 3
    clock.now = leaves - 0.001
    assert take(limiter, 1).reservation is None
    clock.now = leaves
    assert free(limiter, 10) == 10


def test_refill_of_the_oldest_second_and_of_older_ones(limiter: MemoryLimiter, clock: Clock) -> None:
    clock.now = 1000.5
    limiter.refill("p", 61.5, 7)
    assert free(limiter, 10) == 3
    limiter.refill("p", 61.75, 2)
    limiter.refill("p", 1000.0, 2)
    assert free(limiter, 10) == 3
    assert take(limiter, 1) == Decision(None, 0.5)
    clock.now = 1001.0
    assert free(limiter, 10) == 10


def test_refill_adds_up_and_never_below_zero(limiter: MemoryLimiter) -> None:
    for tokens in (3, 4, -9):
        limiter.refill("p", 5.0, tokens)
    assert free(limiter, 10) == 3
    assert take(limiter, 3).reservation is None
    taken(limiter, 4)


def test_refilled_calls_leave_as_they_came(limiter: MemoryLimiter, clock: Clock) -> None:
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


def test_clock_that_steps_back_stands_still_and_goes_on(limiter: MemoryLimiter, clock: Clock) -> None:
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


class Calls:
    """The rule in its plainest form: every call with its second, summed over the last 61 seconds."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def sums(self, second: int) -> tuple[int, int]:
        counted = [call for call in self.calls if second - 60 <= call[0] <= second]
        return sum(call[2] for call in counted), sum(call[1] for call in counted)

    def fit(self, second: int, rpm: int, tpm: int, tokens: int) -> bool:
        requests, sum_ = self.sums(second)
        return requests + 1 <= rpm and sum_ + tokens <= tpm

    def wait(self, now: float, rpm: int, tpm: int, tokens: int) -> float:
        second = int(now)
        return next(s - now for s in range(second + 1, second + 62) if self.fit(s, rpm, tpm, tokens))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 30), st.integers(0, 40)),
        st.tuples(st.just("settle"), st.integers(0, 99), st.integers(0, 60)),
        st.tuples(st.just("unsent"), st.integers(0, 99), st.just(0)),
        st.tuples(st.just("refill"), st.integers(-10, 260), st.integers(0, 20)),
        st.tuples(st.just("limits"), st.integers(1, 6), st.integers(1, 80)),
        st.tuples(st.just("pass"), st.integers(1, 300), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_agrees_with_the_plain_rule(sequence: list[tuple[str, int, int]]) -> None:
    clock, calls = Clock(), Calls()
    limiter = MemoryLimiter(clock)
    open_calls: list[tuple[Reservation, list[int]]] = []
    rpm, tpm = 3, 50
    for what, number, tokens in sequence:
        second = int(clock.now)
        if what == "take":
            decision = take(limiter, rpm, tpm, tokens)
            if tokens > tpm:
                assert decision == Decision(exceeds=True)
            elif calls.fit(second, rpm, tpm, tokens):
                assert decision == Decision(Reservation("p", second, tokens))
                assert decision.reservation is not None
                calls.calls.append([second, tokens, 1])
                open_calls.append((decision.reservation, calls.calls[-1]))
            else:
                assert decision == Decision(None, calls.wait(clock.now, rpm, tpm, tokens))
        elif what in ("settle", "unsent") and open_calls:
            reservation, call = open_calls.pop(number % len(open_calls))
            limiter.settle(reservation, tokens=tokens, sent=what == "settle")
            call[1:] = [tokens, 1 if what == "settle" else 0]
        elif what == "refill":
            limiter.refill("p", number / 4, tokens)
            calls.calls.append([min(int(clock.now - number / 4) + 1, second), tokens, 1])
        elif what == "limits":
            rpm, tpm = number, tokens
        elif what == "pass":
            clock.now += number / 4


@settings(max_examples=100, deadline=None)
@given(
    rpm=st.integers(1, 8),
    tpm=st.integers(1, 100),
    arrivals=st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 60), st.integers(0, 60)), max_size=80),
)
def test_never_above_the_limit_in_any_60_seconds(rpm: int, tpm: int, arrivals: list[tuple[int, int, int]]) -> None:
    clock = Clock()
    limiter = MemoryLimiter(clock)
    granted: list[tuple[float, int]] = []
    for wait_ms, tokens, actual in arrivals:
        clock.now += wait_ms / 1000
        reservation = take(limiter, rpm, tpm, tokens).reservation
        if reservation is not None:
            settled = min(actual, tokens)
            limiter.settle(reservation, tokens=settled)
            granted.append((clock.now, settled))
    for start, _ in granted:
        inside = [tokens for at, tokens in granted if start <= at <= start + 60]
        assert len(inside) <= rpm
        assert sum(inside) <= tpm


@settings(max_examples=100, deadline=None)
@given(
    taken_at=st.lists(st.tuples(st.integers(0, 15_000), st.integers(0, 30)), min_size=1, max_size=20),
    tokens=st.integers(0, 30),
)
def test_fits_exactly_when_retry_after_says(taken_at: list[tuple[int, int]], tokens: int) -> None:
    clock = Clock()
    limiter = MemoryLimiter(clock)
    for wait_ms, more in taken_at:
        clock.now += wait_ms / 1024
        take(limiter, 4, 40, more)
    decision = take(limiter, 4, 40, tokens)
    if decision.reservation is None:
        assert 0 < decision.retry_after_s <= 61
        clock.now += decision.retry_after_s - 1 / 1024
        assert take(limiter, 4, 40, tokens).reservation is None
        clock.now += 1 / 1024
        assert take(limiter, 4, 40, tokens).reservation is not None


@pytest.mark.parametrize("rpm", [1, 60, 500])
def test_steady_overload_uses_the_whole_limit(limiter: MemoryLimiter, clock: Clock, rpm: int) -> None:
    granted = 0
    for _ in range(10 * 61 * 16):
        granted += take(limiter, rpm).reservation is not None
        clock.now += 1 / 16
    assert 10 * rpm * 0.97 <= granted <= 10 * rpm
