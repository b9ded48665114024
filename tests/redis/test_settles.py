"""Settles of one turn go out together, with the next take of their window or with the write that ends the turn."""

from __future__ import annotations

import asyncio
from itertools import count

from llm_gateway.limiter.base import Reservation, Wanted
from llm_gateway.limiter.memory import MemoryLimiter
from llm_gateway.limiter.redis import RedisLimiter
from llm_gateway.limiter.redis_membership import Keys, RedisHost
from llm_gateway.redis_client.client import RedisClient
from tests.limiter.taking import Clock
from tests.redis.test_client import connected, path_of
from tests.redis_server import RedisServer

TPM = 1000
_numbers = count()


async def joined(client: RedisClient, clock: Clock, prefix: str | None = None) -> RedisLimiter:
    """Return the limiter of a host that shares the windows below the prefix, and has heard of the others."""
    keys = Keys(prefix or f"{{settles{next(_numbers)}}}", clock)
    host = RedisHost(client, f"{next(_numbers)}/1", lambda *_, **__: None, clock=clock, keys=keys)
    await host.step()
    return RedisLimiter(host, MemoryLimiter(clock), prefix="p")


async def taken(limiter: RedisLimiter, window: str, calls: int, tokens: int) -> list[Reservation]:
    decisions = await asyncio.gather(*[limiter.take(window, TPM, TPM, tokens) for _ in range(calls)])
    return [decision.reservation for decision in decisions if decision.reservation is not None]


async def test_settles_of_one_turn_make_one_command_for_each_window(redis_server: RedisServer) -> None:
    async with connected(path_of(redis_server)) as client:
        limiter = await joined(client, Clock())
        held = [*await taken(limiter, "a", 20, 10), *await taken(limiter, "b", 20, 10)]
        assert len(held) == 40
        before = await scripts(client)
        for reservation in held:
            limiter.settle(reservation, tokens=1)
        assert await scripts(client) - before == 2
        assert await sums(client, limiter, "a") == (20, 20)
        assert await sums(client, limiter, "b") == (20, 20)


async def test_a_take_has_the_room_that_settles_of_its_turn_made(redis_server: RedisServer) -> None:
    async with connected(path_of(redis_server)) as client:
        limiter = await joined(client, Clock())
        first, second = await taken(limiter, "a", 2, 500)
        before = await scripts(client)
        limiter.settle(first, tokens=0, sent=False)
        limiter.settle(second, tokens=100)
        third = await limiter.take("a", TPM, TPM, 900)
        assert third.reservation is not None
        assert await scripts(client) - before == 1
        assert await sums(client, limiter, "a") == (2, 1000)


async def test_a_take_of_several_windows_has_the_room_that_settles_of_its_turn_made(redis_server: RedisServer) -> None:
    async with connected(path_of(redis_server)) as client:
        limiter = await joined(client, Clock())
        held = [*await taken(limiter, "a", 1, 1000), *await taken(limiter, "b", 2, 500)]
        for reservation in held:
            limiter.settle(reservation, tokens=10)
        reservations, refused = await limiter.take_all([Wanted("a", TPM, TPM, 990), Wanted("b", TPM, TPM, 980)])
        assert refused is None
        assert len(reservations) == 2
        assert await sums(client, limiter, "a") == (2, 1000)
        assert await sums(client, limiter, "b") == (3, 1000)


async def test_settles_without_a_connection_are_dropped_and_later_ones_sent(redis_server: RedisServer) -> None:
    clock = Clock()
    async with connected(path_of(redis_server)) as client:
        limiter = await joined(client, clock)
        held = await taken(limiter, "a", 4, 10)
        assert client._connection is not None
        limiter.settle(held[0], tokens=0)
        client._connection.close("cut off")
        limiter.settle(held[1], tokens=0)
        while not client.is_up or client.counters.reconnects == 0:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.002)
        limiter.settle(held[2], tokens=0)
        assert await sums(client, limiter, "a") == (4, 30)
        limiter.settle(held[3], tokens=0)
        assert await sums(client, limiter, "a") == (4, 20)


async def scripts(client: RedisClient) -> int:
    """Return how many scripts the server has executed."""
    await asyncio.sleep(0)  # the turn ends
    info = (await client.call("INFO", "commandstats")).decode()
    [calls] = [
        line.partition("calls=")[2].partition(",")[0] for line in info.split() if line.startswith("cmdstat_evalsha:")
    ]
    return int(calls)


async def sums(client: RedisClient, limiter: RedisLimiter, window: str) -> tuple[int, int]:
    """Return requests and tokens of a window in Redis."""
    await asyncio.sleep(0)  # the turn ends
    n, t = await client.call("HMGET", limiter._prefix + window, "n", "t")
    return int(n), int(t)
