"""Turn accepted sockets into connections of the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from llm_gateway.server.shared_state import SharedState

TELL_EVERY_S = 0.9


class Opening:
    """Accepted sockets whose connections are being made; `connect` makes the protocol of one."""

    def __init__(self, connect: Callable[[], asyncio.Protocol], shared: SharedState) -> None:
        self._connect = connect
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._told_at = -TELL_EVERY_S

    def open(self, client: socket.socket) -> None:
        """Make the connection of a socket that was just accepted."""
        client.setblocking(False)
        with contextlib.suppress(OSError):  # the client has left
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._shared.opening += 1
        self._shared.count_connections()
        task = self._loop.create_task(self._attach(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def tell(self, error: OSError) -> None:
        """Log that the system could not accept a connection, such as for want of file descriptors; once a second."""
        if (now := self._loop.time()) - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            self._shared.log("connections cannot be accepted", level="error", problem=error.strerror or str(error))

    async def _attach(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._connect, client)
        except OSError:  # the client has left
            client.close()
        except BaseException:  # edge: without a transport nobody else closes it
            client.close()
            raise
        finally:
            self._shared.opening -= 1
            self._shared.count_connections()
