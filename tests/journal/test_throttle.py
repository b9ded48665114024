"""Pauses of a throttled background thread."""

from __future__ import annotations

from llm_gateway.journal.throttle import Throttle


class Time:
    """A clock that only `work` and sleeping move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_a_thread_sleeps_after_each_stretch_of_work_and_not_within_one() -> None:
    time = Time()
    throttle = Throttle(work_s=4.0, rest_s=2.0, clock=lambda: time.now, sleep=time.sleep)

    for _ in range(12):
        throttle()
        time.now += 1.0

    assert time.slept == [2.0, 2.0, 2.0]
