"""The contract of cache backends (`cache/base.py`), run against each of BACKENDS; add new backends there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llm_gateway.cache.base import Cache
from llm_gateway.cache.memory import MemoryCache


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


BACKENDS: dict[str, Callable[[Clock], Cache]] = {"memory": lambda clock: MemoryCache(10_000, clock)}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=BACKENDS.values(), ids=list(BACKENDS))
def cache(request: pytest.FixtureRequest, clock: Clock) -> Cache:
    opened: Cache = request.param(clock)
    return opened


async def test_get_returns_the_value_set_last(cache: Cache) -> None:
    assert await cache.get(b"k") is None
    await cache.set(b"k", b"v", 60.0)
    await cache.set(b"l", b"", 60.0)
    assert (await cache.get(b"k"), await cache.get(b"l")) == (b"v", b"")
    await cache.set(b"k", b"w", 60.0)
    assert await cache.get(b"k") == b"w"


async def test_an_entry_expires_at_exactly_its_time(cache: Cache, clock: Clock) -> None:
    await cache.set(b"k", b"v", 10.0)
    clock.now = 59.999
    assert await cache.get(b"k") == b"v"
    clock.now = 60.0
    assert await cache.get(b"k") is None


async def test_setting_restarts_the_time_to_live_and_reading_does_not(cache: Cache, clock: Clock) -> None:
    await cache.set(b"k", b"v", 10.0)
    clock.now = 55.0
    assert await cache.get(b"k") == b"v"
    await cache.set(b"l", b"v", 10.0)
    clock.now = 59.0
    await cache.set(b"l", b"v", 10.0)
    clock.now = 61.0
    assert await cache.get(b"k") is None
    clock.now = 68.999
    assert await cache.get(b"l") == b"v"


@pytest.mark.parametrize("ttl_s", [0.0, -1.0])
async def test_a_ttl_of_0_drops_the_entry(cache: Cache, ttl_s: float) -> None:
    await cache.set(b"k", b"v", 60.0)
    await cache.set(b"k", b"w", ttl_s)
    assert await cache.get(b"k") is None


async def test_a_very_short_ttl_stores_the_entry(cache: Cache) -> None:
    await cache.set(b"k", b"v", 0.5)
    assert await cache.get(b"k") == b"v"
