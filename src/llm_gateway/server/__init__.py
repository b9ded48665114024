"""uvicorn with our limits on slow and huge input, and our drain.

`serve` runs an application until the process is told to stop; `Server` is the part without the process around it. A
`ClientConnection` turns bytes into `Exchange`s, `SharedState` is what all connections share.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
import uvloop

from llm_gateway.server.connection import ClientConnection
from llm_gateway.server.exchange import App
from llm_gateway.server.listening import bind, cannot_listen, refuse_new_connections
from llm_gateway.server.shared_state import Limits, Log, SharedState

BACKLOG = 2048
DRAIN_SWEEP_S = 0.02
FLUSH_S = 1.0
CANCEL_S = 5.0
GC_THRESHOLDS = (50_000, 5, 5)
"""When the cycle collector runs (`gc.set_threshold`): once 50,000 more container objects were made than freed.

Requests leave no cycles (tests/memory), so that it finds only what libraries leave. A lower threshold lets it walk the
batch of records that the shipper is decoding, while the event loop waits: 5 ms at 5,000."""

__all__ = ["Limits", "Server", "bind", "serve"]


class Lifespan:
    """The application's own start and stop (ASGI lifespan); what it raises reaches the caller."""

    def __init__(self, app: App) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._task: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._stopping = asyncio.Event()
        self._asked = False
        self._complaint = ""

    async def start(self) -> None:
        """Start the application.

        Raises:
            Exception: whatever it raised.
            CancelledError: `cancel` was called.
        """
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        self._task = asyncio.ensure_future(self._app(scope, self._receive, self._send))
        self._task.add_done_callback(lambda _: self._started.set())
        await self._started.wait()
        if self._task.done():
            self._task.result()
            raise RuntimeError(self._complaint or "The application ended when it was started.")

    def cancel(self) -> None:
        """Give up starting."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Stop the application.

        Raises:
            Exception: whatever it raised.
        """
        self._stopping.set()
        if self._task is not None:
            await self._task
        if self._complaint:
            raise RuntimeError(self._complaint)

    async def _receive(self) -> dict[str, str]:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "lifespan.startup.complete":
            self._started.set()
        elif message["type"].endswith(".failed"):
            self._complaint = message.get("message") or "The application failed to start or stop."


class Server:
    """Serves `app`. Stopping: `on_stopping` at once, then it accepts for `accept_s`, then drains for `drain_s`."""

    def __init__(
        self,
        app: App,
        *,
        accept_s: float,
        drain_s: float,
        on_stopping: Callable[[], None],
        log: Log,
        limits: Limits | None = None,
    ) -> None:
        self._accept_s = accept_s
        self._drain_s = drain_s
        self._on_stopping = on_stopping
        self._log = log
        self._shared = SharedState(limits or Limits(), log)
        self._lifespan = Lifespan(app)
        self._sock: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._config = uvicorn.Config(
            app,
            http=ClientConnection,
            ws="none",
            interface="asgi3",
            loop="none",
            log_config=None,
            log_level="critical",  # what it has to say comes through `log`
            access_log=False,
            proxy_headers=False,
        )

    async def start(self, sock: socket.socket) -> None:
        """Start the application, then accept connections on the bound socket.

        Raises:
            ConfigurationError: another process listens there by now.
            Exception: whatever the application raised.
            CancelledError: `stop` was called meanwhile.
        """
        self._config.load()
        loop = asyncio.get_running_loop()
        await self._lifespan.start()
        if self._stop_asked.is_set():  # in the turn of the loop in which it had just started
            await self._lifespan.stop()
            raise asyncio.CancelledError
        try:
            sock.listen(BACKLOG)  # uvloop's own keeps the error to itself
            self._listener = await loop.create_server(self._connect, sock=sock, backlog=BACKLOG)
        except OSError as error:
            await self._lifespan.stop()
            raise cannot_listen(error, *sock.getsockname()[:2]) from error
        self._sock = sock
        self._sweeper = loop.create_task(self._sweep())

    def _connect(self) -> ClientConnection:
        return ClientConnection(self._config, self._shared, self._lifespan.state)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._shared.renew_date()
            self._shared.sweep(loop.time())
            await asyncio.sleep(self._shared.limits.sweep_s)

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or its bookkeeping goes on."""
        return bool(self._shared.tasks)

    def stop(self, *, accepting: bool = True) -> None:
        """Begin to stop; the second time, cancel what is still running instead of waiting for it.

        Without `accepting` nothing new is taken from now on.
        """
        if self._stop_asked.is_set():
            self._hurry.set()
            return
        self._stop_asked.set()
        if not accepting:
            self._accept_s = 0.0
        if self._listener is None:
            self._lifespan.cancel()
            return
        self._shared.stopping = True
        self._on_stopping()

    async def run(self) -> None:
        """Serve until stopped, then drain and stop the application.

        Raises:
            Exception: whatever the application raised when it was stopped.
        """
        await self._stop_asked.wait()
        self._log("stopping", accept_s=self._accept_s, drain_s=self._drain_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._accept_s)
        if self._sock is not None and self._listener is not None:
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
        return list(self._shared.connections)  # type: ignore[arg-type]  # all are ours


def serve(
    app: App, *, host: str, port: int, accept_s: float, drain_s: float, on_stopping: Callable[[], None], log: Log
) -> int:
    """Serve `app` until SIGTERM or SIGINT, drain, and return the exit code. A second signal skips the waiting.

    Args:
        app: the ASGI application; its lifespan is run.
        host: a name or address of this machine.
        port: 0 for any free one.
        accept_s: seconds to go on accepting after the signal, each response then closing its connection.
        drain_s: seconds given to requests in flight after that.
        on_stopping: called at the signal.
        log: `log(event, level=…, **fields)`.

    Raises:
        ConfigurationError: the address cannot be had.
        Exception: whatever the application raised when it was started or stopped.
    """
    sock = bind(host, port)
    limits = Limits(connections=_most_connections())
    server = Server(app, accept_s=accept_s, drain_s=drain_s, on_stopping=on_stopping, log=log, limits=limits)
    with contextlib.closing(sock), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(server, sock, log))


def _most_connections() -> int:
    """What the limit of open files leaves to clients: a third of it is for upstream connections and files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, files * 2 // 3) if files != resource.RLIM_INFINITY else Limits().connections


async def _serve(server: Server, sock: socket.socket, log: Log) -> int:
    loop = asyncio.get_running_loop()

    def report(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        log("event loop", level="error", problem=context["message"], exc_info=context.get("exception"))

    loop.set_exception_handler(report)
    loop.add_signal_handler(signal.SIGTERM, server.stop)
    # Ctrl-C comes from a person at a terminal: there is no load balancer to wait for.
    loop.add_signal_handler(signal.SIGINT, partial(server.stop, accepting=False))
    try:
        await server.start(sock)
    except asyncio.CancelledError:
        log("stopped while starting")
        return 0
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    host, port = sock.getsockname()[:2]
    log("ready", url=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    await server.run()
    return 0
