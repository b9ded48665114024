"""Requests in flight of each service key, over all workers of the host.

Each worker writes only its own count of a key, in aligned stores without a lock, and then sums those of all living
workers: two that enter at once may both be refused at the limit, never do both exceed it. A slot is claimed under the
lock, and given to another key only if it counts no request, a minute after its last use.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from llm_gateway.host_memory import KEY_WORDS, KEYS, KEYS_AT, WORKERS, HostMemory
from llm_gateway.host_memory.lock import LIMITS, HostLock
from llm_gateway.host_memory.slots import NEVER, Slots, key_of
from llm_gateway.host_memory.workers import WorkerPlace

LAST_USE, COUNTS = 2, 8
"""Words of a slot: the second of its last use, and the counts of all workers."""
UNUSED_S = 60
"""Seconds after its last use for which a slot belongs to its key, even if no request of it is in flight."""
PROBES = 64


class KeyCounts:
    """The counts of the worker at `place`, and their sums over all workers. `clock` returns monotonic seconds."""

    def __init__(self, memory: HostMemory, place: WorkerPlace, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._words: Any = memory.words
        self._place = place
        self._own = COUNTS + place.id % WORKERS
        self._lock = HostLock(memory, LIMITS)
        self._slots = Slots(memory.words, KEYS_AT, count=KEYS, size=KEY_WORDS, probes=PROBES)
        for at in self._slots.used():  # an earlier worker with this number may have been killed
            if self._words[at + self._own]:
                self._words[at + self._own] = 0

    def enter(self, name: str, most: int) -> int | None:
        """Count a request of a key, unless that makes more than `most` on the host.

        Returns the place to give to `leave`: 0 if the key is at its limit, None if it cannot be told.
        """
        words, second = self._words, int(self._clock())
        at = self._slots.find(key_of(name)) or self._claim(name, second)
        if at is None:
            return None
        own = at + self._own
        words[at + LAST_USE] = second
        words[own] += 1
        if self._count(at) > most:
            words[own] -= 1
            return 0
        return own

    def leave(self, place: int) -> None:
        """Count a request as over."""
        self._words[place] -= 1

    def _count(self, at: int) -> int:
        return sum(self._words[at + COUNTS + number] for number in self._place.numbers())

    def _claim(self, name: str, second: int) -> int | None:
        """Return a slot for a key that has none; None if there is no room, or the lock is held."""
        if not self._lock.acquire():
            return None
        try:
            key, words = key_of(name), self._words
            at = self._slots.find(key)  # another worker may have been faster
            if at is not None:
                return at
            at, is_free = self._slots.vacant(
                key, lambda slot: second if self._count(slot) else int(words[slot + LAST_USE])
            )
            if not is_free and (words[at + LAST_USE] + UNUSED_S > second or self._count(at)):
                return None
            if words[at] != NEVER:
                self._slots.free(at)
                for word in range(at + LAST_USE, at + COUNTS + WORKERS):
                    words[word] = 0
            words[at + LAST_USE] = second
            self._slots.name(at, key)
            return at
        finally:
            self._lock.release()
