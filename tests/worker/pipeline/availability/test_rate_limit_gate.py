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
        assert (gate.is_closed, gate.closed_for_s(), gate.wait_s(1.0)) == (True, 7.0, 7.0)
        clock.now += 7
        assert gate.closed_for_s() == 0

    def test_a_success_in_between_resets_the_count(self, gate: RateLimitGate) -> None:
        for _ in range(3):
            assert limited(gate, 4, answered=20) == [None] * 4
            gate.accepted()
        assert not gate.is_closed

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
        gate.reopen()
        assert limited(gate, 1) == ["6 answers 429 in a row"]
        clock.now += 7
        gate.reopen()
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
            gate.reopen()
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

    @pytest.mark.parametrize(("said", "told"), [(None, 0.5), (0.0, 0.0), (1.5, 1.5), (500.0, 120.0)])
    def test_the_client_of_a_single_429_gets_its_retry_after(
        self, gate: RateLimitGate, said: float | None, told: float
    ) -> None:
        assert limited(gate, 1, said) == [None]
        assert gate.wait_s(said) == told
