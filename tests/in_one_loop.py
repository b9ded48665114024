"""Gateway in the test's event loop: a control process's and a worker's application, connected by their real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

from starlette.types import Receive, Scope, Send

from llm_gateway.control.process import ControlProcess
from llm_gateway.data_dir import DataDir
from llm_gateway.forwarding.control_server import ControlServer
from llm_gateway.forwarding.control_socket import ControlSocket
from llm_gateway.settings import Settings
from llm_gateway.telemetry.process_log import open_log
from llm_gateway.worker.process import WorkerProcess


class GatewayInOneLoop:
    """An ASGI app like the worker's; its lifespan starts control first. `log_writer` must be entered before.

    `stop_control` ends control, and leaves the worker alone.
    """

    stop_control: Callable[[], Awaitable[None]]

    def __init__(self, settings: Settings) -> None:
        output = self.output = open_log(
            level=settings.log_level, form=settings.log_format, secrets=[key for _, key, _ in settings.callers()]
        )
        self.log_writer, self.log = output.writer, output.log
        self.control = ControlProcess(settings, output)
        self.worker = WorkerProcess(settings, output)
        self.stop_serving = self.worker.stop_serving
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the ASGI lifespan, and pass requests to the worker."""
        if scope["type"] != "lifespan":
            await self.worker(scope, receive, send)
            return
        with closing(DataDir(self.settings.data_dir)):
            async with self._control():
                await self.worker(scope, receive, send)

    @asynccontextmanager
    async def _control(self) -> AsyncIterator[None]:
        with closing(ControlSocket(self.settings.data_dir)) as address:
            server = ControlServer(self.control, address, drain_s=1.0, log=self.log)
            await server.start()
            await self.control.admit_workers()
            running = asyncio.create_task(server.run())

            async def stop() -> None:
                server.stop()
                await running

            self.stop_control = stop
            try:
                yield
            finally:
                await stop()
