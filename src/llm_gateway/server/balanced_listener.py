"""Accept connections on a socket that several workers listen on, so that each has about as many as the others.

Each worker accepts while it has no more than a quarter above the mean of the workers that accept, and one more. The
one with the fewest connections is never above that, so somebody always accepts.

    looking ── connection waits, share not full ──▶ accept it ──▶ looking
       ▲ └── connection waits, share is full ──▶ paused for `PAUSE_S` ─┐
       └───────────────────────────────────────────────────────────────┘

Only a connection that waits wakes a worker, so that idle ones use no time. A connection that no worker has accepted for
`LONGEST_PAUSE_S` is accepted by one that is above its share: the others do not run.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from llm_gateway.host_memory.workers import ACCEPTED, IS_ACCEPTING
from llm_gateway.server.opening import Opening
from llm_gateway.server.shared_state import SharedState

ABOVE_MEAN = 1.25
"""Share of the mean up to which a worker accepts, beside one more connection."""
PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.05
NO_FILES_PAUSE_S = 1.0
"""Pause after the system could not accept a connection, such as for want of file descriptors; asyncio's own."""


class BalancedListener:
    """The listening socket of one worker. `connect` makes the protocol of a connection; `shared.place` must be set."""

    def __init__(self, sock: socket.socket, connect: Callable[[], asyncio.Protocol], shared: SharedState) -> None:
        if shared.place is None:
            raise ValueError("A balanced listener needs a place in the memory of the host.")
        self._sock = sock
        self._shared = shared
        self._place = shared.place
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._opening = Opening(connect, shared)
        self._accepted = 0
        self._seen = -1
        """Connections accepted by all workers when `_since` was set."""
        self._since = 0.0
        sock.setblocking(False)
        self._place.hold(IS_ACCEPTING, 1)
        self._resume()

    def close(self) -> None:
        """Accept no more connections, and close this worker's descriptor of the socket."""
        self._place.hold(IS_ACCEPTING, 0)
        if self._timer is None:
            self._loop.remove_reader(self._sock)
        else:
            self._timer.cancel()
        self._sock.close()

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._sock, self._accept)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._sock)
        self._timer = self._loop.call_later(seconds, self._resume)

    def _accept(self) -> None:
        """Accept the connections that wait, up to this worker's share."""
        while True:
            if self._is_full() and not self._is_left_alone():
                self._pause(PAUSE_S)
                return
            try:
                client, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                self._seen = -1
                return
            except OSError as error:
                self._opening.tell(error)
                self._pause(NO_FILES_PAUSE_S)
                return
            self._open(client)

    def _is_full(self) -> bool:
        count, connections = self._place.accepting()
        return self._shared.open_connections() * count > ABOVE_MEAN * connections + count

    def _is_left_alone(self) -> bool:
        """Return whether a connection has waited for too long."""
        now, accepted = self._loop.time(), self._place.total(ACCEPTED)
        if accepted != self._seen:
            self._seen, self._since = accepted, now
        if now - self._since < LONGEST_PAUSE_S:
            return False
        self._since = now
        return True

    def _open(self, client: socket.socket) -> None:
        self._accepted += 1
        self._place.hold(ACCEPTED, self._accepted)
        self._opening.open(client)
