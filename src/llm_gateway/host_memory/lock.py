"""Lock between the processes of one host, in the memory that they share.

    free ── try ──▶ held ── release ──▶ free
                      └── the holder is killed ──▶ left ── try ──▶ held: what it left half done is repaired first

It is a robust mutex of POSIX threads (`pthread_mutexattr_setrobust`, `PTHREAD_PROCESS_SHARED`): no system call while it
is free, and the system marks it when its holder is killed. A pair of calls takes 0.5 µs, with a record lock (`F_SETLK`)
4 µs. `ctypes.PyDLL` keeps the interpreter's lock, so that no other thread of the process runs in between.

- It does not exclude the same thread through another object, and is given back by the thread that took it.
- A process that is stopped keeps it. The others then give up after a millisecond.

Systems without robust mutexes (macOS) get a record lock, and a word that tells that a holder was killed. The system
releases it when ANY descriptor of the file is closed in the holder's process, so the file is opened, duplicated and
mapped only at start (`HostMemory`), and never closed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

from llm_gateway.host_memory import LOCK_WORDS, LOCKS_AT, WORD, HostMemory

LIMITS, BUDGETS = range(2)
"""The locks: of the rate limits and the states of providers, and of the budgets' accounts."""
IS_HELD, IS_MADE = LOCK_WORDS - 2, LOCK_WORDS - 1
"""Last words of a lock: 1 while a process holds the record lock, and 1 once the mutex is made."""
SPINS = 160
"""Attempts one after the other. One takes a quarter of a microsecond, and a holder needs ten."""
NAPS = 8
NAP_S = 50e-6
IMPATIENT_S = 0.05
"""Seconds for which the lock is tried only once each time, after it was waited for in vain."""
_SHARED = _ROBUST = 1  # PTHREAD_PROCESS_SHARED and PTHREAD_MUTEX_ROBUST, in glibc and in musl


class Calls(NamedTuple):
    """The calls of a lock. `try_lock` returns 0, `EBUSY`, or `EOWNERDEAD`: then `mend` is needed before `release`."""

    try_lock: Callable[[], int]
    release: Callable[[], object]
    mend: Callable[[], object]


Method: TypeAlias = Callable[[HostMemory, int], Calls]


class HostLock:
    """A lock that is held for some microseconds, and never across an `await`.

    Args:
        memory: shared by the processes.
        which: `LIMITS` or `BUDGETS`, which have nothing to do with each other.
        repair: puts right what a killed process left half done; called with the lock.
        method: how to lock; by default the best that the system has.
    """

    __slots__ = ("_impatient_until", "_mend", "_repair", "release", "try_lock")

    def __init__(
        self, memory: HostMemory, which: int, repair: Callable[[], None] | None = None, method: Method | None = None
    ) -> None:
        self.try_lock, self.release, self._mend = (method or robust_mutex)(memory, which)
        self._repair = repair
        self._impatient_until = 0.0

    def acquire(self) -> bool:
        """Take the lock; wait for a millisecond at most. Returns False if another process still holds it.

        After that, it is tried only once each time for `IMPATIENT_S`, so that a stopped holder does not slow down the
        event loop.

        Raises:
            OSError: the system cannot lock it.
        """
        code = self.try_lock()
        return not code or self.resolve(code)

    def resolve(self, code: int) -> bool:
        """Go on after a `try_lock` that returned this code, and not 0: as `acquire` does."""
        if code == errno.EBUSY:
            code = self._wait()
        if code == errno.EOWNERDEAD:
            is_repaired = False
            try:
                if self._repair is not None:
                    self._repair()
                is_repaired = True
            finally:
                self._mend()
                if not is_repaired:
                    self.release()
        elif code == errno.EBUSY:
            return False
        elif code:
            raise OSError(code, os.strerror(code))
        return True

    def _wait(self) -> int:
        if time.monotonic() < self._impatient_until:
            return errno.EBUSY
        for attempt in range(SPINS + NAPS):
            if attempt >= SPINS:
                time.sleep(NAP_S)
            code = self.try_lock()
            if code != errno.EBUSY:
                return code
        self._impatient_until = time.monotonic() + IMPATIENT_S
        return errno.EBUSY


def robust_mutex(memory: HostMemory, which: int) -> Calls:
    """Return the calls of the mutex in the memory, which the first process makes; a record lock without any."""
    calls = ctypes.PyDLL(None)
    if not hasattr(calls, "pthread_mutexattr_setrobust"):
        return record_lock(memory, which)
    at = LOCKS_AT + which * LOCK_WORDS
    mutex = (ctypes.c_char * (IS_HELD * WORD)).from_buffer(memory.mapped, at * WORD)  # keeps the memory mapped
    if not memory.words[at + IS_MADE]:
        fcntl.lockf(memory.descriptor, fcntl.LOCK_EX, 1, which)  # the other process needs microseconds
        try:
            if not memory.words[at + IS_MADE] and not _make(calls, mutex):
                return record_lock(memory, which)
            memory.words[at + IS_MADE] = 1
        finally:
            fcntl.lockf(memory.descriptor, fcntl.LOCK_UN, 1, which)
    return Calls(
        partial(calls.pthread_mutex_trylock, mutex),
        partial(calls.pthread_mutex_unlock, mutex),
        partial(calls.pthread_mutex_consistent, mutex),
    )


def _make(calls: ctypes.PyDLL, mutex: ctypes.Array[ctypes.c_char]) -> bool:
    """Make the mutex. Returns False on a system that has none of this kind."""
    attributes = ctypes.create_string_buffer(64)  # more than a pthread_mutexattr_t of any system
    codes = (
        calls.pthread_mutexattr_init(attributes),
        calls.pthread_mutexattr_setpshared(attributes, _SHARED),
        calls.pthread_mutexattr_setrobust(attributes, _ROBUST),
        calls.pthread_mutex_init(mutex, attributes),
    )
    return not any(codes)


def record_lock(memory: HostMemory, which: int) -> Calls:
    """Return the calls of a record lock on a byte of the memory's file."""
    words, held = memory.words, LOCKS_AT + which * LOCK_WORDS + IS_HELD

    def try_lock() -> int:
        try:
            fcntl.lockf(memory.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, which)
        except OSError as error:
            return errno.EBUSY if error.errno in (errno.EAGAIN, errno.EACCES) else error.errno or errno.EIO
        was_held = words[held]
        words[held] = 1
        return errno.EOWNERDEAD if was_held else 0

    def release() -> None:
        words[held] = 0
        fcntl.lockf(memory.descriptor, fcntl.LOCK_UN, 1, which)

    return Calls(try_lock, release, lambda: None)
