"""Caps on requests in flight and bytes of their bodies, of one worker and of all workers of a host."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from llm_gateway.errors import Overloaded
from llm_gateway.gate.in_flight import InFlight
from llm_gateway.host_memory import HostMemory, create, release_place
from llm_gateway.host_memory.workers import BODY_BYTES, REQUESTS, WorkerPlace


@pytest.fixture
def descriptor() -> Iterator[int]:
    opened = create()
    yield opened
    os.close(opened)


def worker(descriptor: int, number: int) -> InFlight:
    return InFlight(3, 100, place=WorkerPlace(HostMemory(descriptor), number))


def refusal(hold: Callable[[], object]) -> tuple[int, float | None, str]:
    """Return status, Retry-After and message of the refusal."""
    with pytest.raises(Overloaded) as raised:
        hold()
    return raised.value.status, raised.value.retry_after_s, str(raised.value)


def test_requests_of_all_workers_count_and_one_beyond_the_cap_is_refused_until_another_ends(descriptor: int) -> None:
    one, two = worker(descriptor, 1), worker(descriptor, 2)
    one.enter()
    two.enter()
    two.enter()
    status, retry_after_s, message = refusal(one.enter)
    assert (status, retry_after_s) == (503, 1)
    assert message.endswith("try again, or raise LLM_GATEWAY_MAX_IN_FLIGHT.")
    assert refusal(two.enter)[0] == 503
    two.leave()
    one.enter()
    assert (one.count, two.count) == (2, 1)


def test_bytes_of_all_workers_count(descriptor: int) -> None:
    one, two = worker(descriptor, 1), worker(descriptor, 2)
    one.hold(60)
    two.hold(40)
    status, retry_after_s, message = refusal(lambda: two.hold(1))
    assert (status, retry_after_s) == (503, 1)
    assert "LLM_GATEWAY_MAX_BODY_BYTES_IN_FLIGHT" in message
    one.release(10)
    two.hold(10)
    assert (one.bytes, two.bytes) == (50, 50)


def test_what_a_dead_worker_held_is_released_by_the_supervisor_or_by_its_successor(descriptor: int) -> None:
    one, two, three = (worker(descriptor, number) for number in (1, 2, 3))
    for dead in (one, two):
        dead.enter()
        dead.hold(45)
    refusal(lambda: three.hold(20))
    release_place(descriptor, 1)
    three.hold(20)
    WorkerPlace(HostMemory(descriptor), 2)
    three.hold(80)
    three.enter()
    observer = WorkerPlace(HostMemory(descriptor), 4)
    assert (observer.total(REQUESTS), observer.total(BODY_BYTES), observer.living()) == (1, 100, 3)


def test_a_lone_worker_needs_no_memory() -> None:
    alone = InFlight(1, 10)
    alone.enter()
    refusal(alone.enter)
    alone.leave()
    alone.enter()
    alone.hold(10)
    refusal(lambda: alone.hold(1))
    alone.release(10)
    assert (alone.count, alone.bytes) == (1, 0)


def test_a_worker_that_joins_later_is_counted_and_numbers_are_checked(descriptor: int) -> None:
    first = WorkerPlace(HostMemory(descriptor), 1)
    assert first.total(REQUESTS) == 0
    second = WorkerPlace(HostMemory(descriptor), 63)
    second.hold(REQUESTS, 5)
    assert first.total(REQUESTS) == 5
    assert first.is_alive(second.id)
    assert not first.is_alive(second.id + 64)
    with pytest.raises(ValueError, match="0 to 63"):
        WorkerPlace(HostMemory(descriptor), 64)
