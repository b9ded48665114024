"""Counts of failed authentications by address: bounded, and added up over workers once."""

from __future__ import annotations

from itertools import count

from llm_gateway.domain.metric_families import gauge
from llm_gateway.telemetry.failed_authentications import (
    KEPT,
    MOST_ADDRESSES,
    OTHER,
    UNKNOWN,
    FailedAuthentications,
    FailedCount,
    FailedTotals,
)


def test_addresses_beyond_the_first_1024_are_counted_together() -> None:
    failed = FailedAuthentications(clock=lambda: 7.0)
    for number in range(MOST_ADDRESSES + 500):
        failed.count(f"2001:db8::{number:x}")
    failed.count(f"2001:db8::{0:x}")
    assert len(failed.counts) == MOST_ADDRESSES + 1
    assert failed.counts[OTHER] == FailedCount(500, 7.0)
    assert failed.counts["2001:db8::0"] == FailedCount(2, 7.0)


def test_reports_of_workers_are_added_up_once() -> None:
    totals, clock = FailedTotals(), count(1)
    first, second = (FailedAuthentications(lambda: float(next(clock))) for _ in range(2))
    own = gauge("own", "Own", 1)
    for _ in range(2):
        first.count("203.0.113.7")
        assert totals.take("worker 1", [own, first.family()]) == [own]
        assert totals.take("worker 1", [first.family()]) == []
    second.count("203.0.113.7")
    second.count(None)
    totals.take("worker 2", [second.family()])
    assert totals.counts() == [("203.0.113.7", FailedCount(3, 3.0)), (UNKNOWN, FailedCount(1, 4.0))]
    totals.count("203.0.113.7")
    assert totals.counts()[0][1].number == 4


def test_the_sum_of_many_workers_is_bounded_too() -> None:
    totals = FailedTotals()
    for worker in range(KEPT + 10):
        failed = FailedAuthentications(lambda: 1.0)
        for number in range(50):
            failed.count(f"{worker}.{number}")
        totals.take(f"worker {worker}", [failed.family()])
    counts = dict(totals.counts())
    assert len(counts) == MOST_ADDRESSES + 1
    assert sum(each.number for each in counts.values()) == (KEPT + 10) * 50
