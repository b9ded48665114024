"""In-memory cache of one process, bounded in bytes: evict the least recently used entries first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from llm_gateway.cache.base import NearCache

OVERHEAD_BYTES = 200
"""Approximate memory of an entry, in bytes, besides its key and its value."""


class MemoryCache(NearCache):
    """A `Cache` in the memory of one process, of at most `max_bytes`. `clock` returns seconds.

    The size of an entry is its key, its value and `OVERHEAD_BYTES`. An entry whose time is over is dropped when it is
    looked up, or when it is the least recently used.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all entries, overhead included."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: bytes) -> bytes | None:
        """Return the bytes under `key`; None if there are none or their time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() >= entry[1]:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Store `value` under `key` for `ttl_s` seconds, in place of an earlier value.

        If the entry is larger than the whole cache, or `ttl_s` is not positive, nothing is stored under `key`.
        """
        self.put(key, value, ttl_s)

    def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Store `value` as `set` does."""
        if key in self._entries:
            self._drop(key)
        size = len(key) + len(value) + OVERHEAD_BYTES
        if size > self._max_bytes or ttl_s <= 0:
            return
        self._entries[key] = (value, self._clock() + ttl_s)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))  # `get` moves entries to the end, so the first is the oldest

    def _drop(self, key: bytes) -> None:
        value, _ = self._entries.pop(key)
        self._bytes -= len(key) + len(value) + OVERHEAD_BYTES
