"""The composition root: settings in, ASGI app out. What is built from what stands in `wiring.py`, in order, here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from llm_gateway import server
from llm_gateway.domain.redaction import Redactor
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.settings import Settings
from llm_gateway.store.repricing import RepriceReport, Wanted
from llm_gateway.store.retention import Retention
from llm_gateway.telemetry import LogWriter, configure_logging
from llm_gateway.wiring import (
    Stores,
    build_api,
    build_configuration,
    build_pipeline,
    build_repricing,
    now_ms,
    open_stores,
    refresh_for_ever,
    start_local_model,
    tidy_for_ever,
)

SWITCH_INTERVAL_S = 0.0005


class Application:
    """The gateway as an ASGI app, built when its server starts it and taken down in reverse when it stops."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redact = Redactor(key for _, key, _ in settings.callers())
        console = settings.log_format == "console" or (settings.log_format == "auto" and os.isatty(1))
        self.log_writer = LogWriter(console=console, redact=self._redact)
        self.log = configure_logging(level=settings.log_level, write=self.log_writer.event)
        self._stack = contextlib.AsyncExitStack()
        self._entry: ASGIApp = _not_started
        self._serving = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry: the server's lifespan, and requests through the gate."""
        if scope["type"] != "lifespan":
            await self._entry(scope, receive, send)
            return
        await receive()
        async with self._stack:
            await self._start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    def stop_serving(self) -> None:
        """Readiness fails from now on; requests are still answered."""
        self._serving = False

    async def _start(self) -> None:
        """Open everything, bottom up.

        Raises:
            ConfigurationError: it cannot start; the message says what to set.
            StoreUnavailable: the database does not answer.
        """
        settings, stack = self._settings, self._stack
        stores = self._open_stores()
        local = await start_local_model(settings, stores.providers, stack, self.log)
        config = build_configuration(settings, stores, local, self._redact, self.log)
        stack.push_async_callback(config.transport.close)
        observe = _request_lines(settings.log_level, self.log_writer.request)
        pipeline = await build_pipeline(settings, stores, config, observe, lambda: self.log_writer.dropped, stack)
        self._entry = build_api(settings, stores, config, pipeline, ready=lambda: self._serving)
        self._background(config.transport.recheck())
        self._background(refresh_for_ever(config.live, self.log))
        retention = Retention(stores.usage, stores.path, settings.usage_retention_days, self.log)
        self._background(tidy_for_ever(retention, self.log))
        self._serving = True

    def _open_stores(self) -> Stores:
        stores = open_stores(self._settings, self._stack, self.log)
        if stores.replayed:
            self.log("usage journal replayed", records=stores.replayed)
        return stores

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)

        async def end() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self._stack.push_async_callback(end)


def _request_lines(level: str, write: Callable[[UsageRecord], None]) -> Callable[[UsageRecord], None] | None:
    """Return what writes those request lines that `level` asks for: failed requests are warnings, others are info."""
    if level == "error":
        return None
    return (lambda record: write(record) if record.status >= 500 else None) if level == "warning" else write


async def _not_started(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("The application serves only after its lifespan has started it.")


async def replay_once(settings: Settings) -> int:
    """Ship what gateways that are gone left in the journal. Returns the number of records.

    Raises:
        ConfigurationError: another gateway is running on this data directory.
        StoreUnavailable: the database does not answer.
    """
    app = Application(settings)
    with app.log_writer:
        async with app._stack:
            return app._open_stores().replayed


def reprice_once(
    settings: Settings,
    *,
    since_ms: int,
    until_ms: int | None = None,
    provider: str | None = None,
    model: str | None = None,
    dry_run: bool = False,
    progress: Callable[[RepriceReport], None] = lambda _report: None,
) -> RepriceReport:
    """Give stored records the prices in force now, or only say what that would change. A gateway may be running.

    Of the requests from `since_ms` to before `until_ms` (milliseconds UTC, None: now) the attempts at `provider` and
    `model` (None: any); `progress` gets the report so far, batch by batch.

    Raises:
        ConfigurationError: the database is not at this version; the message says what to do.
        RecordsRefused: a new cost is absurd; what was repriced before it stays.
        StoreUnavailable: the database does not answer; a new run does the rest.
    """
    wanted = Wanted(
        since_ms=since_ms, until_ms=now_ms() if until_ms is None else until_ms, provider=provider, model=model
    )
    with contextlib.ExitStack() as stack:
        return build_repricing(settings, stack).run(wanted, dry_run=dry_run, progress=progress)


def _switch_threads_sooner() -> None:
    """Let the event loop wait for the interpreter for 0.5 ms at most, not 5 (sys.setswitchinterval).

    The shipper's thread works in small pieces, but whenever it is within one as the loop comes back from a system call,
    the loop waits for so long before the interpreter takes the lock away from the other thread.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def _raise_file_limit() -> None:
    """Take as many open files as this process may have: a connection is one, and shells start it with few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # the system's own maximum may be lower
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(settings: Settings) -> int:
    """Serve until told to stop. Returns the exit code.

    Raises:
        ConfigurationError: it cannot start; the message says what to set.
        StoreUnavailable: the database does not answer.
    """
    _switch_threads_sooner()
    _raise_file_limit()
    app = Application(settings)
    if settings.env == "dev" and settings.service_keys is None:
        app.log("dev mode: anyone on this machine may call with the public development key", level="warning")
    with app.log_writer:
        code = server.serve(
            app,
            host=settings.host,
            port=settings.port,
            accept_s=settings.accept_seconds,
            drain_s=settings.drain_seconds,
            on_stopping=app.stop_serving,
            log=app.log,
        )
    if app.log_writer.is_stuck:
        os._exit(code)  # the interpreter's own end can abort when a thread comes back from a blocked write meanwhile
    return code
