"""Turn signals into readable data (a self-pipe), so that one `poll` waits for them and for the children's leashes."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)
LONGEST_WAIT_S = 86_400.0
"""Maximum seconds of one wait: poll(2) takes at most 24 days, and a setting such as the time to drain can be longer."""


class Wakeups:
    """Signals that arrived since the last wait; from its creation on they no longer end the process."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        for descriptor in (self._reader, self._writer):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in CAUGHT:
            signal.signal(number, _noted)
        self.unblock()  # they may have been blocked for this moment by the code before (`renewal.py`)

    def block(self) -> list[int]:
        """Let signals wait, so that none is lost when another program takes over. Returns those that had arrived."""
        signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
        return self._read() if select.select([self._reader], [], [], 0)[0] else []

    def unblock(self) -> None:
        """Let signals arrive, also those that wait."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, CAUGHT)

    def wait(self, descriptors: Iterable[int], timeout_s: float | None) -> tuple[list[int], set[int]]:
        """Wait for a signal or a readable descriptor. Returns the numbers of signals, and readable descriptors.

        It may return before the time is over, with nothing.
        """
        poll = select.poll()
        for descriptor in (self._reader, *descriptors):
            poll.register(descriptor, select.POLLIN)
        timeout_ms = None if timeout_s is None else min(timeout_s, LONGEST_WAIT_S) * 1000
        readable = {descriptor for descriptor, _ in poll.poll(timeout_ms)}
        if self._reader not in readable:
            return [], readable
        return self._read(), readable - {self._reader}

    def _read(self) -> list[int]:
        return list(os.read(self._reader, 4096))


def _noted(*_: object) -> None:
    """Do nothing: the interpreter has written the signal's number to the pipe."""
