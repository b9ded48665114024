"""Lock of the budgets' accounts: the host's when several processes change them, a word when one worker is alone.

The system's lock takes 2.8 µs a pair, and a request needs two. So a worker that is the only holder of amounts (`SOLO`)
says in `BUSY` that it is at work, and takes no lock. Another process that wants to change something takes it, sets
`SOLO` to 0, waits until what the worker has stored is visible, and then until it is no longer at work:

    alone ── another process enters ──▶ shared: all take the lock ── one holder is left, a process leaves ──▶ alone

A worker that is killed gives its lock back, or leaves `BUSY` set: then its process is looked for. One that is stopped
makes the others refuse, as with the lock of the limits. `DIRTY` is set while sums are changed; who finds it set has
them computed again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from llm_gateway.host_memory import BUDGETS_AT, HOLDERS, HOLDERS_AT, HostMemory
from llm_gateway.host_memory.budget_holds import HOLDER_SIZE, OWNER, PID
from llm_gateway.host_memory.lock import HostLock

LOADED, SOLO, BUSY, DIRTY = range(BUDGETS_AT, BUDGETS_AT + 4)
"""Words of the header. `LOADED`: 1 once the balances of the database are here. `SOLO`: 1 + the place of the holder that
is alone, 0 for several or none."""
VISIBLE_S = 0.001
"""Seconds after which a processor has made its stores visible to the others; it takes nanoseconds."""
LOOKS, LOOK_S = 50, 0.001
LOCK_BYTE = 1
"""Byte of the memory's file that is locked; the limits' lock is on byte 0."""


class BudgetLock:
    """The lock as the holder at `place` takes it, or a process that holds nothing (None).

    `repair` puts right what a killed process left behind; it is called with the lock.
    """

    __slots__ = ("_is_fast", "_lock", "_me", "_repair", "_words")

    def __init__(self, memory: HostMemory, place: int | None, repair: Callable[[], None]) -> None:
        self._words: Any = memory.words
        self._me = -1 if place is None else place + 1
        self._lock = HostLock(memory.descriptor, LOCK_BYTE)
        self._repair = repair
        self._is_fast = False

    def acquire(self) -> bool:
        """Take the lock. Returns False if another process still holds it after a millisecond, or does not run."""
        words = self._words
        if words[SOLO] == self._me:
            words[BUSY] = 1
            if words[SOLO] == self._me:
                self._is_fast = True
                return True
            words[BUSY] = 0
        if not self._lock.acquire():
            return False
        if (words[SOLO] not in (0, self._me) or words[DIRTY] or words[BUSY]) and not self._end_solo():
            self._lock.release()
            return False
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._is_fast:
            self._is_fast = False
            self._words[BUSY] = 0
        else:
            self._lock.release()

    def elect(self) -> None:
        """Let a holder that is the only one work without the lock from now on. Needs the lock."""
        words = self._words
        if self._is_fast:
            return
        owned = [place for place in range(HOLDERS) if words[HOLDERS_AT + place * HOLDER_SIZE + OWNER]]
        words[SOLO] = owned[0] + 1 if len(owned) == 1 else 0

    def _end_solo(self) -> bool:
        """End the time of a worker that was alone. Returns False if it is stopped in the middle of a change."""
        words = self._words
        words[SOLO] = 0
        time.sleep(VISIBLE_S)
        for _ in range(LOOKS):
            if not words[BUSY]:
                break
            if not self._is_one_alive():
                words[BUSY] = 0
                break
            time.sleep(LOOK_S)
        else:
            return False
        if words[DIRTY]:
            self._repair()
            words[DIRTY] = 0
        return True

    def _is_one_alive(self) -> bool:
        """Return whether the process of any holder but this one lives."""
        words = self._words
        for place in range(HOLDERS):
            at = HOLDERS_AT + place * HOLDER_SIZE
            if words[at + OWNER] and place + 1 != self._me and _lives(int(words[at + PID])):
                return True
        return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
