"""The overload benchmark computes what a refusal costs and what that leaves, and reads the log of its generator."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.h2load import read_log
from benchmarks.jobs import OpenLoad
from benchmarks.overload import Measured, Watched, rows

LOAD = OpenLoad(
    requests=5_000,
    failed=0,
    p50_us=20_000.0,
    p90_us=30_000.0,
    p99_us=40_000.0,
    p999_us=50_000.0,
    max_us=60_000.0,
    lag_p99_us=1_500.0,
    connections=64,
    refused=4_100,
    refused_p99_us=30_000.0,
    in_time=900,
)
FOUND = Measured(
    seconds=1.0,
    factor=5.0,
    peak=1_000.0,
    request_s=400e-6,
    load=LOAD,
    overload_s=900 * 400e-6 + 4_100 * 10e-6,
    idle_mb=100.0,
    seen=Watched([1.0, 2.0, 90.0], 0, 120.0),
    nginx_refusal_s=8e-6,
)


def test_a_refusal_costs_what_overload_took_beyond_the_served_requests() -> None:
    assert FOUND.refusal_s == pytest.approx(10e-6)


def test_the_share_left_is_that_at_which_served_and_refused_take_the_time_of_the_peak() -> None:
    for refusal_s in (5e-6, 10e-6, 40e-6):
        share = FOUND.share_left(refusal_s)
        used = share * FOUND.request_s + (FOUND.factor - share) * refusal_s
        assert used == pytest.approx(FOUND.request_s)
    assert FOUND.share_left(100e-6) == 0.0, "refusing alone takes longer"


def test_the_table_sets_the_figures_against_what_they_must_be() -> None:
    table = {name: (value, must) for name, value, must in rows(FOUND)}
    assert table["served, to the peak"] == ("90%", "≥ 90 %")
    assert table["refused with 503, p99"] == ("30 ms (4,100)", "≤ 50 ms")
    assert table["health, p50 / p99"] == ("2 / 90 ms (3 asked, 0 failed)", "≤ 100 ms")
    assert table["share of the peak that this leaves"][0] == "90%"
    assert table["the generator's own delay, p99"] == ("1.5 ms", "≤ 10 ms")


def test_a_generator_that_sends_less_than_is_due_or_sends_late_is_late() -> None:
    half = msgspec.structs.replace(LOAD, requests=2_500)
    lagging = msgspec.structs.replace(LOAD, lag_p99_us=11_000.0)

    assert not FOUND.is_late
    assert msgspec.structs.replace(FOUND, load=half).is_late
    assert msgspec.structs.replace(FOUND, load=lagging).is_late


LOG = ["1795972528000001\t200\t900", "1795972528000002\t503\t40", "1795972528000003\t-1\t7"]
SUMMARY = "requests: 5 total, %d started, 3 done, 2 succeeded, 1 failed, 0 errored, 0 timeout"


def test_a_log_of_h2load_has_served_refused_and_failed_requests() -> None:
    load = read_log(LOG, SUMMARY % 5, clients=2, may_refuse=True)
    assert (load.requests, load.in_time, load.refused, load.failed) == (3, 1, 1, 1)
    assert (load.p99_us, load.refused_p99_us, load.failure) == (900.0, 40.0, "status -1")
    assert read_log(LOG, SUMMARY % 5, clients=2, may_refuse=False).failed == 2


def test_requests_that_h2load_started_and_that_no_line_tells_of_have_failed() -> None:
    load = read_log(LOG[:1], SUMMARY % 9, clients=2, may_refuse=True)
    assert (load.requests, load.failed, load.failure) == (5, 4, "no answer came")
    assert read_log([], SUMMARY % 3, clients=2, may_refuse=True).failure == "no answer came"
