"""MemoryCache beyond the contract: the bound in bytes, and the order of eviction."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.cache.memory import OVERHEAD_BYTES, MemoryCache
from tests.examples import examples

T = TypeVar("T")


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    raise AssertionError("it waited")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def put(cache: MemoryCache, key: bytes, value: bytes = b"12345", ttl_s: float = 60.0) -> None:
    run(cache.set(key, value, ttl_s))


def test_an_expired_entry_is_dropped_when_it_is_read(clock: Clock) -> None:
    cache = MemoryCache(10_000, clock)
    put(cache, b"k", ttl_s=10.0)
    clock.now = 59.999
    assert run(cache.get(b"k")) == b"12345"
    clock.now = 60.0
    assert len(cache) == 1
    assert run(cache.get(b"k")) is None
    assert len(cache) == 0
    assert cache.size_bytes == 0


@pytest.mark.parametrize("ttl_s", [0.0, -1.0])
def test_a_ttl_of_0_stores_nothing(clock: Clock, ttl_s: float) -> None:
    cache = MemoryCache(10_000, clock)
    put(cache, b"k")
    put(cache, b"k", ttl_s=ttl_s)
    assert run(cache.get(b"k")) is None
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_the_size_is_key_value_and_overhead(clock: Clock) -> None:
    assert OVERHEAD_BYTES == 200
    cache = MemoryCache(10_000, clock)
    put(cache, b"abc", b"12345")
    assert cache.size_bytes == 208
    put(cache, b"d", b"")
    assert cache.size_bytes == 409
    put(cache, b"abc", b"1")
    assert cache.size_bytes == 405


def test_the_cache_can_be_filled_to_the_last_byte(clock: Clock) -> None:
    cache = MemoryCache(2 * 206, clock)
    put(cache, b"a")
    put(cache, b"b")
    assert (run(cache.get(b"a")), run(cache.get(b"b"))) == (b"12345", b"12345")
    put(cache, b"c", b"")
    assert (run(cache.get(b"a")), run(cache.get(b"b")), run(cache.get(b"c"))) == (None, b"12345", b"")


def test_the_least_recently_used_entry_is_evicted_first(clock: Clock) -> None:
    cache = MemoryCache(3 * 206, clock)
    for key in (b"a", b"b", b"c"):
        put(cache, key)
    assert run(cache.get(b"a")) is not None
    put(cache, b"b")
    put(cache, b"d")
    assert run(cache.get(b"c")) is None
    assert [run(cache.get(key)) is not None for key in (b"a", b"b", b"d")] == [True, True, True]


def test_a_large_value_evicts_several_entries(clock: Clock) -> None:
    cache = MemoryCache(4 * 206, clock)
    for key in (b"a", b"b", b"c", b"d"):
        put(cache, key)
    put(cache, b"e", b"x" * 211)
    assert [run(cache.get(key)) is not None for key in (b"a", b"b", b"c", b"d", b"e")] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert cache.size_bytes == 4 * 206


def test_a_value_larger_than_the_cache_is_not_stored_and_evicts_nothing(clock: Clock) -> None:
    cache = MemoryCache(500, clock)
    put(cache, b"a")
    put(cache, b"b", b"x" * 300)
    assert run(cache.get(b"b")) is None
    assert run(cache.get(b"a")) == b"12345"
    put(cache, b"b", b"x" * 299)
    assert run(cache.get(b"b")) == b"x" * 299
    assert run(cache.get(b"a")) is None


def test_a_value_larger_than_the_cache_drops_the_old_value(clock: Clock) -> None:
    cache = MemoryCache(500, clock)
    put(cache, b"a")
    put(cache, b"a", b"x" * 500)
    assert run(cache.get(b"a")) is None
    assert cache.size_bytes == 0


@examples(2)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 400), st.integers(0, 5), st.booleans()), max_size=60))
def test_it_never_exceeds_its_bound_and_returns_only_current_values(
    operations: list[tuple[int, int, int, bool]],
) -> None:
    clock = Clock()
    cache = MemoryCache(1000, clock)
    last: dict[bytes, bytes] = {}
    for step, (number, length, seconds, is_set) in enumerate(operations):
        key, value = b"%d" % number, b"%d" % step + b"x" * length
        clock.now += 1
        if is_set:
            put(cache, key, value, seconds)
            last[key] = value
        else:
            assert run(cache.get(key)) in (None, last.get(key))
        assert 0 <= cache.size_bytes <= 1000
