"""The lock of the shared memory, in both ways: what becomes of it when its holder is killed or stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from llm_gateway.host_memory import HostMemory, create
from llm_gateway.host_memory.lock import BUDGETS, HostLock, Method, record_lock, robust_mutex
from tests.shared_limiter.processes import end_of, fork


@pytest.fixture
def descriptor() -> Iterator[int]:
    opened = create()
    yield opened
    os.close(opened)


@pytest.mark.parametrize("method", [robust_mutex, record_lock])
def test_the_lock_of_a_killed_process_is_taken_after_a_repair_and_that_of_a_stopped_one_is_not(
    descriptor: int, method: Method
) -> None:
    def body(number: signal.Signals) -> None:
        taken = HostLock(HostMemory(descriptor), BUDGETS, method=method)
        assert taken.acquire()
        os.kill(os.getpid(), number)

    repairs: list[int] = []
    lock = HostLock(HostMemory(descriptor), BUDGETS, lambda: repairs.append(len(repairs)), method)
    assert end_of(fork(lambda: body(signal.SIGKILL))) == -signal.SIGKILL
    for _ in range(2):
        assert (lock.acquire(), repairs) == (True, [0])
        lock.release()
    pid = fork(lambda: body(signal.SIGSTOP))
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    assert [lock.acquire(), lock.acquire()] == [False, False]
    os.kill(pid, signal.SIGKILL)
    assert end_of(pid) == -signal.SIGKILL
    assert (lock.acquire(), repairs) == (True, [0, 1])
    lock.release()  # before its memory goes
