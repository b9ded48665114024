"""Make the server process safe before it opens anything."""

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
