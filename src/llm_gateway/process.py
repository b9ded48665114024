"""What the server asks of its process: to be safe before it opens anything, and how its threads are scheduled."""

from __future__ import annotations

import contextlib
import os
import signal

IGNORED_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that would end the process by default. A closed terminal, or a log rotation that signals its programs, must
not cut the requests in flight."""
STANDARD_DESCRIPTORS = (0, 1, 2)


def protect_process() -> None:
    """Ignore signals that ask for no shutdown, and open closed stdin, stdout and stderr on the null device.

    Call it before anything is opened: the system gives out the lowest free descriptor, so that a socket or a database
    file would become standard output, and log lines would be written into it. Both survive `exec`.
    """
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for descriptor in STANDARD_DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            _occupy(descriptor)


def _occupy(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # a system without the null device
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
        os.set_inheritable(descriptor, True)


def schedule_in_background() -> None:
    """Let the calling thread wait for the thread that runs, instead of preempting it when it wakes (Linux: sched(7)).

    For threads that no request waits for: each would take the core from the event loop in the middle of a request.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
