"""The soak benchmark fails if a part of its load was not there, and measures growth after the warm-up."""

from __future__ import annotations

import pytest

from benchmarks.mischief import LARGE, SMALL, Mischief
from benchmarks.soak import PIECE_S, Samples


@pytest.mark.parametrize("large", [False, True])
def test_each_kind_of_request_must_get_the_answer_that_it_is_for(large: bool) -> None:
    mischief = Mischief(0, large=large)
    expected = SMALL | LARGE if large else SMALL
    assert mischief.failures() == [f"no answer {kind}: {status}" for kind, status in expected.items()]
    mischief.answers.update(f"{kind}: 403" for kind in expected)
    assert len(mischief.failures()) == len(expected), "refused at the door"
    mischief.answers.update(f"{kind}: {status}" for kind, status in expected.items())
    assert mischief.failures() == []


def test_growth_is_that_of_the_least_memory_of_each_piece_after_the_warm_up() -> None:
    samples = Samples()
    for piece, least in ((0, 10.0), (6, 50.0), (12, 50.5), (18, 51.0)):
        for after_s, more in ((0.0, 30.0), (1.0, 0.0), (2.0, 70.0)):
            samples.add("worker 1", piece * PIECE_S + after_s, least + more)
    assert samples.rows(30.0) == [["worker 1", "50.0", "51.0", "+0.50", "≤ 1", "121.0"]]
    assert samples.rows(170.0) == [], "a line needs two points"
