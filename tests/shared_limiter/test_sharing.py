"""Shared limiter in 1, 2 and 4 processes, killed and restarted: the limit holds, and nearly all of it is used."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from llm_gateway.domain.rate_limits import ReportedLimit, ReportedLimits
from llm_gateway.errors import Overloaded
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.limiter.shared import LOOK_S, SharedLimiter
from llm_gateway.limiter.shared_window import KEYS_WINDOWS, PROVIDER_WINDOWS, WindowTable
from tests.limiter.taking import Clock, reserved, run, take
from tests.shared_limiter.processes import Log, SharedClock, end_of, fork, limiter_of
from tests.waiting import until, wait_until

RPM, TPM, LARGEST = 300, 3_000, 30
WINDOWS = 6
STEP_S = 0.5
KILLS = 12


@pytest.fixture
def descriptor() -> Iterator[int]:
    opened = create()
    yield opened
    os.close(opened)


def start(descriptor: int, number: int, clock: SharedClock, log: Log, *, table: WindowTable, seed: int) -> int:
    """Start a process that takes as much as it gets, and settles each call at once."""

    async def serve() -> None:
        limiter, chance = limiter_of(HostMemory(descriptor), number, clock, table), random.Random(seed)
        while True:
            tokens = chance.randint(1, LARGEST)
            used, now = chance.randint(0, tokens), clock()
            try:
                decision = await limiter.take("p", RPM, TPM, tokens)
            except Overloaded:
                continue
            if decision.reservation is None:
                clock.note_full(number, now)
                await asyncio.sleep(0.0002)
                continue
            log.add(decision.reservation.bucket, used)
            limiter.settle(decision.reservation, tokens=used)

    return fork(lambda: asyncio.run(serve()))


@pytest.mark.parametrize(
    ("table", "count"),
    [(PROVIDER_WINDOWS, 2), (PROVIDER_WINDOWS, 4), (KEYS_WINDOWS, 1), (KEYS_WINDOWS, 2), (KEYS_WINDOWS, 4)],
    ids=["a provider's, 2", "a provider's, 4", "a key's, 1", "a key's, 2", "a key's, 4"],
)
def test_the_limit_holds_in_all_processes_and_is_used_though_some_are_killed(
    descriptor: int, table: WindowTable, count: int
) -> None:
    clock, log, chance = SharedClock(1000.0), Log(), random.Random(count)
    control = limiter_of(HostMemory(descriptor), 0, clock, table)
    pids = {number: start(descriptor, number, clock, log, table=table, seed=number) for number in range(1, count + 1)}
    steps = round(WINDOWS * 61 / STEP_S)
    kills = set(chance.sample(range(steps), KILLS))
    try:
        for step in range(steps):
            wait_until(clock.is_full)
            if step in kills:
                number = chance.choice(list(pids))
                os.kill(pids[number], signal.SIGKILL)
                assert end_of(pids.pop(number)) == -signal.SIGKILL
                control.release_worker(number)
                pids[number] = start(descriptor, number, clock, log, table=table, seed=1000 + step)
            clock.add(STEP_S)
    finally:
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
            end_of(pid)

    calls = log.calls()
    log.close()
    requests, tokens = Counter(second for second, _ in calls), Counter[int]()
    for second, used in calls:
        tokens[second] += used
    for first in range(1000, 1000 + WINDOWS * 61):
        window = range(first, first + 61)
        assert sum(requests[second] for second in window) <= RPM
        assert sum(tokens[second] for second in window) <= TPM
    by_requests, by_tokens = len(calls) / (WINDOWS * RPM), sum(tokens.values()) / (WINDOWS * TPM)
    assert max(by_requests, by_tokens) >= 0.97


def test_room_that_another_process_makes_is_noticed_while_requests_wait(descriptor: int) -> None:
    clock = Clock()
    limiter = SharedLimiter(HostMemory(descriptor), 1, clock)
    opened = reserved(limiter, 9, 100, 100)

    async def wait() -> float:
        freed: list[float] = []
        limiter.watch("p", lambda: freed.append(time.monotonic()))
        await asyncio.sleep(2 * LOOK_S)
        assert not freed, "nothing happened yet"
        pid = fork(lambda: SharedLimiter(HostMemory(descriptor), 2, clock).settle(opened, tokens=1))
        assert end_of(pid) == 0
        ended = time.monotonic()
        await until(lambda: freed)
        limiter.watch("p", None)
        await asyncio.sleep(2 * LOOK_S)
        return freed[0] - ended

    assert asyncio.run(wait()) < 0.1 + 0.1, "and some slack for a busy machine"
    assert take(limiter, 9, 100, 99).reservation is not None


def test_reports_of_one_process_hold_in_the_others(descriptor: int) -> None:
    clock = Clock()
    limiter = SharedLimiter(HostMemory(descriptor), 1, clock)

    def report() -> None:
        other = SharedLimiter(HostMemory(descriptor), 2, clock)
        other.cap(reserved(other, 9, model="m"), ReportedLimits(requests=ReportedLimit(2, 30.0)))

    assert end_of(fork(report)) == 0
    assert [run(limiter.take("p", 9, 100, 0, "m")).retry_after_s for _ in range(3)] == [0, 0, 30.0]
    assert run(limiter.take("p", 9, 100, 0, "other")).reservation is not None


def test_creating_the_memory_imports_no_library_and_no_event_loop() -> None:
    program = "import sys, llm_gateway.host_memory as memory; memory.create(); print(*sys.modules)"
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    loaded = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()

    assert "llm_gateway.host_memory" in loaded
    assert not {"asyncio", "ctypes", "msgspec"} & set(loaded)
