"""Calls of the last minute in the limits that workers share: they are counted once, when the gateway starts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from llm_gateway.control.recent_calls import fill_shared_limits
from llm_gateway.domain.usage import SentAttempt
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.limiter import open_limiter
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
