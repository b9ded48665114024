"""Rate limits in simulation: the real failover, lines, gate and limiter in virtual time, beside simpler policies.

`resting` refuses everybody after each 429 until its Retry-After is over; `retrying` lets each request retry by itself.
A is a flooding customer (9.5 requests a second), B a quiet one (0.5). Per cent of the requests that were answered, and
calls a second that the vendor refused; 4 seeds of 60 s, latency 0.3-1 s, deadline 30 s, Retry-After 1, measured
2026-11-27 (`retrying` goes on for 30 s after the last request, so it is answered more than the limit gives in 60 s):

                                            resting             retrying              gateway
                                        all   B  refused    all   B  refused     all    B  refused
    15 % random 429, A alone at 8/s      42        0.6      100        1.4       100         1.4
    limit 5/s                            31  34    0.9       67  68   49          50   100    1.0
    limit 5/s, without Retry-After        5   4    0.1       67  68   48          50   100    1.0
    limit 5/s, refused calls count       31  34    0.9        1   1   80          39   100    1.3
    the same without Retry-After          5   4    0.1        1   0   77          37   100    1.2
    5/s, burst of 60, told by headers    59  57    0.5       76  73   39          67   100    0.0

Own limit of 60 requests a minute, A at 10/s and B at 0.2/s, 10 minutes, 3 seeds: B is answered 91-94 %, 98.7 % of the
limit is used. The factor by which a 429 lowers a reopening gate's rate, `BACKOFF`: (all, refused/s) at a limit of 5/s
and where refused calls count: 0.5: 49, 0.8 and 38, 1.1; 0.7: 49, 1.0 and 38, 1.3; 0.8: 50, 1.4 and 36, 1.5;
0.9: 53, 3.1 and 26, 2.1.

The tests assert the shape of these figures, not the figures.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from typing import Any

import pytest

from tests.virtual_time import run_virtually
from tests.worker.pipeline.simulation import (
    Outcome,
    Policy,
    SimulatedGateway,
    Vendor,
    ask_for,
    gateway,
    resting,
    retrying,
    simulate,
)

FLOOD = {"A": 9.5, "B": 0.5}
SECONDS = 40.0


def outcome(policy: Policy, customers: dict[str, float] = FLOOD, **vendor: Any) -> Outcome:
    return simulate(policy, customers, seed=1, seconds=SECONDS, **vendor)


def test_15_percent_of_random_429s_are_waited_out() -> None:
    ours = outcome(gateway, {"A": 8.0}, share=0.15)

    assert ours.percent() >= 98
    assert ours.percent() >= outcome(resting, {"A": 8.0}, share=0.15).percent() + 30
    assert ours.percent() >= outcome(retrying, {"A": 8.0}, share=0.15).percent() - 2
    assert ours.refused <= 0.25 * len(ours.accepted), "a retry is made for a 429 only"


@pytest.mark.parametrize("retry_after_s", [1.0, None])
def test_a_vendors_limit_is_used_and_shared_fairly(retry_after_s: float | None) -> None:
    ours = outcome(gateway, per_s=5, retry_after_s=retry_after_s)
    others = outcome(retrying, per_s=5, retry_after_s=retry_after_s)
    rests = outcome(resting, per_s=5, retry_after_s=retry_after_s)

    assert ours.percent() >= 40, "half of it is all that the limit gives"
    assert ours.percent("B") >= 90
    assert ours.percent("B") >= max(others.percent("B"), rests.percent("B")) + 10
    assert ours.percent() >= rests.percent() + 10
    assert ours.refused <= 0.1 * others.refused, "the vendor is not flooded"


@pytest.mark.parametrize("retry_after_s", [1.0, None])
def test_where_refused_calls_count_waiting_still_wins(retry_after_s: float | None) -> None:
    ours = outcome(gateway, per_s=5, counts_refused=True, retry_after_s=retry_after_s)
    others = outcome(retrying, per_s=5, counts_refused=True, retry_after_s=retry_after_s)
    rests = outcome(resting, per_s=5, counts_refused=True, retry_after_s=retry_after_s)

    assert others.percent() <= 5, "retries keep the vendor's window full"
    assert ours.percent() >= rests.percent()
    assert ours.percent() >= 30
    assert ours.percent("B") >= 90


@pytest.mark.parametrize("vendor", [{"share": 0.3}, {"share": 0.5}, {"per_s": 5}], ids=str)
def test_a_request_waits_out_its_own_retry_after_though_the_line_moves_on(vendor: dict[str, Any]) -> None:
    ours = outcome(gateway, {"A": 8.0}, **vendor)

    assert ours.refused > SECONDS / 2
    assert ours.too_soon == 0


@pytest.mark.parametrize("burst", [15, 60])
def test_a_limit_that_the_headers_tell_is_never_run_into(burst: int) -> None:
    ours = outcome(gateway, per_s=5, burst=burst)

    assert ours.refused == 0
    assert len(ours.accepted) >= 0.95 * 5 * SECONDS
    assert ours.percent("B") >= 90


def own_limit(customers: dict[str, float], minutes: int, seed: int, **limits: Any) -> tuple[Outcome, list[float]]:
    """Simulate customers at the gateway's own limit. Returns the outcome, and the seconds at which calls were made."""

    async def main() -> tuple[Outcome, list[float]]:
        chance = random.Random(seed)
        vendor = Vendor(chance)
        simulated = SimulatedGateway(vendor, chance, **limits)
        start = asyncio.get_running_loop().time()
        result = await ask_for(minutes * 60.0, customers, simulated.serve, chance)
        return result, [at - start for at in vendor.accepted]

    return run_virtually(main())


def most_in_60_s(times: list[float]) -> int:
    return max(bisect_right(times, at + 60) - index for index, at in enumerate(times))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_quiet_customer_is_served_beside_a_flooding_one_at_60_requests_a_minute(seed: int) -> None:
    minutes = 10
    result, times = own_limit({"A": 10.0, "B": 0.2}, minutes, seed, rate_limit_rpm=60)

    assert result.percent("B") >= 80
    assert len([at for at in times if at < minutes * 60]) >= 0.96 * 60 * minutes
    assert most_in_60_s(times) <= 60


def test_a_lone_flooding_customer_uses_the_whole_limit() -> None:
    _, times = own_limit({"A": 5.0}, 5, seed=0, rate_limit_rpm=60)

    assert len([at for at in times if at < 300]) >= 0.97 * 60 * 5
    assert most_in_60_s(times) <= 60


def test_a_token_limit_is_shared_fairly_too() -> None:
    """Requests reserve 118 tokens and use 50."""
    result, times = own_limit({"A": 10.0, "B": 0.2}, 5, seed=0, rate_limit_rpm=100_000, rate_limit_tpm=6_000)

    assert result.percent("B") >= 80
    assert len([at for at in times if at < 300]) * 50 >= 0.9 * 6_000 * 5
    assert most_in_60_s(times) * 50 <= 6_000
