"""Rate-limit gate: 429s that close it, and its wait, with a clock that tests set."""

from __future__ import annotations

import pytest

from llm_gateway.worker.pipeline.availability.rate_limit_gate import RateLimitGate
from tests.worker.pipeline.breaking import Clock


@pytest.fixture
def gate(clock: Clock) -> RateLimitGate:
    return RateLimitGate(clock)


def limited(gate: RateLimitGate, times: int, said: float | None = 7.0, answered: int = 0) -> list[str | None]:
    return [gate.limited(said, answered) for _ in range(times)]


class TestRateLimitGate:
    def test_5_consecutive_429s_close_the_gate_for_the_last_retry_after(
        self, gate: RateLimitGate, clock: Clock
    ) -> None:
        assert limited(gate, 5) == [None] * 4 + ["5 answers 429 in a row"]
        assert (gate.state, gate.closed_for_s(), gate.wait_s(1.0)) == ("closed", 7.0, 7.0)
        clock.now += 7
        assert gate.closed_for_s() == 0

    def test_a_success_in_between_resets_the_count(self, gate: RateLimitGate) -> None:
        for _ in range(3):
            assert limited(gate, 4, answered=20) == [None] * 4
            gate.accepted()
        assert gate.is_open

    @pytest.mark.parametrize(("answered", "closes"), [(5, True), (6, False), (4, False)])
    def test_429s_for_half_of_at_least_10_calls_close_the_gate(
        self, gate: RateLimitGate, answered: int, closes: bool
    ) -> None:
        for _ in range(4):
            assert limited(gate, 1, answered=answered) == [None]
            gate.accepted()
        assert limited(gate, 1, answered=answered) == ["5 of 10 calls in 10 s answered 429" if closes else None]

    def test_429s_older_than_10_seconds_are_not_counted(self, gate: RateLimitGate, clock: Clock) -> None:
        for _ in range(4):
            assert limited(gate, 1, answered=5) == [None]
            gate.accepted()
        clock.now += 10
        assert limited(gate, 4, answered=5) == [None] * 4

    def test_the_next_429_closes_it_again_unless_a_call_succeeded_in_between(
        self, gate: RateLimitGate, clock: Clock
    ) -> None:
        limited(gate, 5)
        clock.now += 7
        assert gate.admit() == 0
        assert limited(gate, 1) == ["6 answers 429 in a row"]
        clock.now += 7
        assert gate.admit() == 0
        gate.accepted()
        assert limited(gate, 4, answered=20) == [None] * 4

    @pytest.mark.parametrize("said", [None, 0.0, -1.0, float("nan")])
    def test_without_retry_after_the_wait_grows_from_half_a_second_to_8(
        self, gate: RateLimitGate, clock: Clock, said: float | None
    ) -> None:
        limited(gate, 4, said)
        waits = []
        for _ in range(6):
            limited(gate, 1, said)
            waits.append(gate.closed_for_s())
            clock.now += waits[-1]
            assert gate.admit() == 0
        assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
        gate.accepted()
        limited(gate, 5, said)
        assert gate.closed_for_s() == 0.5

    def test_no_wait_is_longer_than_2_minutes(self, gate: RateLimitGate) -> None:
        assert gate.wait_s(float("inf")) == 120.0
        limited(gate, 5, 3600.0)
        assert (gate.closed_for_s(), gate.wait_s(1.0)) == (120.0, 120.0)

    def test_late_429s_lengthen_the_wait_but_do_not_close_it_again(self, gate: RateLimitGate, clock: Clock) -> None:
        limited(gate, 5)
        assert limited(gate, 3, 5.0) == [None] * 3
        assert gate.closed_for_s() == 7.0
        assert limited(gate, 1, 9.0) == [None]
        assert gate.closed_for_s() == 9.0
        assert limited(gate, 9, None) == [None] * 9
        assert gate.closed_for_s() == 9.0

    @pytest.mark.parametrize(
        ("said", "told"), [(None, 1.0), (0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (0.3, 0.3), (500.0, 120.0)]
    )
    def test_the_client_of_a_single_429_gets_its_retry_after(
        self, gate: RateLimitGate, said: float | None, told: float
    ) -> None:
        assert limited(gate, 1, said) == [None]
        assert gate.wait_s(said) == told


def counts_served(gate: RateLimitGate) -> bool:
    return gate.counts_served


def closed(gate: RateLimitGate, clock: Clock, per_s: float = 5.0) -> None:
    """Close the gate for a second, after calls that were accepted at this rate, and let the second pass."""
    for _ in range(5):
        gate.limited(1.0, 0, per_s)
    assert gate.state == "closed"
    clock.now += 1.0


def passed(gate: RateLimitGate, clock: Clock, seconds: float) -> int:
    """Return how many calls pass the gate in this time if there is always one that wants to."""
    count, end = 0, clock.now + seconds
    while clock.now < end:
        wait_s = gate.admit()
        count += wait_s == 0
        clock.now += wait_s or 1e-6
    return count


class TestReopening:
    def test_it_reopens_with_one_call_a_second_until_one_is_accepted(self, gate: RateLimitGate, clock: Clock) -> None:
        closed(gate, clock)
        assert (gate.admit(), gate.admit()) == (0, 1.0)
        assert passed(gate, clock, 10.0) == 9

    def test_an_accepted_call_admits_others_at_the_earlier_rate(self, gate: RateLimitGate, clock: Clock) -> None:
        closed(gate, clock)
        assert gate.admit() == 0
        clock.now += 0.3
        gate.accepted()
        assert gate.admit() == pytest.approx(0.2)
        assert passed(gate, clock, 1.0) in (4, 5)

    def test_the_rate_grows_by_a_third_each_second(self, gate: RateLimitGate, clock: Clock) -> None:
        closed(gate, clock, per_s=30.0)
        assert gate.admit() == 0
        gate.accepted()
        first, second, third = (passed(gate, clock, 1.0) for _ in range(3))
        assert second == pytest.approx(first * 4 / 3, rel=0.06)
        assert third == pytest.approx(second * 4 / 3, rel=0.06)

    def test_a_429_lowers_the_rate_but_not_below_that_of_accepted_calls(
        self, gate: RateLimitGate, clock: Clock
    ) -> None:
        closed(gate, clock, per_s=100.0)
        assert gate.admit() == 0
        for _ in range(80):
            gate.accepted()
        gate.limited(None, 80)
        assert gate.wait_of_s(11) - gate.wait_of_s(1) == pytest.approx(10 / 80, rel=0.05)
        gate.accepted()
        clock.now += 5.0
        gate.accepted()
        gate.limited(None, 80)
        rate = 80 * (4 / 3) ** 5
        assert gate.wait_of_s(11) - gate.wait_of_s(1) == pytest.approx(10 / (rate * 0.7), rel=0.05)

    def test_a_gate_that_holds_nothing_back_for_10_seconds_is_open(self, gate: RateLimitGate, clock: Clock) -> None:
        closed(gate, clock)
        assert gate.admit() == 0
        gate.accepted()
        assert gate.admit() > 0, "it holds this one back"
        clock.now += 9.9
        assert (gate.admit(), gate.state) == (0, "reopening")
        clock.now += 0.1
        assert (gate.admit(), gate.state, gate.is_open) == (0, "open", True)

    def test_a_quarter_of_429s_keeps_it_reopening(self, gate: RateLimitGate, clock: Clock) -> None:
        closed(gate, clock)
        assert gate.admit() == 0
        clock.now += 9.0
        for _ in range(3):
            gate.accepted()
        gate.limited(None, 20)
        gate.accepted()
        clock.now += 1.0
        assert (gate.admit(), gate.state) == (0, "open"), "one of five"

        closed(gate, clock)
        assert gate.admit() == 0
        clock.now += 9.0
        for _ in range(3):
            gate.accepted()
        gate.limited(None, 20)
        clock.now += 1.0
        assert (gate.admit(), gate.state) == (0, "reopening"), "one of four"

    def test_the_wait_of_a_later_call_counts_those_before_it(self, gate: RateLimitGate, clock: Clock) -> None:
        assert gate.wait_of_s(100) == 0
        closed(gate, clock, per_s=4.0)
        clock.now -= 0.5
        assert gate.wait_of_s(1) == 0.5
        assert gate.wait_of_s(9) == 2.5
        clock.now += 0.5
        assert gate.admit() == 0
        gate.accepted()
        assert gate.wait_of_s(5) == pytest.approx(1.25)

    def test_hot_calls_need_not_be_counted_while_no_429_is_near(self, gate: RateLimitGate, clock: Clock) -> None:
        assert not counts_served(gate)
        gate.limited(1.0, 20)
        assert counts_served(gate)
        gate.accepted()
        assert not counts_served(gate)
        closed(gate, clock)
        gate.admit()
        gate.accepted()
        assert counts_served(gate), "it has to know the share of 429s"
