from __future__ import annotations

import time

from llm_gateway.journal.pace import Pace


def test_it_sleeps_when_work_was_long_enough_and_only_then() -> None:
    pace = Pace(work_s=60, rest_s=0.2)
    began = time.monotonic()
    for _ in range(1000):
        pace()  # the first is due at once
    assert 0.2 <= time.monotonic() - began < 0.4


def test_it_sleeps_again_after_each_stretch_of_work() -> None:
    pace = Pace(work_s=0, rest_s=0.05)
    began = time.monotonic()
    for _ in range(4):
        pace()
    assert time.monotonic() - began >= 0.2
