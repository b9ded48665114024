"""The soak benchmark fails if a part of its load was not there, and measures growth after the warm-up."""

from __future__ import annotations

import pytest

from benchmarks.mischief import LARGE, SMALL, Mischief
from benchmarks.soak import Samples


@pytest.mark.parametrize("large", [False, True])
def test_each_kind_of_request_must_get_the_answer_that_it_is_for(large: bool) -> None:
    mischief = Mischief(0, large=large)
    expected = SMALL | LARGE if large else SMALL
    assert mischief.failures() == [f"no answer {kind}: {status}" for kind, status in expected.items()]
    mischief.answers.update(f"{kind}: 403" for kind in expected)
    assert len(mischief.failures()) == len(expected), "refused at the door"
    mischief.answers.update(f"{kind}: {status}" for kind, status in expected.items())
    assert mischief.failures() == []


def test_growth_is_counted_after_the_warm_up() -> None:
    samples = Samples({"worker 1": [0.0, 60.0, 120.0, 180.0]}, {"worker 1": [10.0, 50.0, 50.5, 51.0]})
    assert samples.rows(30.0) == [["worker 1", "50.0", "51.0", "+0.50", "≤ 1"]]
    assert samples.rows(170.0) == [], "a line needs two points"
