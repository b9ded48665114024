"""Control's side of the management API: a server on the control socket, which binds it again if its file is deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp

from llm_gateway.forwarding.caller_header import RestoreCaller
from llm_gateway.forwarding.control_socket import ControlSocket, keep_bound
from llm_gateway.server import Limits, Server

LIMITS = Limits(body_s=3600.0, stalled_s=3600.0, stop_idle_s=0.0, connect_s=0.0, head_bytes=96 * 1024)
"""The server of the worker limits its clients. Here the limits must not be reached first: a client that reads a little
now and then keeps a response waiting for longer than any part of it, and the identity comes on top of the headers.
At a stop nothing waits for idle connections: the workers try again, and the next control process waits for the end."""


class ControlServer:
    """An HTTP server for `app` on the control socket, with the callers that the workers' gates found.

    Call `start`, then `run`; `stop` ends `run`. The lifespan of `app` is run.

    Args:
        app: the ASGI application.
        control: the address to listen on.
        drain_s: seconds given to requests in flight after `stop`, before they are cancelled.
        log: `log(event, level=…, **fields)`.
        on_stopping: called by the first `stop`.
    """

    def __init__(
        self,
        app: ASGIApp,
        control: ControlSocket,
        *,
        drain_s: float,
        log: Callable[..., None],
        on_stopping: Callable[[], None] = lambda: None,
    ) -> None:
        self._control = control
        self._log = log
        self._server = Server(
            RestoreCaller(app, log),
            accept_s=0.0,
            drain_s=drain_s,
            on_stopping=on_stopping,
            log=log,
            limits=LIMITS,
        )
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the application, then accept connections.

        Raises:
            ConfigurationError: the socket's file cannot be made.
            Exception: what the application raised.
            CancelledError: `stop` was called in the meantime.
        """
        await self._server.start(self._control.bind_at_start)  # not before: until then another process may serve
        self._watcher = asyncio.get_running_loop().create_task(
            keep_bound(self._control, self._server.listen, self._log)
        )

    def stop(self) -> None:
        """Begin to stop; a second call cancels running requests instead of waiting for them."""
        if self._watcher is not None:
            self._watcher.cancel()
        self._server.stop(accepting=False)

    async def run(self) -> None:
        """Serve until stopped, drain, stop the application, and delete the socket's file.

        Raises:
            Exception: what the application raised when it was stopped.
        """
        try:
            await self._server.run()
        finally:
            self._control.remove()
