"""Lock between the processes of one host, on a byte of a file that all have inherited open.

It is a POSIX record lock (`F_SETLK`): the system releases it when its holder is killed. Three traps:

- It is released when ANY descriptor of the file is closed in the holder's process. So the file is opened, duplicated
  and mapped only at start (`HostMemory`), and never closed.
- It does not exclude threads, nor two locks of one process: only the thread of the event loop uses it.
- `fcntl.lockf` lets other threads of the process run while the lock is held, and a neighbour then waits for as long as
  they do. `ctypes.PyDLL` keeps the interpreter's lock. Beside Linux, where the call differs, `lockf` serves.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct
import sys
import time
from collections.abc import Callable
from functools import partial

SPINS = 40
"""Attempts one after the other. One takes about a microsecond, and a holder needs ten."""
NAPS = 8
NAP_S = 50e-6
BUSY = (errno.EAGAIN, errno.EACCES)


class HostLock:
    """A lock that is held for some microseconds, and never across an `await`. `release` gives it back.

    Locks on different bytes of the file have nothing to do with each other.
    """

    __slots__ = ("_byte", "_descriptor", "_is_stuck", "_try", "release")

    def __init__(self, descriptor: int, byte: int = 0) -> None:
        self._descriptor = descriptor
        self._byte = byte
        self._try: Callable[[], int]
        self.release: Callable[[], object]
        if sys.platform == "linux":
            self._try, self.release = _system_calls(descriptor, byte)
        else:
            self._try = partial(_try_lock, descriptor, byte)
            self.release = partial(fcntl.lockf, descriptor, fcntl.LOCK_UN, 1, byte)
        self._is_stuck = False

    def acquire(self) -> bool:
        """Take the lock; wait for a millisecond at most. Returns False if another process still holds it.

        After that, it is tried only once each time until it succeeds, so that a stopped holder does not slow down the
        event loop.

        Raises:
            OSError: the system cannot lock the file.
        """
        if not self._try():
            self._is_stuck = False
            return True
        return False if self._is_stuck else self._wait()

    def _wait(self) -> bool:
        for _ in range(SPINS):
            if not self._try():
                return True
        for _ in range(NAPS):
            time.sleep(NAP_S)
            if not self._try():
                return True
        if not _try_lock(self._descriptor, self._byte):  # other errors than a held lock are raised here
            return True
        self._is_stuck = True
        return False


def _system_calls(descriptor: int, byte: int) -> tuple[Callable[[], int], Callable[[], object]]:
    """Return functions that try to take the lock and release it, by the system's own call; 0 for success.

    Arguments that are C objects already, and no copy of errno, save a third of the time.
    """
    call = ctypes.PyDLL(None).fcntl
    file, command = ctypes.c_int(descriptor), ctypes.c_int(fcntl.F_SETLK)
    # struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid. The functions keep it in memory.
    take, release = (
        ctypes.create_string_buffer(struct.pack("hhqqi4x", kind, 0, byte, 1, 0))
        for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK)
    )
    return partial(call, file, command, take), partial(call, file, command, release)


def _try_lock(descriptor: int, byte: int) -> int:
    """Try to take the lock by Python's own call; 0 for success.

    Raises:
        OSError: the system cannot lock the file.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        if error.errno in BUSY:
            return -1
        raise
    return 0
