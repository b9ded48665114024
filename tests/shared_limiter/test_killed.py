"""Shared limiter whose process is killed after any store: counts are never too low, and the next process repairs them.

Also a process that is stopped while it holds the lock.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from llm_gateway.domain.rate_limits import ReportedLimit, ReportedLimits
from llm_gateway.errors import Overloaded
from llm_gateway.host_memory import DIRTY, HostMemory, create
from llm_gateway.host_memory.slots import key_of
from llm_gateway.limiter.base import Reservation
from llm_gateway.limiter.key_window import CALLS_AHEAD
from llm_gateway.limiter.shared import SharedLimiter
from llm_gateway.limiter.shared_window import (
    KEYS_WINDOWS,
    PROVIDER_WINDOWS,
    REQUEST_SUM,
    REQUESTS,
    TOKEN_SUM,
    TOKENS,
    WindowTable,
)
from llm_gateway.limiter.window import BUCKETS
from tests.limiter.taking import Clock, reserved, run, take
from tests.shared_limiter.processes import RecordedStores, Stores, end_of, fork, limiter_of, pages
from tests.waiting import until

RPM, TPM = 1_000, 10**6
MOST_STORES = 400


@pytest.fixture
def descriptor() -> Iterator[int]:
    opened = create()
    yield opened
    os.close(opened)


def reports(left: int) -> ReportedLimits:
    """Return the report of limits of 1,000 requests and 100,000 tokens, which refill within a minute."""
    return ReportedLimits(ReportedLimit(left, 60.0, 1_000), ReportedLimit(left * 100, 60.0, 100_000))


class Sums(NamedTuple):
    requests: int
    tokens: int


def sums_of_buckets(memory: HostMemory, table: WindowTable) -> Sums:
    at = table.of(memory.words).find(key_of("p"))
    if at is None:
        return Sums(0, 0)
    requests, tokens = (list(memory.words[at + start : at + start + BUCKETS]) for start in (REQUESTS, TOKENS))
    return Sums(sum(requests), sum(tokens))


def stored_sums(memory: HostMemory, table: WindowTable) -> Sums:
    at = table.of(memory.words).find(key_of("p"))
    assert at is not None
    return Sums(memory.words[at + REQUEST_SUM], memory.words[at + TOKEN_SUM])


def prepare(limiter: SharedLimiter, clock: Clock) -> Reservation:
    """Fill a window with calls of several seconds, and give up another one. Returns a call of 100 tokens, open."""
    reserved(limiter, RPM, TPM, 50, provider="q")
    limiter.forget("q")
    for seconds in (0.0, 7.0, 30.0):
        clock.now = 1000.0 + seconds
        reserved(limiter, RPM, TPM, 50, model="m")
    opened = reserved(limiter, RPM, TPM, 100, model="m")
    limiter.cap(opened, reports(500))
    return opened


class Case(NamedTuple):
    """An operation, the seconds after which it comes, and the area of its windows."""

    operate: Callable[[SharedLimiter, Reservation], object]
    after_s: float = 0.0
    table: WindowTable = PROVIDER_WINDOWS


CASES = {
    "take": Case(lambda limiter, _: take(limiter, RPM, TPM, 70)),
    "take of a model with a report": Case(lambda limiter, _: run(limiter.take("p", RPM, TPM, 70, "m")), 5.0),
    "take after seconds left": Case(lambda limiter, _: take(limiter, RPM, TPM, 70), 35.0),
    "take after a long silence": Case(lambda limiter, _: take(limiter, RPM, TPM, 70), 500.0),
    "settle with fewer": Case(lambda limiter, opened: limiter.settle(opened, tokens=10)),
    "settle with more": Case(lambda limiter, opened: limiter.settle(opened, tokens=400)),
    "settle of an unsent call": Case(lambda limiter, opened: limiter.settle(opened, tokens=0, sent=False)),
    "refill": Case(lambda limiter, _: limiter.refill("p", 3.0, 44)),
    "cap": Case(lambda limiter, opened: limiter.cap(opened, reports(300)), 5.0),
    "uncap": Case(lambda limiter, _: limiter.uncap("p", 7)),
    "release of a worker": Case(lambda limiter, _: limiter.release_worker(1)),
    "first take of another provider": Case(lambda limiter, _: take(limiter, RPM, TPM, 70, "q")),
}
OF_KEYS = (
    "take",
    "take after seconds left",
    "settle with fewer",
    "settle of an unsent call",
    "first take of another provider",
)
CASES |= {f"{name}, of a key": CASES[name]._replace(table=KEYS_WINDOWS) for name in OF_KEYS}
ADVANCE = Case(lambda limiter, _: limiter.refill("p", 1e6, 0))
"""Counts nothing, but moves the window to the present."""


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_process_killed_after_any_store_leaves_counts_that_are_not_too_low(case: Case) -> None:
    """The memory that each kill leaves is made by repeating stores; one real kill leaves the same."""
    stores = stores_of(case)
    assert 0 < len(stores) < MOST_STORES, "each store is tried"
    true, after = complete(case._replace(operate=ADVANCE.operate)), complete(case)
    for last in range(1, len(stores) + 1):
        with prepared(case) as scene:
            for place, value in stores[:last]:
                scene.memory.words[place] = value
            is_repaired(scene, case, true, after)
    with prepared(case) as scene, prepared(case) as repeated:
        killed_after = (len(stores) + 1) // 2
        kill(scene, case, killed_after)
        for place, value in stores[:killed_after]:
            repeated.memory.words[place] = value
        assert pages(scene.memory.descriptor) == pages(repeated.memory.descriptor)
        is_repaired(scene, case, true, after)


class Scene(NamedTuple):
    """Memory just before an operation: its present time, an open reservation, and what its buckets sum up to."""

    memory: HostMemory
    clock: Clock
    opened: Reservation
    before: Sums


@contextmanager
def prepared(case: Case) -> Iterator[Scene]:
    descriptor = create()
    try:
        memory, clock = HostMemory(descriptor), Clock()
        opened = prepare(limiter_of(memory, 1, clock, case.table), clock)
        before = sums_of_buckets(memory, case.table)
        clock.now += case.after_s
        yield Scene(memory, clock, opened, before)
    finally:
        os.close(descriptor)


def stores_of(case: Case) -> list[tuple[int, int]]:
    """Return each store of the operation by a second worker, in order: the word and its new value."""
    with prepared(case) as scene:
        recorded = RecordedStores()
        memory = HostMemory(scene.memory.descriptor, recorded)
        case.operate(limiter_of(memory, 2, scene.clock, case.table), scene.opened)
        return recorded.stores


def kill(scene: Scene, case: Case, last: int) -> None:
    """Kill a process after the store `last` of the operation."""

    def operate() -> None:
        memory = HostMemory(scene.memory.descriptor, Stores(last))
        case.operate(limiter_of(memory, 2, scene.clock, case.table), scene.opened)

    assert end_of(fork(operate)) == -signal.SIGKILL


def is_repaired(scene: Scene, case: Case, true: Complete, after: Complete) -> None:
    """Assert that the next process finds counts between those before and after the operation, and works on."""
    memory, clock, _, before = scene
    buckets = sums_of_buckets(memory, case.table)
    other = limiter_of(HostMemory(memory.descriptor), 3, clock, case.table)
    other.settle(Reservation("none", 0, 0), tokens=0)  # takes the lock and repairs
    assert memory.words[DIRTY] == 0
    assert stored_sums(memory, case.table) == sums_of_buckets(memory, case.table) == buckets
    assert min(true.sums.requests, after.sums.requests) <= buckets.requests
    assert buckets.requests <= max(before.requests, after.sums.requests)
    assert min(true.sums.tokens, after.sums.tokens) <= buckets.tokens <= max(before.tokens, after.sums.tokens)
    for left, one, two in zip(left_of_model(other, clock), true.left, after.left, strict=True):
        assert left <= max(one, two), "no more than the provider reported"
        assert left in {one, two} or case is not CASES["cap"], "either report as a whole"
    assert TPM - other.state("q", RPM, TPM).remaining_tokens in {0, 70}, "nothing of the window given up"
    clock.now += 700
    assert [take(other, 2).reservation is not None for _ in range(3)] == [True, True, False], "it works on"


def left_of_model(limiter: SharedLimiter, clock: Clock) -> list[int]:
    """Return what is left of the model's requests and of its tokens, now and later."""
    left = []
    for _ in range(3):
        state = limiter.state("p", 10**9, 10**9, "m")
        left += [state.remaining_requests, state.remaining_tokens]
        clock.now += 9
    return left


class Complete(NamedTuple):
    """State after a whole operation: the sums of buckets, and what is left of the model's limits."""

    sums: Sums
    left: list[int]


def complete(case: Case) -> Complete:
    """Carry out the whole operation."""
    with prepared(case) as scene:
        limiter = limiter_of(scene.memory, 1, scene.clock, case.table)
        case.operate(limiter, scene.opened)
        return Complete(sums_of_buckets(scene.memory, case.table), left_of_model(limiter, scene.clock))


@contextmanager
def idle_key() -> Iterator[tuple[HostMemory, Clock]]:
    """Return memory in which a key, which has used its limit, has just become idle."""
    descriptor = create()
    try:
        memory, clock = HostMemory(descriptor), Clock()
        reserved(limiter_of(memory, 1, clock, ONE_KEY), 1, 100, 100, provider="idle")
        clock.now += BUCKETS
        yield memory, clock
    finally:
        os.close(descriptor)


ONE_KEY = KEYS_WINDOWS._replace(slots=1, probes=1)


def test_a_process_killed_while_a_key_takes_the_slot_of_an_idle_one_exceeds_no_limit() -> None:
    with idle_key() as (memory, clock):
        recorded = RecordedStores()
        take(limiter_of(HostMemory(memory.descriptor, recorded), 2, clock, ONE_KEY), 1, 100, 100, "new")
    assert 100 < len(recorded.stores) < MOST_STORES
    for last in range(1, len(recorded.stores) + 1):
        with idle_key() as (memory, clock):
            for place, value in recorded.stores[:last]:
                memory.words[place] = value
            other = limiter_of(HostMemory(memory.descriptor), 3, clock, ONE_KEY)
            granted = [take(other, 1, 100, 100, "new").reservation is not None for _ in range(2)]
            assert granted in ([True, False], [False, False]), "the dead process's call counts, or was never granted"
            with pytest.raises(Overloaded, match="no room for the limits of another service key"):
                take(other, 1, 100, 100, "idle")
            provider = SharedLimiter(HostMemory(memory.descriptor), 3, clock)
            assert take(provider, 1).reservation is not None, "no provider's call is refused"


def stopped_holder(descriptor: int, clock: Clock) -> int:
    """Start a process that stops in the middle of a take, with the lock. Returns its process id."""

    def body() -> None:
        stores = Stores(0, signal.SIGSTOP)
        limiter = SharedLimiter(HostMemory(descriptor, stores), 2, clock)
        stores.count, stores.last = 0, 3
        run(limiter.take("p", RPM, TPM, 70, "m"))

    pid = fork(body)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    return pid


@pytest.mark.parametrize("ending", [signal.SIGCONT, signal.SIGKILL])
async def test_a_stopped_holder_makes_others_refuse_within_50_ms_until_it_goes_on(
    descriptor: int, ending: signal.Signals
) -> None:
    clock = Clock()
    limiter = SharedLimiter(HostMemory(descriptor), 1, clock)
    opened = prepare(limiter, clock)
    pid = stopped_holder(descriptor, clock)
    try:
        started = time.monotonic()
        refused = await asyncio.gather(*(limiter.take("p", RPM, TPM, 1) for _ in range(100)), return_exceptions=True)
        took_s = time.monotonic() - started
        limiter.settle(opened, tokens=40)
        limiter.cap(opened, reports(7))
        assert limiter.state("p", RPM, TPM).remaining_requests <= RPM - 4
        assert limiter.next_free("p", RPM, TPM, 1) == 0
        did_not_wait_s = time.monotonic() - started - took_s
    finally:
        os.kill(pid, ending)
        status = end_of(pid)

    assert [type(error) for error in refused] == [Overloaded] * 100
    assert (refused[0].status, refused[0].retry_after_s) == (503, 1)  # type: ignore[union-attr]
    assert 0.25 <= took_s < 0.5
    assert did_not_wait_s < 0.05
    assert status == (0 if ending == signal.SIGCONT else -signal.SIGKILL)
    assert (await limiter.take("p", RPM, TPM, 5)).reservation is not None
    state = limiter.state("p", RPM, TPM, "m")
    since = 1 if ending == signal.SIGCONT else 0
    assert state.remaining_requests == 7 - since, "the report came late, but came"
    assert state.remaining_tokens == 700 - since * 70
    assert TPM - limiter.state("p", RPM, TPM).remaining_tokens == 150 + 40 + 70 + 5


async def test_what_could_not_be_counted_at_once_is_counted_without_another_call(descriptor: int) -> None:
    clock = Clock()
    limiter = SharedLimiter(HostMemory(descriptor), 1, clock)
    opened = prepare(limiter, clock)
    pid = stopped_holder(descriptor, clock)
    limiter.settle(opened, tokens=40)
    limiter.cap(opened, reports(7))
    before = limiter.state("p", RPM, TPM).remaining_tokens
    os.kill(pid, signal.SIGKILL)
    assert end_of(pid) == -signal.SIGKILL
    await until(lambda: limiter.state("p", RPM, TPM).remaining_tokens != before)
    assert TPM - limiter.state("p", RPM, TPM).remaining_tokens == 150 + 40 + 70
    assert limiter.state("p", RPM, TPM, "m").remaining_requests == 7


async def test_a_take_waits_for_a_holder_that_goes_on_in_time(descriptor: int) -> None:
    clock = Clock()
    limiter = SharedLimiter(HostMemory(descriptor), 1, clock)
    pid = stopped_holder(descriptor, clock)
    waiting = asyncio.ensure_future(limiter.take("p", RPM, TPM, 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    os.kill(pid, signal.SIGCONT)

    assert (await waiting).reservation is not None
    assert end_of(pid) == 0


def test_a_process_killed_while_it_counts_ahead_leaves_counts_that_are_not_too_low() -> None:
    case = CASES["take, of a key"]
    with prepared(case) as scene:
        recorded, before = RecordedStores(), scene.before
        limiter = limiter_of(HostMemory(scene.memory.descriptor, recorded), 2, scene.clock, KEYS_WINDOWS)
        true, ends = [before], [0]

        def operate(change: Callable[[], object], requests: int, tokens: int) -> None:
            change()
            true.append(Sums(true[-1].requests + requests, true[-1].tokens + tokens))
            ends.append(len(recorded.stores))

        for _ in range(4):
            operate(lambda: reserved(limiter, RPM, TPM, 70), 1, 70)
        assert ends[-3] == ends[-2] == ends[-1], "two calls took what was counted ahead"
        operate(lambda: limiter.settle(scene.opened, tokens=10), 0, -90)
        scene.clock.now += 1
        operate(lambda: reserved(limiter, RPM, TPM, 70), 1, 70)
        assert sums_of_buckets(scene.memory, KEYS_WINDOWS) == true[-1], "nothing is counted ahead in the new second"
    for step in range(1, len(true)):
        for last in range(ends[step - 1], ends[step] + 1):
            with prepared(case) as scene:
                for place, value in recorded.stores[:last]:
                    scene.memory.words[place] = value
                other = limiter_of(HostMemory(scene.memory.descriptor), 3, scene.clock, KEYS_WINDOWS)
                other.settle(Reservation("none", 0, 0), tokens=0)  # takes the lock and repairs
                found = sums_of_buckets(scene.memory, KEYS_WINDOWS)
                assert found == stored_sums(scene.memory, KEYS_WINDOWS)
                assert min(true[step - 1].requests, true[step].requests) <= found.requests
                assert min(true[step - 1].tokens, true[step].tokens) <= found.tokens


async def test_what_is_noted_or_counted_ahead_of_a_key_is_corrected_by_the_next_call_or_a_timer(
    descriptor: int,
) -> None:
    clock = Clock()
    keys, other = (limiter_of(HostMemory(descriptor), number, clock, KEYS_WINDOWS) for number in (1, 2))

    def counted(limiter: SharedLimiter) -> Sums:
        state = limiter.state("p", RPM, TPM)
        return Sums(RPM - state.remaining_requests, TPM - state.remaining_tokens)

    first, second = reserved(keys, RPM, TPM, 100), reserved(keys, RPM, TPM, 100)
    assert (counted(keys), counted(other)) == ((2, 200), (2 + CALLS_AHEAD, 200 + 100 * CALLS_AHEAD))
    await until(lambda: counted(other) == (2, 200))
    keys.settle(first, tokens=10)
    assert (counted(keys), counted(other)) == ((2, 110), (2, 200))
    await until(lambda: counted(other) == (2, 110))
    clock.now += 1
    keys.settle(second, tokens=0, sent=False)
    third = reserved(keys, RPM, TPM, 100)
    assert counted(keys) == counted(other) == (2, 110)
    keys.settle(third, tokens=300)
    assert counted(keys) == counted(other) == (2, 310), "what makes no room is counted at once"
    clock.now += 1
    taken = [reserved(keys, RPM, TPM, tokens) for tokens in (100, 100, 90, 80, 70)]
    assert {each.bucket for each in taken} == {int(clock.now)}
    assert counted(keys) == (7, 750)
    assert keys.take_now("p", RPM + 1, TPM, 100) is not None, "within another limit it is asked anew"
    assert counted(keys) == (8, 850)
