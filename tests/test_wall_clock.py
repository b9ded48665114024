"""The time of day, which follows the clock of the database's server."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from llm_gateway.wall_clock import TOLERATED_MS, WallClock

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


def clock() -> WallClock:
    return WallClock(lambda: NOW_MS * 1_000_000)


@pytest.mark.parametrize("by_ms", [HOUR_MS, -HOUR_MS, TOLERATED_MS + 1, -TOLERATED_MS - 1])
def test_a_clock_that_is_wrong_follows_the_other_one_and_back(by_ms: int) -> None:
    wall = clock()
    assert wall.compare(NOW_MS + by_ms, NOW_MS, NOW_MS)
    assert (wall.now_ms(), wall.offset_ms) == (NOW_MS + by_ms, by_ms)
    assert wall.time_ns() == (NOW_MS + by_ms) * 1_000_000
    assert wall.now() == datetime.fromtimestamp((NOW_MS + by_ms) / 1000, UTC)
    assert not wall.compare(NOW_MS + by_ms, wall.now_ms(), wall.now_ms())
    assert wall.compare(NOW_MS, wall.now_ms(), wall.now_ms()), "the system's clock has been set"
    assert wall.now_ms() == NOW_MS


@pytest.mark.parametrize("by_ms", [0, TOLERATED_MS, -TOLERATED_MS])
def test_a_clock_that_may_be_right_is_left_alone(by_ms: int) -> None:
    wall = clock()
    assert not wall.compare(NOW_MS + by_ms, NOW_MS, NOW_MS)
    assert wall.now_ms() == NOW_MS


def test_a_slow_answer_corrects_only_what_is_certainly_wrong() -> None:
    """The other clock was read at any moment between question and answer."""
    wall, slow_ms = clock(), 20_000
    assert not wall.compare(NOW_MS, NOW_MS, NOW_MS + slow_ms)
    assert not wall.compare(NOW_MS + slow_ms, NOW_MS, NOW_MS + slow_ms)
    assert wall.compare(NOW_MS + HOUR_MS, NOW_MS, NOW_MS + slow_ms)
    assert abs(wall.offset_ms - HOUR_MS) <= slow_ms / 2
