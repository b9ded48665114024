"""Heartbeats of this process in Redis, and whether it counts in Redis or at this host (`counting_mode.py`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

from llm_gateway.limiter.counting_mode import FORGOTTEN_S, LATE_S, MISSING_S, CountingMode
from llm_gateway.limiter.redis_scripts import BEAT, LEAVE
from llm_gateway.limiter.window import BUCKETS
from llm_gateway.redis_client.client import RedisClient

Log: TypeAlias = Callable[..., None]

BEAT_S = 0.5
"""Seconds between two heartbeats."""
ROUNDS = 3
"""Most rounds in which calls are added before Redis is used again: at a busy process some are noted in each."""
LONG_FORGOTTEN_S = 86_400.0
"""Seconds for which hosts are expected back by one that is back itself for less than 61 seconds."""
HASH_TAG = "{llmg}"
"""Begins each key, so that a cluster keeps all of them on one node."""
BY = {"shared": "redis", "both": "redis and this host", "alone": "this host"}


def only_this_host() -> int:
    """Return 1: no other host is known but by its heartbeats in Redis."""
    return 1


class Keys(NamedTuple):
    """Keys that begin with `prefix`, and the clock that they are counted by; None: Redis's own."""

    prefix: str = HASH_TAG
    clock: Callable[[], float] | None = None


class RedisHost:
    """One process of a host. Call `start` in the event loop, and `close` before the client is closed.

    What is in `at_end` is called when this process ends, so that Redis gets what still waits to be sent; what is in
    `when_shared`, when Redis alone decides (again).

    Args:
        client: its connection.
        member: the host's id, a slash, and this process's number.
        log: for changes of who counts.
        hosts: the number of living hosts as far as others know it.
        memory: keeps the number of hosts for the next process of this host.
        clock: seconds that never step back, those of this host's limiters.
        keys: others than those of the gateway, for tests.
    """

    def __init__(
        self,
        client: RedisClient,
        member: str,
        log: Log,
        *,
        hosts: Callable[[], int] = only_this_host,
        memory: HostsMemory | None = None,
        clock: Callable[[], float] = time.monotonic,
        keys: Keys | None = None,
    ) -> None:
        self.client = client
        self.clock = clock
        self.prefix, self.server_clock = keys or Keys()
        self.epoch_key = f"{self.prefix}:epoch"
        self._memory = memory or HostsMemory()
        self._log = log
        self.mode = CountingMode(clock, hosts, self._mode_changed, remembered=self._memory.hosts)
        self._member = member
        self._adders: list[tuple[Callable[[], bool], Callable[[], Awaitable[bool]]]] = []
        self.at_end: list[Callable[[], None]] = []
        self.when_shared: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._is_back = asyncio.Event()
        self._has_beaten = False
        self._told = 0
        self._back_at = clock()
        client.watchers.append(self._changed)

    def join(self, has_noted: Callable[[], bool], add_noted: Callable[[], Awaitable[bool]]) -> None:
        """Call `add_noted` whenever Redis is back and `has_noted` returns True.

        It sends before it returns. What it returns is False once it is awaited if Redis has not taken all.
        """
        self._adders.append((has_noted, add_noted))

    def start(self) -> None:
        """Begin to send heartbeats."""
        self._task = asyncio.get_running_loop().create_task(self._beat_on())

    async def close(self) -> None:
        """Say goodbye, so that no host waits for this process."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for end in self.at_end:
            end()
        self.client.send_packed(LEAVE.call([f"{self.prefix}:hosts"], [self._member]), LEAVE)

    async def step(self) -> None:
        """Add to Redis what it does not know, if it is back, and send a heartbeat."""
        is_up = self.client.is_up
        if not is_up:
            return
        if not self.mode.is_up and not await self._reach():
            return
        await self.beat()

    async def _reach(self) -> bool:
        """Add calls, and use Redis again. Returns False if it has not taken all of them.

        While some are added, others are noted. Those of the last round are on their way when Redis is used again:
        commands are executed in the order in which they were sent, so that Redis has counted them when it is asked.
        """
        for _ in range(ROUNDS):
            if not self._has_noted():
                break
            if not all(await self._send_noted()) or not self.client.is_up:
                return False
        last = self._send_noted()
        self.mode.reached(self.client.run_id)
        if all(await last):
            return self.mode.is_up
        self.mode.lost()
        return False

    def _has_noted(self) -> bool:
        return any(has_noted() for has_noted, _ in self._adders)

    def _send_noted(self) -> asyncio.Future[list[bool]]:
        """Send what is noted. The future tells whether Redis has taken it."""
        return asyncio.gather(*[add_noted() for has_noted, add_noted in self._adders if has_noted()])

    async def beat(self) -> None:
        """Send a heartbeat, and take over the answer."""
        mode, sent_at, clock = self.mode, self.clock(), self.server_clock
        keys = self.epoch_key, f"{self.prefix}:hosts", f"{self.prefix}:forgotten"
        memory = mode.memory
        is_back = sent_at - self._back_at < BUCKETS  # those that were as far from Redis as this host are expected, too
        arguments = (
            "" if clock is None else int(clock() * 1e6),
            self._member,
            int(MISSING_S * 1000),
            int((LONG_FORGOTTEN_S if is_back else FORGOTTEN_S) * 1000),
            "1" if memory != self._told else "0",
            "0" if self._has_beaten else "1",
            int((sent_at + mode.offset_s + LATE_S) * 1e6) if mode.epoch else 0,
        )
        mode.sent_at = sent_at
        reply = await self.client.call_packed(BEAT.call(keys, arguments), BEAT)
        if reply.__class__ is list and mode.is_up:
            epoch, now_us, hosts, missing, forgotten_ms = reply
            self._has_beaten, self._told = True, memory
            mode.compare(epoch, now_us, sent_at)
            mode.beat(sent_at, hosts, missing, forgotten_ms / 1000)
            self._memory.keep(mode.hosts)

    async def _beat_on(self) -> None:
        while True:
            self._is_back.clear()
            await self.step()
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._is_back.wait()

    def _changed(self, is_up: bool) -> None:
        if is_up:
            self._back_at = self.clock()
            self._is_back.set()
        else:
            self.mode.lost()

    def _mode_changed(self, name: str) -> None:
        self._log("rate limits counted by", counter=BY[name])
        if name == "shared":
            for unbound in self.when_shared:
                unbound()


class HostsMemory:
    """The number of hosts that was seen last, for the next process of this host; in a file, if there is one."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.hosts = 1
        if path is not None:
            with suppress(OSError, ValueError):
                self.hosts = int(path.read_bytes()[:10])

    def keep(self, hosts: int) -> None:
        """Keep the number if it is another one."""
        if hosts != self.hosts:
            self.hosts = hosts
            if self._path is not None:
                with suppress(OSError):  # a full disk: the next process knows the older number
                    self._path.write_bytes(b"%d" % hosts)
