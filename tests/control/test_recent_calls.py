"""Calls of the last minute in the limits that workers share: they are counted once, when the gateway starts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from llm_gateway.control.recent_calls import WINDOW_MS, fill_key_limits, fill_shared_limits
from llm_gateway.domain.service_key import KeyLimit, KeyRights, ServiceKey
from llm_gateway.domain.usage import KeyCall, SentAttempt
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.limiter import open_key_limiter, open_limiter
from tests.limiter.taking import take


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = create()
    yield descriptor
    os.close(descriptor)


def sent(seconds_ago: float, tokens: int = 10) -> SentAttempt:
    now_ms = time.time_ns() // 1_000_000
    return SentAttempt(provider_id="p", started_ms=now_ms - int(seconds_ago * 1000), limit_tokens=tokens)


def test_calls_of_an_earlier_run_count_for_every_worker(memory: int) -> None:
    fill_shared_limits(memory, lambda: [sent(10), sent(20)])
    worker = open_limiter(HostMemory(memory), 1)
    assert take(worker, rpm=3).reservation is not None
    assert take(open_limiter(HostMemory(memory), 2), rpm=3).reservation is None


def test_calls_older_than_a_minute_do_not_count(memory: int) -> None:
    fill_shared_limits(memory, lambda: [sent(75)])
    assert take(open_limiter(HostMemory(memory), 1), rpm=1).reservation is not None


def test_a_control_process_that_is_started_again_counts_nothing_twice(memory: int) -> None:
    fill_shared_limits(memory, lambda: [sent(10)])
    fill_shared_limits(memory, lambda: [sent(10)])
    assert take(open_limiter(HostMemory(memory), 1), rpm=2).reservation is not None


def test_the_last_requests_of_keys_count_once_for_these_and_their_parents(memory: int) -> None:
    now_ms, since = 1_700_000_000_000, list[int]()
    parent = KeyLimit("parent", rpm=9)
    keys = [
        ServiceKey(b"1", b"", "own", "own", 1, rights=KeyRights(limits=(KeyLimit("own", tpm=100), parent))),
        ServiceKey(b"2", b"", "free", "free", 1),
    ]

    def recent(since_ms: int) -> list[KeyCall]:
        since.append(since_ms)
        calls = [("own", 5, 40), ("own", 20, 30), ("own", 75, 30), ("free", 5, 9), ("deleted", 5, 9)]
        return [KeyCall(name, now_ms - age_s * 1000, tokens) for name, age_s, tokens in calls]

    for _ in range(2):
        fill_key_limits(HostMemory(memory), keys, recent, now_ms)
    limiter = open_key_limiter(HostMemory(memory), 1)
    assert since == [now_ms - WINDOW_MS]
    assert limiter.state("own", 9, 100).remaining_tokens == 30
    assert [limiter.state(name, 9, 100).remaining_requests for name in ("parent", "free", "deleted")] == [7, 9, 9]
