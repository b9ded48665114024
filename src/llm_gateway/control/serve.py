"""Server of the control process: what it does when the supervisor starts it, signals it, or dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
from functools import partial

from llm_gateway.child_process import ChildServer, run_child
from llm_gateway.control.process import ControlProcess
from llm_gateway.forwarding.control_server import ControlServer
from llm_gateway.forwarding.control_socket import ControlSocket
from llm_gateway.inherited import PREPARED, Inherited
from llm_gateway.process import lower_priority
from llm_gateway.settings import Settings
from llm_gateway.telemetry.process_log import ProcessLog

NICENESS = 5
"""Added to the process's niceness once it serves, so that shipping and reports leave the processor to calls. Before,
requests wait for it."""
ANNOUNCED_S = 0.1
"""Seconds between the announcement of the end and the end itself: in them workers send their last requests."""
ORPHANED_S = 0.1
"""Seconds between two looks whether workers are still connected, once the supervisor has died."""


def serve(inherited: Inherited) -> int:
    """Run the control plane until SIGTERM or SIGINT. Returns the exit code."""
    return run_child(inherited, build)


def build(settings: Settings, output: ProcessLog, inherited: Inherited) -> ChildServer:
    """Build the server of the control process's application on the control socket."""

    def prepared() -> None:
        with contextlib.suppress(OSError):  # the supervisor has died
            os.write(inherited.leash, PREPARED)

    app = ControlProcess(settings, output, memory=inherited.memory, on_prepared=prepared)
    server = ControlServer(
        app,
        ControlSocket(settings.data_dir),
        drain_s=settings.drain_seconds,
        log=partial(app.refusals, process="control"),
    )

    async def stop_after_workers() -> None:
        while app.has_workers:  # noqa: ASYNC110 - nothing wakes it: they end one by one, within the time to drain
            await asyncio.sleep(ORPHANED_S)
        server.stop()

    waiting: list[asyncio.Task[None]] = []  # the event loop alone would not keep the task

    def orphaned() -> None:
        waiting.append(asyncio.get_running_loop().create_task(stop_after_workers()))

    async def start() -> None:
        await server.start()
        await app.admit_workers()
        lower_priority(NICENESS)

    def stop() -> None:
        if app.has_workers:
            app.announce_leaving()
            asyncio.get_running_loop().call_later(ANNOUNCED_S, server.stop)
        else:
            server.stop()

    return ChildServer(start, server.run, stop=stop, interrupt=stop, retire=stop, orphaned=orphaned)
