"""The contract of caches, tests/cache, run against Redis; then what two processes share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from llm_gateway.cache.encrypted_entries import Sealed
from llm_gateway.cache.memory import MemoryCache
from llm_gateway.cache.redis import MOST_NAMES, MOST_VALUE_BYTES, RedisCache
from llm_gateway.redis_client.address import parse_address
from llm_gateway.redis_client.client import RedisClient
from tests.cache.test_contract import *  # noqa: F403
from tests.cache.test_contract import Clock
from tests.redis_server import RedisServer
from tests.waiting import until

KEY = bytes(range(32))


class Forgetting(MemoryCache):
    """A memory that holds nothing, as that of another process."""

    def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Store nothing."""


class Aged(RedisCache):
    """A cache whose Redis has let pass as many seconds as the test's clock."""

    def __init__(self, clock: Clock, client: RedisClient, prefix: str) -> None:
        super().__init__(MemoryCache(10_000, clock), client, Sealed(KEY, "1"), prefix=prefix)
        self._clock, self._redis, self._last, self._keys = clock, client, clock.now, f"{prefix}*"

    async def get(self, key: bytes) -> bytes | None:
        passed, self._last = self._clock.now - self._last, self._clock.now
        for name in await self._redis.call("KEYS", self._keys) if passed else ():
            left = await self._redis.call("PTTL", name)
            await self._redis.call("PEXPIRE", name, int(left - passed * 1000))
        return await super().get(key)

    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        await self.get(key)
        await super().set(key, value, ttl_s)


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[RedisClient]:
    connected = RedisClient(parse_address(redis_server.url), lambda *_, **__: None, timeout_s=5.0)
    connected.start()
    assert await connected.connected(5.0)
    yield connected
    await connected.close()


@pytest.fixture
def prefix() -> str:
    return f"{{{os.urandom(8).hex()}}}:"


@pytest.fixture(name="cache")
def aged_cache(client: RedisClient, clock: Clock, prefix: str) -> RedisCache:
    return Aged(clock, client, prefix)


async def test_another_process_finds_the_answer_and_keeps_it_for_the_rest_of_its_time(
    client: RedisClient, prefix: str
) -> None:
    one = RedisCache(Forgetting(0), client, Sealed(KEY, "1"), prefix=prefix)
    memory = MemoryCache(10_000)
    other = RedisCache(memory, client, Sealed(KEY, "1"), prefix=prefix)
    await one.set(b"k", b"v", 0.3)
    assert await other.get_all([b"j", b"k", b"l"]) == [None, b"v", None]
    await until(lambda: len(memory) == 1)
    assert await memory.get(b"k") == b"v"
    await asyncio.sleep(0.3)
    assert await other.get(b"k") is None
    assert await one.get(b"k") is None


async def test_who_reads_redis_reads_neither_question_nor_answer_and_can_forge_none(
    client: RedisClient, prefix: str
) -> None:
    one = RedisCache(Forgetting(0), client, Sealed(KEY, "1"), prefix=prefix)
    await one.set(b"question", b"the answer", 60.0)
    [name] = await client.call("KEYS", f"{prefix}*")
    kept = await client.call("GET", name)
    assert b"question" not in name
    assert b"answer" not in kept
    await one.set(b"another", b"x", 60.0)
    [other_name] = [each for each in await client.call("KEYS", f"{prefix}*") if each != name]
    await client.call("SET", other_name, kept)
    assert await one.get(b"another") is None, "an entry that was moved"
    await client.call("SET", name, kept[:-1] + bytes([kept[-1] ^ 1]))
    assert await one.get(b"question") is None, "an entry that was changed"
    for broken in (b"", b"x" * 5):
        await client.call("SET", name, broken)
        assert await one.get(b"question") is None
    await client.call("DEL", name)
    await client.call("LPUSH", name, "x")
    assert await one.get(b"question") is None, "something else under its name"


async def test_lookups_of_a_turn_share_commands_and_get_their_own_answers(client: RedisClient, prefix: str) -> None:
    cache = RedisCache(Forgetting(0), client, Sealed(KEY, "1"), prefix=prefix)
    keys = [b"%d" % number for number in range(MOST_NAMES + 6)]
    for key in keys[::2]:
        await cache.set(key, b"answer " + key, 60.0)
    before = (await client.call("INFO", "commandstats")).partition(b"cmdstat_mget:calls=")[2].partition(b",")[0]
    asked = [asyncio.ensure_future(cache.get_all([key, b"-" + key])) for key in keys]
    await asyncio.sleep(0)
    asked[4].cancel()
    came = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(came.pop(4), asyncio.CancelledError)
    expected = [[b"answer " + key if number % 2 == 0 else None, None] for number, key in enumerate(keys)]
    del expected[4]
    assert came == expected
    after = (await client.call("INFO", "commandstats")).partition(b"cmdstat_mget:calls=")[2].partition(b",")[0]
    assert int(after) - int(before or 0) == 3, "two names each, at most 32 in a command"


async def test_other_keys_and_versions_are_misses(client: RedisClient, prefix: str) -> None:
    await RedisCache(Forgetting(0), client, Sealed(KEY, "1"), prefix=prefix).set(b"k", b"v", 60.0)
    for sealed in (Sealed(bytes(32), "1"), Sealed(KEY, "2")):
        assert await RedisCache(Forgetting(0), client, sealed, prefix=prefix).get(b"k") is None


async def test_an_answer_that_is_too_large_stays_in_memory(client: RedisClient, prefix: str) -> None:
    one = RedisCache(Forgetting(0), client, Sealed(KEY, "1"), prefix=prefix)
    await one.set(b"k", b"v", 60.0)
    await one.set(b"k", b"v" * (MOST_VALUE_BYTES + 1), 60.0)
    assert await one.get(b"k") is None, "an older answer does not come back"


async def test_a_redis_that_is_away_is_a_miss_and_no_error() -> None:
    away = RedisClient(parse_address("unix:///nowhere/valkey.sock"), lambda *_, **__: None)
    cache = RedisCache(MemoryCache(10_000), away, Sealed(KEY, "1"))
    assert await cache.get_all([b"k", b"l"]) == [None, None]
    await cache.set(b"k", b"v", 60.0)
    assert await cache.get_all([b"k", b"l"]) == [b"v", None]
