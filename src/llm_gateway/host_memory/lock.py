"""Lock between the processes of one host, on the first byte of a file that all have inherited open.

It is a POSIX record lock (`F_SETLK`): the system releases it when its holder is killed. Three traps:

- It is released when ANY descriptor of the file is closed in the holder's process. So the file is opened, duplicated
  and mapped only at start (`HostMemory`), and never closed.
- It does not exclude threads, nor two locks of one process: only the thread of the event loop uses it.
- `fcntl.lockf` lets other threads of the process run while the lock is held, and a neighbour then waits for as long as
  they do. `ctypes.PyDLL` keeps the interpreter's lock; where the structure of the call is not known, `lockf` serves.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct
import sys
import time
from collections.abc import Callable

SPINS = 40
"""Attempts one after the other. One takes about a microsecond, and a holder needs ten."""
NAPS = 8
NAP_S = 50e-6
BUSY = (errno.EAGAIN, errno.EACCES)


class HostLock:
    """A lock that is held for some microseconds, and never across an `await`."""

    __slots__ = ("_is_stuck", "_try", "release")

    def __init__(self, descriptor: int) -> None:
        take, self.release = _system_calls(descriptor) if sys.platform == "linux" else _portable_calls(descriptor)
        self._try: Callable[[], bool] = take
        self._is_stuck = False

    def acquire(self) -> bool:
        """Take the lock; wait for a millisecond at most. Returns False if another process still holds it.

        After that, it is tried only once each time until it succeeds, so that a stopped holder does not slow down the
        event loop.
        """
        if self._try():
            self._is_stuck = False
            return True
        return False if self._is_stuck else self._wait()

    def _wait(self) -> bool:
        for _ in range(SPINS):
            if self._try():
                return True
        for _ in range(NAPS):
            time.sleep(NAP_S)
            if self._try():
                return True
        self._is_stuck = True
        return False


def _system_calls(descriptor: int) -> tuple[Callable[[], bool], Callable[[], None]]:
    """Return functions that try to take the lock and release it, by the system's own call without a detour."""
    call = ctypes.PyDLL(None, use_errno=True).fcntl
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    call.restype = ctypes.c_int
    # struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.
    take, release = (
        ctypes.create_string_buffer(struct.pack("hhqqi4x", kind, 0, 0, 1, 0)) for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK)
    )
    take_at, release_at, command = ctypes.addressof(take), ctypes.addressof(release), fcntl.F_SETLK

    def try_lock(_keep: object = take) -> bool:
        if not call(descriptor, command, take_at):
            return True
        code = ctypes.get_errno()
        if code in BUSY:
            return False
        raise OSError(code, "The lock of the shared memory cannot be taken")

    def unlock(_keep: object = release) -> None:
        call(descriptor, command, release_at)

    return try_lock, unlock


def _portable_calls(descriptor: int) -> tuple[Callable[[], bool], Callable[[], None]]:
    """Return functions that try to take the lock and release it, by Python's own call."""

    def try_lock() -> bool:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError as error:
            if error.errno in BUSY:
                return False
            raise
        return True

    def unlock() -> None:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1)

    return try_lock, unlock
