"""Turn signals into readable data (a self-pipe), so that one `poll` waits for them and for the children's leashes."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)


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
        """Wait for a signal or a readable descriptor. Returns the numbers of signals, and readable descriptors."""
        poll = select.poll()
        for descriptor in (self._reader, *descriptors):
            poll.register(descriptor, select.POLLIN)
        readable = {descriptor for descriptor, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)}
        if self._reader not in readable:
            return [], readable
        return self._read(), readable - {self._reader}

    def _read(self) -> list[int]:
        return list(os.read(self._reader, 4096))


def _noted(*_: object) -> None:
    """Do nothing: the interpreter has written the signal's number to the pipe."""
