"""Accept the connections of a worker that is alone, many in one turn of the event loop.

uvloop by itself accepts one connection in a turn of the loop (libuv pull request 3696). A turn of a busy worker takes
tens of milliseconds: of 1,000 clients that connect at once the last would wait for many seconds, and a health check,
too.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from llm_gateway.server.opening import Opening
from llm_gateway.server.shared_state import SharedState

MOST_A_TURN = 64
"""Connections accepted in one turn of the loop beside its own."""


class EagerListener:
    """The event loop's server on a listening socket; what else waits is accepted after each of its connections."""

    def __init__(self, sock: socket.socket, connect: Callable[[], asyncio.Protocol], shared: SharedState) -> None:
        self._sock = sock
        self._connect = connect
        self._opening = Opening(connect, shared)
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None

    async def start(self, backlog: int) -> None:
        """Accept connections; up to `backlog` wait in the system.

        Raises:
            OSError: another process listens on the address.
        """
        self._sock.setblocking(False)
        self._server = await self._loop.create_server(self._accepted, sock=self._sock, backlog=backlog)

    def close(self) -> None:
        """Accept no more connections, and close the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _accepted(self) -> asyncio.Protocol:
        self._accept_others()
        return self._connect()

    def _accept_others(self) -> None:
        for _ in range(MOST_A_TURN):
            if self._server is None:
                return
            try:
                client, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._opening.tell(error)
                return
            self._opening.open(client)
