"""Run the control process's server: start, react to the supervisor's signals, and end when the supervisor dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
from functools import partial

from llm_gateway.child_process import ChildServer, run_child
from llm_gateway.control.admin_port import AdminPort
from llm_gateway.control.process import ControlProcess
from llm_gateway.forwarding.control_server import ControlServer
from llm_gateway.forwarding.control_socket import ControlSocket
from llm_gateway.gate.jwt_callers import TokenCallers
from llm_gateway.inherited import PREPARED, Inherited
from llm_gateway.model_hand_over import ModelHandOver
from llm_gateway.process_setup import lower_priority
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
    """Build the server of the control process's application on the control socket, and on the admin port."""

    def prepared() -> None:
        with contextlib.suppress(OSError):  # the supervisor has died
            os.write(inherited.leash, PREPARED)

    model: ModelHandOver | None = None
    if inherited.model is not None and inherited.model_alive is not None:
        model = ModelHandOver(inherited.model, inherited.model_alive)
    app = ControlProcess(settings, output, memory=inherited.memory, model=model, on_prepared=prepared)
    server = ControlServer(
        app,
        ControlSocket(settings.data_dir),
        drain_s=settings.drain_seconds,
        log=partial(app.refusals, process="control"),
    )
    admin: AdminPort | None = None
    if inherited.listener is not None:
        log = partial(app.refusals, process="control", port="admin")
        admin = AdminPort(
            app,
            settings,
            inherited.listener,
            snapshot=lambda: app.snapshot,
            log=log,
            tokens=TokenCallers(app.verify_token),
        )
    # With records in the database before their answers, requests wait for this process all the time.
    serving = Serving(app, server, admin, NICENESS if settings.journal == "disk" else 0)
    return ChildServer(
        serving.start,
        serving.run,
        stop=serving.stop,
        interrupt=serving.stop,
        retire=serving.retire,
        orphaned=serving.orphaned,
    )


class Serving:
    """The servers of control from their start to their end. The admin port ends first: its requests need the rest."""

    def __init__(
        self, app: ControlProcess, server: ControlServer, admin: AdminPort | None, niceness: int = NICENESS
    ) -> None:
        self._niceness = niceness
        self._app = app
        self._server = server
        self._admin = admin
        self._is_admin_open = False
        self._is_leaving = False
        self._waiting: list[asyncio.Task[None]] = []  # the event loop alone would not keep the task

    async def start(self) -> None:
        """Serve workers, then the admin port."""
        await self._server.start()
        await self._app.admit_workers()
        if self._admin is not None and not self._is_leaving:
            await self._admin.start()
            self._is_admin_open = True
        lower_priority(self._niceness)

    async def run(self) -> None:
        """Serve until stopped."""
        if self._admin is not None and self._is_admin_open:
            await self._admin.run()
            self._is_admin_open = False
            self._leave()
        await self._server.run()

    def stop(self) -> None:
        """Begin to stop; a second call cancels running requests."""
        if self._admin is not None and self._is_admin_open:
            self._admin.stop()
        else:
            self._leave()

    def retire(self) -> None:
        """Begin to stop because another control process takes over."""
        self._app.leave_model()
        if self._admin is not None and self._is_admin_open:
            self._admin.retire()
        else:
            self._leave()

    def orphaned(self) -> None:
        """Stop once all workers have ended."""
        self._waiting.append(asyncio.get_running_loop().create_task(self._stop_after_workers()))

    async def _stop_after_workers(self) -> None:
        while self._app.has_workers:  # noqa: ASYNC110 - nothing wakes it: they end one by one, within the time to drain
            await asyncio.sleep(ORPHANED_S)
        self.stop()

    def _leave(self) -> None:
        self._is_leaving = True
        if self._app.has_workers:
            self._app.announce_leaving()
            asyncio.get_running_loop().call_later(ANNOUNCED_S, self._server.stop)
        else:
            self._server.stop()
