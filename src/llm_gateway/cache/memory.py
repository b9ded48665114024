"""Answers kept in the memory of one process: the least recently used goes first when the bytes run out."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

OVERHEAD_BYTES = 200
"""What an entry takes beside its key and its value."""


class MemoryCache:
    """`cache.base.Cache` for one process, at most `max_bytes` in all. `clock` gives seconds.

    An entry's size is its key, its value and `OVERHEAD_BYTES`. One that is too old goes when it is met.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        """What is kept now, overhead included."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: bytes) -> bytes | None:
        """The bytes kept under `key`, None when there are none or they are too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() >= entry[1]:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Keep `value` under `key` for `ttl_s` seconds, in place of what was there.

        Larger than the whole cache, or for no time at all: nothing is kept under `key`.
        """
        if key in self._entries:
            self._drop(key)
        size = len(key) + len(value) + OVERHEAD_BYTES
        if size > self._max_bytes or ttl_s <= 0:
            return
        self._entries[key] = (value, self._clock() + ttl_s)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        value, _ = self._entries.pop(key)
        self._bytes -= len(key) + len(value) + OVERHEAD_BYTES
