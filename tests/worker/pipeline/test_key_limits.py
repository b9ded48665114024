"""Limits of service keys: counted once a request, for the key and its parents, in one process or over workers."""

from __future__ import annotations

from typing import Any

import pytest

from llm_gateway.domain.service_key import KeyLimit
from llm_gateway.domain.usage import KeyCall, Usage, UsageRecord
from llm_gateway.errors import RateLimited, RequestExceedsLimit
from llm_gateway.host_memory import KEYS, HostMemory, create, release_place
from llm_gateway.host_memory.key_counts import KeyCounts
from llm_gateway.host_memory.workers import WorkerPlace
from llm_gateway.limiter.memory import MemoryLimiter
from llm_gateway.worker.pipeline.key_limits import KeyLimits
from tests.limiter.taking import Clock
from tests.worker.pipeline.fakes import request


def ended(request_id: str, tokens: int = 0) -> UsageRecord:
    labels: dict[str, Any] = {"key_name": "k", "user_id": "u", "service": "s", "task_type": "t", "surface": "generate"}
    return UsageRecord(id=request_id, at_ms=0, instance="i", usage=Usage(input_tokens=tokens), **labels)


async def test_a_request_counts_for_the_key_and_its_parents_or_for_none() -> None:
    limits = KeyLimits(MemoryLimiter(lambda: 100.0))
    own, parent = KeyLimit("own", rpm=5), KeyLimit("parent", rpm=2, max_parallel=2)
    limits.admit(request(id="1"), (own, parent))
    limits.admit(request(id="2"), (own, parent))
    with pytest.raises(RateLimited, match="maximum of 2 requests at once"):
        limits.admit(request(id="3"), (own, parent))
    limits.release(ended("1"))
    with pytest.raises(RateLimited, match="limit of 2 requests in 60 seconds") as refused:
        limits.admit(request(id="3"), (own, parent))
    assert refused.value.retry_after_s is not None
    for number in range(3):  # those that were refused count for neither
        limits.admit(request(id=f"own {number}"), (own,))
    with pytest.raises(RateLimited):
        limits.admit(request(id="last"), (own,))


async def test_tokens_are_reserved_and_corrected_to_those_used() -> None:
    limits = KeyLimits(MemoryLimiter(lambda: 100.0))
    limit = (KeyLimit("own", tpm=1_000),)
    limits.admit(request(id="1", max_tokens=900), limit)
    with pytest.raises(RateLimited, match="1000 tokens"):
        limits.admit(request(id="2", max_tokens=900), limit)
    limits.release(ended("1", tokens=10))
    limits.admit(request(id="2", max_tokens=900), limit)
    with pytest.raises(RequestExceedsLimit, match="more than the 1000"):
        limits.admit(request(id="3", max_tokens=2_000), limit)


def test_requests_of_an_earlier_run_count_until_a_minute_has_passed() -> None:
    limits, now_ms = KeyLimits(MemoryLimiter(lambda: 100.0)), 1_700_000_000_000
    limits.refill([KeyCall("own", now_ms - age_s * 1000, 300) for age_s in (75, 30, 5)], now_ms)
    with pytest.raises(RateLimited):
        limits.admit(request(id="1"), (KeyLimit("own", rpm=2),))
    limits.admit(request(id="2"), (KeyLimit("own", rpm=3),))
    with pytest.raises(RateLimited):
        limits.admit(request(id="3", max_tokens=500), (KeyLimit("own", tpm=1_000),))


def test_workers_share_the_count_of_requests_at_once_and_a_dead_one_holds_none() -> None:
    memory = HostMemory(create())
    one, two = (KeyCounts(memory, WorkerPlace(memory, number)) for number in (1, 2))
    held = [one.enter("k", 3), two.enter("k", 3), two.enter("k", 3)]
    assert all(held)
    assert (one.enter("k", 3), two.enter("k", 3)) == (0, 0)
    assert one.enter("other", 1)
    one.leave(held[0] or 0)
    assert one.enter("k", 3)
    release_place(memory.descriptor, 2)
    assert [bool(one.enter("k", 3)) for _ in range(3)] == [True, True, False]
    again = KeyCounts(memory, WorkerPlace(memory, 2))
    assert again.enter("k", 3) == 0
    assert again.enter("k", 4)


def test_more_keys_than_slots_take_those_of_idle_ones() -> None:
    memory, clock = HostMemory(create()), Clock()
    counts = KeyCounts(memory, WorkerPlace(memory, 1), clock)
    assert counts.enter("busy", 1)
    clock.now += 1
    new = ""
    for number in range(KEYS):
        place = counts.enter(f"key {number}", 1)
        if place is None:
            new = f"key {number}"
            break
        counts.leave(place)
    assert new
    clock.now += 58
    assert counts.enter(new, 1) is None
    clock.now += 2
    assert counts.enter(new, 1)
    assert (counts.enter(new, 1), counts.enter("busy", 1)) == (0, 0)
