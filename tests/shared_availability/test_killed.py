"""Worker that is killed after any store of a change: the others see the state before or after it, and go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import NamedTuple

import pytest

from llm_gateway.host_memory import create
from llm_gateway.worker.pipeline.availability import ProviderAvailability, Wait
from tests.shared_availability.workers import Host, M, fail, leave, serve
from tests.shared_limiter.processes import Stores, end_of, fork
from tests.worker.pipeline.breaking import Clock

MOST_STORES = 100


class Case(NamedTuple):
    """An operation after so many failures, and the states of the breaker that can follow if it is killed."""

    failures: int
    operate: Callable[[ProviderAvailability], object]
    after: set[str | None]


CASES = {
    "first failure": Case(0, lambda worker: fail(worker, 1), {None, "closed"}),
    "opening": Case(4, lambda worker: fail(worker, 1), {"closed", "open"}),
    "probe": Case(5, leave, {"half_open"}),
    "closing": Case(5, serve, {"half_open", "closed"}),
    "reset": Case(5, lambda worker: worker.reset("id-p", 9), {"half_open", "closed"}),
    "lift": Case(5, lambda worker: worker.lift("id-p", "its configuration changed", 9), {"half_open"}),
    "forget": Case(5, lambda worker: worker.forget("id-p"), {"half_open", None}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_worker_killed_after_any_store_leaves_the_state_before_or_after(case: Case) -> None:
    killed_at = 0
    for last in range(1, MOST_STORES):
        descriptor = create()
        try:
            if not dies_and_others_go_on(Host(descriptor, Clock()), case, last):
                break
        finally:
            os.close(descriptor)
        killed_at = last
    assert 0 < killed_at < MOST_STORES - 1, "each store was tried"


def dies_and_others_go_on(host: Host, case: Case, last: int) -> bool:
    """Kill a worker after the store `last` of the operation. Returns False if it makes fewer stores."""
    other = host.worker(1)
    fail(other, case.failures)
    host.clock.now += 30.0

    def body() -> None:
        dying = host.worker(2, stores := Stores(0))
        stores.count, stores.last = 0, last
        case.operate(dying)

    status = end_of(fork(body))
    assert status in (0, -signal.SIGKILL)
    host.dies(2)
    state = host.worker(3).states().get(("id-p", "m1"))
    assert state in case.after
    if state == "open":
        assert isinstance(other.admit(M), Wait)
        host.clock.now += 30.0
    for worker in (other, host.worker(4)):  # the first call may be a probe
        serve(worker)
        leave(worker)
        serve(worker)
    fail(host.worker(5))
    assert isinstance(other.admit(M), Wait), "it works on"
    return status != 0


def test_a_stopped_holder_of_the_lock_slows_nobody_and_what_was_learned_meanwhile_is_shared_later() -> None:
    descriptor = create()
    host = Host(descriptor, Clock())
    one, two = host.worker(1), host.worker(2)

    def body() -> None:
        dying = host.worker(3, stores := Stores(0, signal.SIGSTOP))
        stores.count, stores.last = 0, 3
        fail(dying, 1)

    pid = fork(body)
    try:
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        fail(one)
        assert isinstance(one.admit(M), Wait), "on its own"
        one.reset("id-q", 5)
        serve(two)
    finally:
        os.kill(pid, signal.SIGKILL)
        assert end_of(pid) == -signal.SIGKILL
        os.close(descriptor)
