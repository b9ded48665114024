"""Run a process that the supervisor has started: its settings, log, event loop and signals, and its leash.

The leash is a socket to the supervisor. The child writes `ready` once it serves; when the supervisor dies, the socket
ends, and the child stops by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

import uvloop

from llm_gateway.inherited import DROPPED, READY, RETIRE, STOP, Inherited
from llm_gateway.process_setup import forbid_memory_dumps
from llm_gateway.settings import Settings
from llm_gateway.settings_reader import read_settings
from llm_gateway.telemetry.process_log import ProcessLog, open_log

GC_THRESHOLDS = (50_000, 5, 5)
"""Thresholds of the cycle collector (`gc.set_threshold`): 50,000 more container objects allocated than freed.

Requests leave no reference cycles (tests/memory), so it finds only those of libraries."""


class ChildServer(NamedTuple):
    """Functions of a child's server, called in its event loop.

    `start` returns once it serves. `run` serves until `stop` (SIGTERM) or `interrupt` (SIGINT) was called, and closes
    everything. `retire` ends it, too, while other processes go on accepting on the same socket: it is called for a
    signal that the supervisor has not announced as the stop of the whole gateway. `orphaned` is called
    when the supervisor has died; it must end `run` sooner or later.
    """

    start: Callable[[], Awaitable[None]]
    run: Callable[[], Awaitable[None]]
    stop: Callable[[], None]
    interrupt: Callable[[], None]
    retire: Callable[[], None]
    orphaned: Callable[[], None]


Build: TypeAlias = Callable[[Settings, ProcessLog, Inherited], ChildServer]


def run_child(inherited: Inherited, build: Build) -> int:
    """Run a child to its end. Returns its exit code. `build` is called in the event loop.

    Raises:
        ConfigurationError: the settings or the data directory do not allow a start; the message says what to set.
        StoreUnavailable: the database does not answer.
    """
    settings = read_settings(inherited.settings)
    if settings.env == "production":
        forbid_memory_dumps()
    _raise_file_limit()
    output = open_log(
        level=settings.log_level, form=settings.log_format, secrets=[key for _, key, _ in settings.callers()]
    )
    with (
        output.writer,
        socket.socket(fileno=inherited.leash) as leash,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(lambda: build(settings, output, inherited), leash, output))
    if output.writer.is_stuck:
        os._exit(0)  # a thread that returns from a blocked write during the interpreter's shutdown can abort it
    return 0


async def _serve(build: Callable[[], ChildServer], leash: socket.socket, output: ProcessLog) -> None:
    loop, log = asyncio.get_running_loop(), output.log
    log_loop_errors(loop, log)
    server = build()
    reader = LeashReader(leash, server, output.writer.drop)
    loop.add_signal_handler(signal.SIGTERM, reader.signalled, server.stop)
    loop.add_signal_handler(signal.SIGINT, reader.signalled, server.interrupt)
    loop.add_reader(leash, reader.read)
    try:
        await server.start()
    except asyncio.CancelledError:
        log("stopped while starting")
        return
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    with contextlib.suppress(OSError):  # the supervisor died meanwhile
        leash.send(READY)
    await server.run()
    loop.remove_reader(leash)


def log_loop_errors(loop: asyncio.AbstractEventLoop, log: Callable[..., None]) -> None:
    """Log exceptions in callbacks and in tasks that nobody waits for, in the place of asyncio's own lines."""

    def report(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        log("event loop error", level="error", problem=context["message"], exc_info=context.get("exception"))

    loop.set_exception_handler(report)


class LeashReader:
    """The child's end of its leash: passes what the supervisor writes, and its death, on to the server.

    `drop` is called with the number of log lines that the supervisor could not write.
    """

    def __init__(self, leash: socket.socket, server: ChildServer, drop: Callable[[int], None]) -> None:
        leash.setblocking(False)
        self._drop = drop
        self._leash = leash
        self._server = server
        self._is_last = False

    def read(self) -> None:
        """Read what the supervisor has written; a few bytes that are sent at once arrive at once."""
        try:
            received = self._leash.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionError:
            received = b""
        if DROPPED in received:
            self._drop(received.count(DROPPED))
        self._is_last = self._is_last or not received or STOP in received
        if not received:
            asyncio.get_running_loop().remove_reader(self._leash)
            self._server.orphaned()
        elif RETIRE in received:
            self._server.retire()

    def signalled(self, stop: Callable[[], None]) -> None:
        """Stop the server at a signal: with `stop` if the whole gateway stops, else it retires."""
        self.read()
        if self._is_last:
            stop()
        else:
            self._server.retire()


def _raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit: each connection is one, and shells often allow 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # the system's own maximum may be lower
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
