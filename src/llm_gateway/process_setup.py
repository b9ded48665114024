"""Set up a new process: ignore stray signals, open closed standard descriptors, forbid dumps, set its priority."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

IGNORED_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that end a process by default. A closed terminal (SIGHUP) or a log rotation must not cut off requests."""
PR_SET_DUMPABLE = 4  # linux/prctl.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGE_BLOCK_BYTES, KEPT_BYTES = 4 * 1024 * 1024, 16 * 1024 * 1024
STANDARD_DESCRIPTORS = (0, 1, 2)
"""File descriptors of stdin, stdout and stderr."""


def protect_process() -> None:
    """Ignore `IGNORED_SIGNALS`, and open stdin, stdout and stderr on the null device where they are closed.

    Call this before any file is opened. The system assigns the lowest free descriptor, so that a socket or a database
    file could become standard output, and log lines would be written into it. Both measures survive `exec`.
    """
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for descriptor in STANDARD_DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            _occupy(descriptor)


def forbid_memory_dumps() -> None:
    """Let no process of this user read this one's memory, and the system write none to a file (Linux: prctl(2)).

    The memory holds the providers' keys. Root can still read it.
    """
    import ctypes  # noqa: PLC0415 - the supervisor, which must stay small, does not call this

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def map_large_blocks() -> None:
    """Keep each block of 4 MiB or more in a mapping of its own (glibc: mallopt(3)).

    Such a block grows without being copied and is given back to the system when it is freed. By default, glibc raises
    the limit to 32 MiB once a large block was freed: growing a body of that size then stops the event loop for 15 ms.
    Up to 16 MiB of freed memory are kept, since memory that was given back takes 0.3 ms a mebibyte to be used again.
    """
    import ctypes  # noqa: PLC0415 - the supervisor, which must stay small, does not call this

    if hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _occupy(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # a system without the null device
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
        os.set_inheritable(descriptor, True)


def lower_priority(niceness: int) -> None:
    """Add to the niceness of this process, on Linux of all its threads, which have one each (sched(7))."""
    try:
        threads = os.listdir("/proc/self/task")  # noqa: PTH208 - pathlib takes memory of the supervisor
    except OSError:
        os.nice(niceness)
        return
    for number in map(int, threads):
        with contextlib.suppress(OSError):  # the thread has ended
            os.setpriority(os.PRIO_PROCESS, number, os.getpriority(os.PRIO_PROCESS, number) + niceness)


def schedule_in_background() -> None:
    """Schedule the calling thread as SCHED_BATCH, so that it does not preempt others on wake-up (Linux: sched(7)).

    Call this in threads on which no request waits. They would otherwise interrupt the event loop during a request.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
