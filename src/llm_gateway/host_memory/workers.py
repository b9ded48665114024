"""Place of each worker in the shared memory: its id, and what it holds of the host's limits.

Only the worker writes to its place, in aligned stores without a lock; all read it. A place is cleared when its worker
has ended: by the supervisor at once (`release_place`), or else by the next worker with its number.
"""

from __future__ import annotations

import time
from typing import Any

from llm_gateway.host_memory import JOINED, PLACE_WORDS, PLACES_AT, WORKERS, HostMemory

ID, REQUESTS, BODY_BYTES, CONNECTIONS, IS_ACCEPTING, ACCEPTED = range(6)
"""Words of a place. `ACCEPTED`: connections accepted since the start."""


class WorkerPlace:
    """The place of this process, and the sums over the places of all workers.

    Args:
        memory: shared by the workers.
        number: this worker's number, below `WORKERS`; no other living worker has it.
    """

    __slots__ = ("_at", "_joined", "_places", "_words", "id")

    def __init__(self, memory: HostMemory, number: int) -> None:
        if not 0 <= number < WORKERS:
            raise ValueError(f"The number of a process is 0 to {WORKERS - 1}, not {number}.")
        words: Any = memory.words
        at = PLACES_AT + number * PLACE_WORDS
        for word in range(at, at + PLACE_WORDS):
            words[word] = 0
        self.id: int = max(time.monotonic_ns() // 1_000_000, 1) * WORKERS + number
        """Unique number of this process: that of an earlier process in the same place was made at another time."""
        self._words = words
        self._at = at
        self._joined = 0
        self._places: list[int] = []
        words[at + ID] = self.id
        words[JOINED] = self.id  # the last store: a worker that sees it sees the place, too

    def hold(self, word: int, amount: int) -> None:
        """Set what this worker holds."""
        self._words[self._at + word] = amount

    def total(self, word: int) -> int:
        """Return the sum over all workers."""
        words, total = self._words, 0
        if words[JOINED] != self._joined:
            self._look()
        for place in self._places:
            total += words[place + word]
        return total

    def accepting(self) -> tuple[int, int]:
        """Return the number of workers that accept connections, and of the connections they have open."""
        words, count, connections = self._words, 0, 0
        if words[JOINED] != self._joined:
            self._look()
        for place in self._places:
            if words[place + IS_ACCEPTING]:
                count += 1
                connections += words[place + CONNECTIONS]
        return count, connections

    def numbers(self) -> list[int]:
        """Return the numbers of the workers that have a place."""
        words = self._words
        if words[JOINED] != self._joined:
            self._look()
        return [(place - PLACES_AT) // PLACE_WORDS for place in self._places if words[place]]

    def living(self) -> int:
        """Return the number of workers that have a place."""
        if self._words[JOINED] != self._joined:
            self._look()
        return sum(1 for place in self._places if self._words[place])

    def is_alive(self, worker: int) -> bool:
        """Return whether the worker with this id has a place."""
        return bool(self._words[PLACES_AT + worker % WORKERS * PLACE_WORDS] == worker)

    def _look(self) -> None:
        """Find the places that are in use; those of workers that end later are 0 and do no harm."""
        words = self._words
        self._joined = words[JOINED]
        self._places = [at for at in range(PLACES_AT, PLACES_AT + WORKERS * PLACE_WORDS, PLACE_WORDS) if words[at]]
