"""Shared limiter in one process: same answers as the one in memory, layout versions, and slots that run out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.rate_limits import ReportedLimit, ReportedLimits
from llm_gateway.errors import ConfigurationError, Overloaded
from llm_gateway.host_memory import (
    AT_VERSION,
    MODELS,
    PROVIDERS,
    SIZE,
    VERSION,
    WORD,
    WORKERS,
    HostMemory,
    UnusableMemory,
    create,
)
from llm_gateway.host_memory.lock import LIMITS, HostLock, record_lock
from llm_gateway.limiter import open_limiter
from llm_gateway.limiter.base import Before, Limiter, Reservation
from llm_gateway.limiter.key_window import CALLS_AHEAD, PART
from llm_gateway.limiter.memory import MemoryLimiter
from llm_gateway.limiter.shared import MOST_WINDOWS, SharedLimiter
from llm_gateway.limiter.shared_keys import SharedKeyLimiter
from llm_gateway.limiter.shared_window import KEYS_WINDOWS
from tests.examples import examples
from tests.limiter.conftest import open_shared
from tests.limiter.taking import Clock, reserved, run, take
from tests.waiting import until

RPM, TPM = 6, 100


@pytest.fixture
def descriptor() -> Iterator[int]:
    opened = create()
    yield opened
    os.close(opened)


OPERATIONS = (
    *["take"] * 6, *["settle"] * 4, "unsent", "cap", "cap", "refill", "pass", "pass", "uncap", "forget",
)  # fmt: skip
steps = st.lists(
    st.tuples(
        st.sampled_from(OPERATIONS),
        st.integers(0, 240),
        st.integers(0, 60),
        st.sampled_from(["p", "q"]),
        st.sampled_from(["", "m"]),
    ),
    max_size=60,
)


@examples(5)
@given(steps)
def test_it_answers_as_the_limiter_in_memory_does(sequence: list[tuple[str, int, int, str, str]]) -> None:
    clock = Clock()
    answer_alike([MemoryLimiter(clock), open_shared(clock)], clock, sequence)


@pytest.mark.parametrize(("rpm", "tpm"), [(RPM, TPM), (CALLS_AHEAD * PART + 30, 60 * CALLS_AHEAD * PART + 900)])
@examples(5)
@given(steps)
def test_the_limiter_of_keys_answers_as_the_one_in_memory_does(
    rpm: int, tpm: int, sequence: list[tuple[str, int, int, str, str]]
) -> None:
    clock, descriptor = Clock(), create()
    limiters: list[Limiter] = [
        MemoryLimiter(clock, has_models=False),
        SharedKeyLimiter(HostMemory(descriptor), 3, clock),
    ]
    of_keys = [(what, *rest, "") for what, *rest, _ in sequence if what not in ("cap", "uncap")]
    answer_alike(limiters, clock, of_keys, rpm, tpm)
    os.close(descriptor)


def answer_alike(
    limiters: Sequence[Limiter], clock: Clock, sequence: Sequence[tuple[Any, ...]], rpm: int = RPM, tpm: int = TPM
) -> None:
    """Carry out the sequence in both limiters, and compare their answers after each step."""
    open_calls: list[Reservation] = []
    for what, number, tokens, provider, model in sequence:
        if what == "take":
            first, second = (run(limiter.take(provider, rpm, tpm, tokens, model)) for limiter in limiters)
            assert first == second
            if first.reservation is not None:
                open_calls.append(first.reservation)
        elif what == "pass":
            clock.now += number / 8
        elif open_calls:
            call = open_calls.pop(number % len(open_calls))
            for limiter in limiters:
                carry_out(limiter, what, call, number, tokens)
            if what == "forget":
                open_calls = [other for other in open_calls if other.provider_id != call.provider_id]
        before = Before(number % 3, tokens)
        assert limiters[0].state(provider, rpm, tpm, model) == limiters[1].state(provider, rpm, tpm, model)
        assert limiters[0].next_free(provider, rpm, tpm, tokens, model, before=before) == limiters[1].next_free(
            provider, rpm, tpm, tokens, model, before=before
        )


def carry_out(limiter: Limiter, what: str, call: Reservation, number: int, tokens: int) -> None:
    if what == "settle":
        limiter.settle(call, tokens=tokens)
    elif what == "unsent":
        limiter.settle(call, tokens=0, sent=False)
    elif what == "cap":
        limit = ReportedLimit(number % 5, number / 8, 5 if tokens % 2 else None, tokens % 3 > 0)
        limiter.cap(call, ReportedLimits(limit, ReportedLimit(tokens, number / 8, tokens + number % 7)))
        limiter.settle(call, tokens=tokens)
    elif what == "refill":
        limiter.refill(call.provider_id, number / 4, tokens)
    elif what == "uncap":
        limiter.uncap(call.provider_id, number)
    elif what == "forget":
        limiter.forget(call.provider_id)


def test_memory_of_another_version_is_refused(descriptor: int) -> None:
    os.pwrite(descriptor, (99).to_bytes(WORD, "little"), AT_VERSION * WORD)

    with pytest.raises(UnusableMemory, match=rf"does not have layout {VERSION} .*: create new memory\.$"):
        open_limiter(HostMemory(descriptor), 1)


@pytest.mark.parametrize("size", [0, 8, SIZE - WORD, SIZE + WORD])
def test_memory_of_another_size_is_refused(descriptor: int, size: int) -> None:
    os.ftruncate(descriptor, size)

    with pytest.raises(ConfigurationError, match=f"{size} bytes"):
        HostMemory(descriptor)


def test_a_number_beyond_the_rows_is_refused(descriptor: int) -> None:
    for number in (-1, WORKERS):
        with pytest.raises(ValueError, match="0 to 63"):
            open_limiter(HostMemory(descriptor), number)


def test_a_file_that_cannot_be_locked_is_reported() -> None:
    opened = create()
    lock = HostLock(HostMemory(opened), LIMITS, method=record_lock)
    os.close(opened)
    with pytest.raises(OSError, match="Bad file descriptor"):
        lock.acquire()


def test_without_memory_it_counts_this_process_only(descriptor: int) -> None:
    assert isinstance(open_limiter(), MemoryLimiter)
    assert isinstance(open_limiter(HostMemory(descriptor), 1), SharedLimiter)


def test_memory_that_was_filled_says_so(descriptor: int) -> None:
    assert not HostMemory(descriptor).is_filled
    HostMemory(descriptor).mark_filled()
    assert HostMemory(descriptor).is_filled


def test_the_open_tokens_of_a_dead_worker_are_dropped_and_what_it_took_stays(descriptor: int) -> None:
    clock = Clock()
    dead, living, control = (SharedLimiter(HostMemory(descriptor), number, clock) for number in (1, 2, 0))
    reserved(dead, 9, 100, 60)
    reserved(living, 9, 100, 30)
    assert control.next_free("p", 9, 100, 70) <= 3.0, "either call may end soon"
    control.release_worker(1)

    assert control.next_free("p", 9, 100, 40) <= 3.0
    assert control.next_free("p", 9, 100, 70) == 61.0, "the dead worker's tokens never come back"
    assert control.state("p", 9, 100).remaining_tokens == 10


def test_more_providers_than_slots_take_those_of_idle_ones(descriptor: int) -> None:
    clock = Clock()
    limiter = SharedLimiter(HostMemory(descriptor), 1, clock)
    for number in range(PROVIDERS):
        reserved(limiter, 9, provider=f"provider {number}")
    with pytest.raises(Overloaded, match="no room for another provider"):
        take(limiter, 9, provider="new")
    assert limiter.state("new", 9, 100).remaining_requests == 9
    limiter.forget("provider 7")
    reserved(limiter, 1, provider="new")
    assert take(limiter, 1, provider="new").reservation is None
    clock.now += 61
    for number in range(PROVIDERS):
        reserved(limiter, 1, 10, 1, provider=f"later {number}")
    assert limiter.state("later 5", 9, 100).remaining_requests == 8
    assert limiter.state("provider 5", 9, 100).remaining_requests == 9
    clock.now += 61
    reserved(limiter, 1, provider="last")
    assert len(limiter._windows) <= PROVIDERS + 1  # a process forgets those that lost their place


def test_a_full_table_of_keys_refuses_further_ones_until_one_is_idle_and_never_a_provider(descriptor: int) -> None:
    clock, memory = Clock(), HostMemory(descriptor)
    keys = SharedKeyLimiter(memory, 1, clock, KEYS_WINDOWS._replace(slots=8, probes=8))
    providers = SharedLimiter(memory, 1, clock)
    for number in range(8):
        reserved(keys, 2, provider=f"key {number}")
    with pytest.raises(Overloaded, match="no room for the limits of another service key") as full:
        take(keys, 9, provider="new")
    assert (full.value.status, full.value.retry_after_s) == (503, 1)
    reserved(providers, 9, provider="new", model="m")
    clock.now += 60
    assert [take(keys, 2, provider="key 7").reservation is not None for _ in range(2)] == [True, False]
    clock.now += 1
    assert [take(keys, 1, provider=f"later {number}").reservation is not None for number in range(7)] == [True] * 7
    with pytest.raises(Overloaded):
        take(keys, 1, provider="new")
    assert keys.state("key 7", 2, 100).remaining_requests == 1, "the busy key kept its slot"
    assert keys.state("key 0", 2, 100).remaining_requests == 2


@pytest.mark.parametrize("is_locked", [False, True], ids=["free", "locked at the moment"])
async def test_a_closed_limiter_gives_back_what_it_has_counted_ahead(descriptor: int, is_locked: bool) -> None:
    clock, memory, rpm, tpm = Clock(), HostMemory(descriptor), CALLS_AHEAD * PART + 30, 10**6
    ending, living = (SharedKeyLimiter(memory, number, clock) for number in (1, 2))

    def counted() -> tuple[int, int]:
        left = living.state("p", rpm, tpm)
        return rpm - left.remaining_requests, tpm - left.remaining_tokens

    calls = [reserved(ending, rpm, tpm, 10) for _ in range(3)]
    ending.settle(calls[0], tokens=4)
    assert counted() == (CALLS_AHEAD + 2, 10 * (CALLS_AHEAD + 2))
    lock = HostLock(memory, LIMITS)
    assert not is_locked or lock.acquire()
    ending.close()
    if is_locked:
        assert counted() == (CALLS_AHEAD + 2, 10 * (CALLS_AHEAD + 2))
        lock.release()
        await until(lambda: counted() == (3, 24))
    assert counted() == (3, 24)


def test_limits_of_keys_touch_memory_and_take_slots_only_as_they_are_used(descriptor: int) -> None:
    clock, memory = Clock(), HostMemory(descriptor)
    keys = SharedLimiter(memory, 1, clock, KEYS_WINDOWS)
    before = os.fstat(descriptor).st_blocks * 512
    opened = reserved(keys, 9, 100, 60, provider="key")
    for number in range(MOST_WINDOWS - 1):
        reserved(keys, 9, 100, 60, provider=f"key {number}")
    touched = os.fstat(descriptor).st_blocks * 512 - before
    assert touched < MOST_WINDOWS * 3 * 4096, "a window is on at most two pages, and others may be looked at"
    assert reserved(open_limiter(memory, 2), 9, provider="p", model="m").calls_taken == 1, "no model's slot was taken"
    other = SharedLimiter(memory, 2, clock, KEYS_WINDOWS)
    assert other.state("key", 9, 100).remaining_tokens == 40
    clock.now += 2
    keys.settle(opened, tokens=10)
    assert other.state("key", 9, 100).remaining_tokens == 90
    clock.now += 200
    reserved(keys, 9, 100, 60, provider="last")
    assert len(keys._windows) == 1, "a process forgets those that are idle"


def test_more_models_than_slots_are_served_and_lose_no_call(descriptor: int) -> None:
    limiter = SharedLimiter(HostMemory(descriptor), 1, Clock())
    for number in range(MODELS + 500):
        assert run(limiter.take("p", 10**6, 10**9, 1, f"model {number}")).reservation is not None
    assert limiter.state("p", 10**6, 10**9).remaining_requests == 10**6 - MODELS - 500


def test_a_provider_that_is_made_again_counts_from_zero_in_all_processes(descriptor: int) -> None:
    clock = Clock()
    first, second = (SharedLimiter(HostMemory(descriptor), number, clock) for number in (1, 2))
    first.cap(reserved(first, 9, 100, 50, model="m"), ReportedLimits(ReportedLimit(0, 30.0)))
    reserved(second, 9, 100, 50)
    second.forget("p")

    assert run(first.take("p", 1, 100, 100, "m")).reservation is not None
    assert second.state("p", 1, 100).remaining_requests == 0
    assert second.next_free("p", 1, 100, 1) == 61.0
