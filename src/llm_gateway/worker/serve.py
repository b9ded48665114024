"""Run a worker's server: start, react to the supervisor's signals, and end when the supervisor dies."""

from __future__ import annotations

import socket
import sys
from functools import partial

from llm_gateway.child_process import ChildServer, run_child
from llm_gateway.gate.body import MAX_BODY_BYTES
from llm_gateway.inherited import Inherited
from llm_gateway.process_setup import map_large_blocks
from llm_gateway.server import Server, most_connections, url_of
from llm_gateway.server.accepting import accept_new_connections
from llm_gateway.server.shared_state import Limits
from llm_gateway.settings import Settings
from llm_gateway.telemetry.process_log import ProcessLog
from llm_gateway.worker.process import WorkerProcess

MEBIBYTE = 1024 * 1024
SWITCH_INTERVAL_S = 0.0005
"""Seconds after which a thread that waits for Python's global lock requests it from the thread that holds it, instead
of 5 ms: the event loop waits that long when it returns from a system call while the log's thread runs Python code."""


def serve(inherited: Inherited) -> int:
    """Serve requests until SIGTERM or SIGINT. Returns the exit code."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    map_large_blocks()
    return run_child(inherited, build)


def build(settings: Settings, output: ProcessLog, inherited: Inherited) -> ChildServer:
    """Build the server of the worker's application on the inherited socket."""
    app = WorkerProcess(settings, output, number=inherited.number or 1, memory=inherited.memory)
    sock = socket.socket(fileno=inherited.listener)
    sock.setblocking(False)
    server = Server(
        app,
        accept_s=settings.accept_seconds,
        drain_s=settings.drain_seconds,
        on_stopping=app.stop_serving,
        log=partial(app.refusals, worker=inherited.number),
        limits=Limits(
            connections=most_connections(),
            # More than an endpoint reads and drops of a body that is too large, so that its own 413 comes first.
            body_bytes=2 * max(settings.max_body_bytes, MAX_BODY_BYTES) + MEBIBYTE,
        ),
        place=app.place if settings.workers > 1 else None,
    )

    app.on_lost_journal = server.retire

    async def start() -> None:
        accept_new_connections(sock)
        await server.start(sock)
        output.log("ready", url=url_of(sock), worker=inherited.number)

    stop_now = partial(server.stop, accepting=False)
    # SIGINT is a Ctrl-C at a terminal: no load balancer has to notice the stop first.

    def orphaned() -> None:
        if not server.is_stopping:  # else it would no longer wait for running requests
            stop_now()

    return ChildServer(start, server.run, stop=server.stop, interrupt=stop_now, retire=server.retire, orphaned=orphaned)
