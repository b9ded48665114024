"""Two-tier cache: the memory of this process, then a Redis that all hosts share. A failure of Redis is a miss.

get ── in memory ──▶ hit
  └── one trip for all candidates ── found, and opened ──▶ hit, kept in memory for the time that is left of it
                                 └── not found, no reply for 50 ms, not ours ──▶ miss
set ──▶ memory, and Redis without waiting

All lookups of one turn of the event loop are one command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias

from llm_gateway.cache.encrypted_entries import Sealed
from llm_gateway.cache.memory import MemoryCache
from llm_gateway.redis_client.client import RedisClient
from llm_gateway.redis_client.connection import Reply
from llm_gateway.redis_client.script import pack

MOST_VALUE_BYTES = 128 * 1024
"""Bytes of an answer that goes to Redis; larger ones stay in memory: questions about limits wait behind them."""

MOST_NAMES = 32
"""Names of one command; a lookup with more has one of its own. A reply has at most some megabytes so."""

_Asked: TypeAlias = tuple["asyncio.Future[list[Any]]", int]
"""A lookup and the number of its names."""


class RedisCache:
    """A `Cache` in `memory` and, sealed, behind it in Redis. `prefix` begins each key."""

    is_near = False

    def __init__(self, memory: MemoryCache, client: RedisClient, sealed: Sealed, *, prefix: str = "{llmg}:c:") -> None:
        self._memory = memory
        self._client = client
        self._lookups = Lookups(client)
        self._sealed = sealed
        self._prefix = prefix.encode()
        self.hits = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of the entries in memory, overhead included."""
        return self._memory.size_bytes

    def __len__(self) -> int:
        return len(self._memory)

    async def get(self, key: bytes) -> bytes | None:
        """Return the bytes under `key`; None if there are none or their time is over."""
        return (await self.get_all([key]))[0]

    async def get_all(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return what is under each key. Those after the first that is in memory are not looked for in Redis."""
        values = await self._memory.get_all(keys)
        missing = next((place for place, value in enumerate(values) if value is not None), len(keys))
        if not missing or not self._client.is_up:
            return values
        names = [self._prefix + self._sealed.name(key) for key in keys[:missing]]
        for place, found in enumerate(await self._lookups.ask(names)):
            if found.__class__ is bytes:
                values[place] = self._opened(keys[place], names[place], found)
        return values

    def _opened(self, key: bytes, name: bytes, found: bytes) -> bytes | None:
        value = self._sealed.open(key, found)
        if value is not None:
            self.hits += 1
            self._client.call(b"PTTL", name).add_done_callback(lambda future: self._near(key, value, future.result()))
        return value

    def _near(self, key: bytes, value: bytes, left_ms: Reply) -> None:
        """Keep in memory what Redis gave, for as long as Redis keeps it."""
        if left_ms.__class__ is int and left_ms > 0:
            self._memory.put(key, value, left_ms / 1000)

    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Store `value` under `key` for `ttl_s` seconds, in place of an earlier value."""
        self._memory.put(key, value, ttl_s)
        if not self._client.is_up:
            return
        name = self._prefix + self._sealed.name(key)
        left_ms = int(ttl_s * 1000)
        if left_ms > 0 and len(value) <= MOST_VALUE_BYTES:
            self._client.send(b"SET", name, self._sealed.seal(key, value), b"PX", left_ms)
        else:
            self._client.send(b"DEL", name)


class Lookups:
    """Lookups in Redis; all of one turn of the event loop go out in one command, or in few."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._asked: list[_Asked] = []
        self._names: list[bytes] = []

    def ask(self, names: list[bytes]) -> asyncio.Future[list[Any]]:
        """Look for entries. The future gets what is found under each name, or nothing at all without Redis."""
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if len(self._names) + len(names) > MOST_NAMES:
            self._send()
        if not self._asked and not self._client.before_write(self._send):
            future.set_result([])
            return future
        self._asked.append((future, len(names)))
        self._names += names
        return future

    def _send(self) -> None:
        asked, self._asked = self._asked, []
        names, self._names = self._names, []
        if asked:
            answers = _Answers(asked)
            if not self._client.send_packed(pack(b"MGET", *names), None, answers):
                answers.set_result(None)


class _Answers:
    """Lookups that were sent in one command; they get its reply as a future does."""

    __slots__ = ("_asked", "_is_done")

    def __init__(self, asked: list[_Asked]) -> None:
        self._asked = asked
        self._is_done = False

    def done(self) -> bool:
        """Return True if the lookups have their answers."""
        return self._is_done

    def set_result(self, reply: Reply) -> None:
        """Give each lookup its part of the reply; nothing if it is no list."""
        self._is_done = True
        found, at = reply if reply.__class__ is list else [], 0
        for future, count in self._asked:
            if not future.done():
                future.set_result(found[at : at + count])
            at += count
