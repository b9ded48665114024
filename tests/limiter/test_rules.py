"""Contract of a limiter: compared with a naive implementation of the rule, over random sequences of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.limiter.base import Decision, Limiter, Reservation
from tests.examples import examples
from tests.limiter.conftest import Backend
from tests.limiter.taking import Clock, fits, place, take


class Calls:
    """The naive implementation: every call with its second, summed over the last 61 seconds."""

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


@examples(5)
@given(steps)
def test_it_agrees_with_the_naive_implementation(backend: Backend, sequence: list[tuple[str, int, int]]) -> None:
    clock, calls = Clock(), Calls()
    limiter = backend(clock)
    open_calls: list[tuple[Reservation, list[int]]] = []
    rpm, tpm = 3, 50
    for what, number, tokens in sequence:
        second = int(clock.now)
        if what == "take":
            decision = take(limiter, rpm, tpm, tokens)
            if tokens > tpm:
                assert decision == Decision(exceeds=True)
            elif calls.fit(second, rpm, tpm, tokens):
                assert place(decision) == (second, tokens)
                assert decision.reservation is not None
                limiter.settle(decision.reservation, tokens=tokens)
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


@examples(2)
@given(
    rpm=st.integers(1, 8),
    tpm=st.integers(1, 100),
    arrivals=st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 60), st.integers(0, 60)), max_size=80),
)
def test_no_60_seconds_exceed_the_limit(
    backend: Backend, rpm: int, tpm: int, arrivals: list[tuple[int, int, int]]
) -> None:
    clock = Clock()
    limiter = backend(clock)
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


@examples(2)
@given(
    taken_at=st.lists(st.tuples(st.integers(0, 15_000), st.integers(0, 30)), min_size=1, max_size=20),
    tokens=st.integers(0, 30),
)
def test_a_refused_request_fits_exactly_after_its_retry_after(
    backend: Backend, taken_at: list[tuple[int, int]], tokens: int
) -> None:
    clock = Clock()
    limiter = backend(clock)
    for wait_ms, more in taken_at:
        clock.now += wait_ms / 1024
        earlier = take(limiter, 4, 40, more).reservation
        if earlier is not None:
            limiter.settle(earlier, tokens=more)
    assert (limiter.next_free("p", 4, 40, tokens) == 0) == fits(limiter, 40, tokens, rpm=4)
    decision = take(limiter, 4, 40, tokens)
    if decision.reservation is None:
        assert 0 < decision.retry_after_s <= 61
        assert limiter.next_free("p", 4, 40, tokens) == decision.retry_after_s
        clock.now += decision.retry_after_s - 1 / 1024
        assert take(limiter, 4, 40, tokens).reservation is None
        clock.now += 1 / 1024
        assert take(limiter, 4, 40, tokens).reservation is not None


@pytest.mark.parametrize("rpm", [1, 60, 500])
def test_steady_overload_uses_the_whole_limit(limiter: Limiter, clock: Clock, rpm: int) -> None:
    granted = 0
    for _ in range(10 * 61 * 16):
        granted += take(limiter, rpm).reservation is not None
        clock.now += 1 / 16
    assert 10 * rpm * 0.97 <= granted <= 10 * rpm
