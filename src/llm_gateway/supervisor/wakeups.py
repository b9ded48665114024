"""Signals of the supervisor as readable data, so that one `poll` waits for them and for the children's leashes."""

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

    def wait(self, descriptors: Iterable[int], timeout_s: float | None) -> tuple[list[int], set[int]]:
        """Wait for a signal or a readable descriptor. Returns the numbers of signals, and readable descriptors."""
        poll = select.poll()
        for descriptor in (self._reader, *descriptors):
            poll.register(descriptor, select.POLLIN)
        readable = {descriptor for descriptor, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)}
        if self._reader not in readable:
            return [], readable
        return list(os.read(self._reader, 4096)), readable - {self._reader}


def _noted(*_: object) -> None:
    """Do nothing: the interpreter has written the signal's number to the pipe."""
