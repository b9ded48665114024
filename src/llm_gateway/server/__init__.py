"""HTTP server for ASGI apps: uvicorn with limits on slow and large requests, and a graceful stop.

A `ClientConnection` parses requests into `Exchange`s; `SharedState` holds what all connections share.

    start ──▶ accepting ── stop ──▶ accepting, each response closes its connection ── accept_s ──▶ not accepting
                                                                                                        │
    stopped ◀── lifespan shutdown ◀── flushed ◀── requests in flight done, or cancelled after drain_s ──┘

A second `stop` skips the waits. `retire` is a stop while other processes go on accepting on the same socket: the time
`accept_s` is left out, and nothing is done to the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from llm_gateway.errors import ConfigurationError
from llm_gateway.host_memory.workers import WorkerPlace
from llm_gateway.listening import bind, cannot_listen
from llm_gateway.server.accepting import refuse_new_connections
from llm_gateway.server.balanced_listener import BalancedListener
from llm_gateway.server.connection import ClientConnection
from llm_gateway.server.eager_listener import EagerListener
from llm_gateway.server.exchange import App
from llm_gateway.server.same_user import SameUserConnection
from llm_gateway.server.shared_state import Limits, Log, SharedState

BACKLOG = 2048
"""Connections that the kernel holds until they are accepted."""
TURNS_TO_OPEN = 3
"""Turns of the loop after which a connection that the loop accepted is among the server's."""
OPENING_S = 1.0
"""Time in which sockets that were accepted before the stop become connections; it takes a few turns."""
DRAIN_SWEEP_S = 0.02
"""Seconds between two looks for overdue connections while stopping."""
FLUSH_S = 1.0
"""Seconds to write the last responses to their clients while stopping."""
CANCEL_S = 5.0
"""Seconds for cancelled requests to end."""
__all__ = ["Limits", "Server", "bind", "most_connections", "url_of"]


class Lifespan:
    """The application's start and stop (ASGI lifespan). What the application raises is raised to the caller."""

    def __init__(self, app: App) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._task: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._stopping = asyncio.Event()
        self._startup_sent = False
        self._failure = ""

    async def start(self) -> None:
        """Start the application.

        Raises:
            Exception: what the application raised.
            CancelledError: `cancel` was called.
        """
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        self._task = asyncio.ensure_future(self._app(scope, self._receive, self._send))
        self._task.add_done_callback(lambda _: self._started.set())
        await self._started.wait()
        if self._task.done():
            self._task.result()
            raise RuntimeError(self._failure or "The application ended when it was started.")

    def cancel(self) -> None:
        """Cancel a `start` that is under way."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Stop the application.

        Raises:
            Exception: what the application raised.
        """
        self._stopping.set()
        if self._task is not None:
            await self._task
        if self._failure:
            raise RuntimeError(self._failure)

    async def _receive(self) -> dict[str, str]:
        if not self._startup_sent:
            self._startup_sent = True
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "lifespan.startup.complete":
            self._started.set()
        elif message["type"].endswith(".failed"):
            self._failure = message.get("message") or "The application failed to start or stop."


class Server:
    """An HTTP server for `app`: call `start`, then `run`; `stop` ends `run`. The module's docstring draws its states.

    Args:
        app: the ASGI application; its lifespan is run.
        accept_s: seconds to go on accepting after `stop`, until load balancers have noticed.
        drain_s: seconds given to requests in flight after that, before they are cancelled.
        on_stopping: called by the first `stop`.
        log: `log(event, level=…, **fields)`.
        limits: time and size limits for clients.
        place: this worker's place in the host's memory, if several accept on the same socket: each then accepts about
            as many connections as the others.
    """

    def __init__(
        self,
        app: App,
        *,
        accept_s: float,
        drain_s: float,
        on_stopping: Callable[[], None],
        log: Log,
        limits: Limits | None = None,
        place: WorkerPlace | None = None,
    ) -> None:
        self._accept_s = accept_s
        self._drain_s = drain_s
        self._on_stopping = on_stopping
        self._log = log
        self._shared = SharedState(limits or Limits(), log, place)
        self._lifespan = Lifespan(app)
        self._sock: socket.socket | None = None
        self._listener: asyncio.Server | BalancedListener | EagerListener | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._stop_requested = asyncio.Event()
        self._hurry = asyncio.Event()
        self._has_successor = False
        self._config = uvicorn.Config(
            app,
            http=ClientConnection,
            ws="none",
            interface="asgi3",
            loop="none",
            log_config=None,
            log_level="critical",  # the gateway's own log reports these events
            access_log=False,
            proxy_headers=False,
        )

    async def start(self, bound: socket.socket | Callable[[], socket.socket]) -> None:
        """Start the application, then accept connections on a bound socket; a function can bind it then.

        Raises:
            ConfigurationError: another process listens on the address.
            Exception: what the application raised.
            CancelledError: `stop` was called in the meantime.
        """
        self._config.load()
        loop = asyncio.get_running_loop()
        await self._lifespan.start()
        if self._stop_requested.is_set():  # by a signal in the same turn of the event loop
            await self._lifespan.stop()
            raise asyncio.CancelledError
        try:
            sock = bound if isinstance(bound, socket.socket) else bound()
        except ConfigurationError:
            await self._lifespan.stop()
            raise
        try:
            await self.listen(sock)
        except OSError as error:
            await self._lifespan.stop()
            if sock.family == socket.AF_UNIX:
                raise
            raise cannot_listen(error, *sock.getsockname()[:2]) from error
        self._sweeper = loop.create_task(self._sweep())

    async def listen(self, sock: socket.socket) -> None:
        """Accept connections on a bound socket, in place of the socket before; connections made on that one stay.

        On a Unix socket only processes of the same user are served.

        Raises:
            OSError: another process listens on the address.
        """
        sock.listen(BACKLOG)  # raises EADDRINUSE, which uvloop's own call would not report
        loop, before = asyncio.get_running_loop(), self._listener
        if sock.family == socket.AF_UNIX:
            self._listener = await loop.create_unix_server(
                lambda: self._connect(SameUserConnection), sock=sock, backlog=BACKLOG
            )
        elif self._shared.place is not None:
            self._listener = BalancedListener(sock, self._connect, self._shared)
        else:
            listener = EagerListener(sock, self._connect, self._shared)
            await listener.start(BACKLOG)
            self._listener = listener
        self._sock = sock
        if before is not None:
            before.close()

    def _connect(self, kind: type[ClientConnection] = ClientConnection) -> ClientConnection:
        return kind(self._config, self._shared, self._lifespan.state)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._shared.renew_date()
            self._shared.sweep(loop.time())
            await asyncio.sleep(self._shared.limits.sweep_s)

    @property
    def is_busy(self) -> bool:
        """True while a request is being answered, or its usage record is being written."""
        return bool(self._shared.tasks)

    @property
    def is_stopping(self) -> bool:
        """True from the first `stop` or `retire` on."""
        return self._stop_requested.is_set()

    def retire(self) -> None:
        """Begin to stop because other processes accept connections on the same socket; no client is turned away.

        The readiness probe goes on, since it is the host's. A server that stops already is left alone.
        """
        if not self._stop_requested.is_set():
            self._has_successor = True
            self._shared.stop_idle_s = min(self._shared.limits.retired_idle_s, self._drain_s / 2)
            self.stop(accepting=False)

    def stop(self, *, accepting: bool = True) -> None:
        """Begin to stop; a second call cancels running requests instead of waiting for them.

        `accepting=False` skips the time in which new connections are still accepted.
        """
        if self._stop_requested.is_set():
            self._hurry.set()
            return
        self._stop_requested.set()
        if not accepting:
            self._accept_s = 0.0
        if self._listener is None:
            self._lifespan.cancel()
            return
        self._shared.stopping = True
        if not self._has_successor:
            self._on_stopping()

    async def run(self) -> None:
        """Serve until stopped, then drain and stop the application.

        Raises:
            Exception: what the application raised when it was stopped.
        """
        await self._stop_requested.wait()
        event = "retiring" if self._has_successor else "stopping"
        self._log(event, accept_s=self._accept_s, drain_s=self._drain_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._accept_s)
        if self._sock is not None and self._listener is not None:
            if not self._has_successor:
                refuse_new_connections(self._sock)
                await asyncio.sleep(self._shared.limits.connect_s)
            self._listener.close()
        await self._drain()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._lifespan.stop()
        self._log("stopped")

    async def _drain(self) -> None:
        shared = self._shared
        for _ in range(TURNS_TO_OPEN):
            await asyncio.sleep(0)
        await self._wait_until(lambda: self._hurry.is_set() or not shared.opening, OPENING_S)
        for connection in self._connections():
            connection.retire()
        await self._wait_until(lambda: self._hurry.is_set() or not (shared.connections or shared.tasks), self._drain_s)
        if shared.tasks:
            self._log("requests cancelled", level="warning", count=len(shared.tasks))
            tasks = list(shared.tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CANCEL_S)
        shared.outbox.empty()
        await self._wait_until(self._flushed, FLUSH_S)
        for connection in self._connections():
            connection.transport.abort()
        await asyncio.sleep(0)

    async def _wait_until(self, done: Callable[[], bool], seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not done() and loop.time() < end:
            self._shared.sweep(loop.time())
            await asyncio.sleep(DRAIN_SWEEP_S)

    def _flushed(self) -> bool:
        return not any(connection.transport.get_write_buffer_size() for connection in self._connections())

    def _connections(self) -> list[ClientConnection]:
        return list(self._shared.connections)  # type: ignore[arg-type]  # `_connect` makes all of them


def most_connections() -> int:
    """Return the limit of client connections: two thirds of the open files allowed; upstream connections need some."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, files * 2 // 3) if files != resource.RLIM_INFINITY else Limits().connections


def url_of(sock: socket.socket) -> str:
    """Return the URL of a TCP socket that is listened on."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
