"""RedisLimiter for tests without an event loop: each call runs the loop until it is decided."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from llm_gateway.limiter.base import Decision, Limiter, Reservation, Wanted
from llm_gateway.limiter.memory import MemoryLimiter
from llm_gateway.limiter.redis import RedisLimiter
from llm_gateway.limiter.redis_batches import SharedReservation
from llm_gateway.limiter.redis_membership import Keys, RedisHost
from llm_gateway.redis_client.address import parse_address
from llm_gateway.redis_client.client import RedisClient
from tests.redis_server import RedisServer

_prefixes = count()


class Monotone:
    """A clock that stands still where another one steps back, and then goes on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._now = clock()
        self._behind = 0.0

    def __call__(self) -> float:
        now = self._clock() + self._behind
        self._behind += max(self._now - now, 0.0)
        self._now = max(self._now, now)
        return self._now


class Hosts:
    """An event loop with connections to one server; `limiter` opens the limiter of another host."""

    def __init__(self, server: RedisServer) -> None:
        self.loop = asyncio.new_event_loop()
        self._server = server
        self._clients: list[RedisClient] = []
        self._idle: list[RedisClient] = []

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine to its end."""
        return self.loop.run_until_complete(coroutine)

    def client(self) -> RedisClient:
        """Return a client that is connected."""

        async def connect() -> RedisClient:
            client = RedisClient(parse_address(self._server.url), lambda *_, **__: None, timeout_s=5.0)
            client.start()
            assert await client.connected(5.0)
            return client

        client: RedisClient = self.run(connect())
        self._clients.append(client)
        return client

    def limiter(
        self, clock: Callable[[], float], *, prefix: str | None = None, member: str = "a/1", client: RedisClient
    ) -> SteppedLimiter:
        """Return the limiter of a host, which has heard of the others."""
        prefix = prefix or f"{{test{next(_prefixes)}}}"
        host = RedisHost(client, member, lambda *_, **__: None, clock=clock, keys=Keys(prefix, clock))
        limiter = RedisLimiter(host, MemoryLimiter(clock), prefix="p")
        stepped = SteppedLimiter(self, host, limiter)
        stepped.beat()
        return stepped

    def close(self) -> None:
        for client in self._clients:
            self.run(client.close())
        self.loop.close()


class SteppedLimiter:
    """A `Limiter` whose methods wait for Redis by themselves. Each sends a heartbeat first, as time may have passed."""

    def __init__(self, hosts: Hosts, host: RedisHost, limiter: RedisLimiter) -> None:
        self._hosts = hosts
        self.host = host
        self.limiter = limiter

    def beat(self) -> None:
        """Send a heartbeat."""
        self._hosts.run(self.host.step())

    async def take(self, *wanted: Any) -> Decision:
        if self.host.clock() >= self.host.mode.shared_until:
            self.beat()
        decision: Decision = self._hosts.run(self.limiter.take(*wanted))
        return decision

    async def take_all(self, wanted: Sequence[Wanted]) -> tuple[list[Reservation], Decision | None]:
        came: tuple[list[Reservation], Decision | None] = self._hosts.run(self.limiter.take_all(wanted))
        return came

    def settle(self, reservation: Reservation, tokens: int, sent: bool = True, lasted_s: int | None = None) -> None:
        if not isinstance(reservation, SharedReservation):  # one that a test made up: both clocks are the same here
            counted = reservation.provider_id, reservation.bucket, reservation.tokens
            reservation = SharedReservation(*counted, remote=reservation.bucket)

        async def settle() -> None:
            self.limiter.settle(reservation, tokens, sent, lasted_s)

        self._hosts.run(settle())

    def forget(self, provider_id: str) -> None:
        async def forget() -> None:
            self.limiter.forget(provider_id)

        self._hosts.run(forget())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.limiter, name)


def open_redis(hosts: Hosts, client: RedisClient, clock: Callable[[], float]) -> Limiter:
    """Return the limiter of a host that is alone."""
    limiter: Any = hosts.limiter(Monotone(clock), client=client)
    return limiter  # type: ignore[no-any-return]
