"""Composition root: build the ASGI application from the settings, then start, run and stop it.

Requests pass authentication (`gate`), then reach the data plane (`worker`) or the management API (`control`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
import time
from collections.abc import Callable, Coroutine
from itertools import chain
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from llm_gateway import server
from llm_gateway.control.app import Control, DataPlane, build_repricing, open_stores
from llm_gateway.control.embedded_model import start_embedded_model
from llm_gateway.control.maintenance import delete_old_usage_forever, refresh_prices_forever
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.gate.sign_in import SignInPage
from llm_gateway.gauges import call_gauges, journal_gauges
from llm_gateway.journal.known_records import KnownRecords
from llm_gateway.journal.record_delivery import QuarantineCount, quarantine_file
from llm_gateway.journal.shipper import Shipper
from llm_gateway.journal.throttle import Throttle
from llm_gateway.journal.writer import JournalWriter
from llm_gateway.settings import Settings
from llm_gateway.store.repricing import RepriceReport, Wanted
from llm_gateway.store.retention import Retention
from llm_gateway.store.usage import LONGEST_REQUEST_MS
from llm_gateway.telemetry import METRICS_CONTENT_TYPE, LogWriter, Metrics, configure_logging
from llm_gateway.telemetry.redaction import Redactor
from llm_gateway.worker.app import Worker, WorkerDependencies

WINDOW_MS = 61_000
"""Milliseconds before the start from which calls of an earlier run count against rate limits: the limiter's window of
a minute plus its widest bucket."""
SWITCH_INTERVAL_S = 0.0005
"""Seconds after which a thread that waits for Python's global lock requests it from the thread that holds it."""


class Application:
    """The gateway as an ASGI application. Lifespan startup opens its parts, shutdown closes them in reverse order."""

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
        """Handle the ASGI lifespan, and pass requests to authentication."""
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
        """Make the readiness probe fail from now on. Requests are still answered."""
        self._serving = False

    async def _start(self) -> None:
        """Open the stores, the embedded model, the journal and the worker, and start the periodic tasks.

        The exit stack closes them in reverse order. The worker ends first, so that the journal gets all its records;
        then the journal is closed, and the shipper moves the last records to the database before that closes.

        Raises:
            ConfigurationError: the settings or the data directory do not allow a start; the message says what to set.
            StoreUnavailable: the database does not answer.
        """
        settings, stack, log = self._settings, self._stack, self.log
        stores = open_stores(settings, stack, log)
        local = await start_embedded_model(settings, stores.providers, stack, log)
        control = Control(settings, stores, local, self._redact, log)
        journal = JournalWriter.open(stores.path, fsync=settings.journal_fsync, log=log)
        known = KnownRecords()
        shipper = control.start_shipper(known)
        stack.callback(shipper.stop)
        stack.push_async_callback(journal.sync_and_close)
        worker, metrics = self._build_worker(control, journal, known, shipper)
        stack.push_async_callback(worker.close)
        longest_ms = max(LONGEST_REQUEST_MS, int(settings.request_timeout_seconds * 1000))
        worker.refill(stores.usage.recent_attempts(now_ms() - WINDOW_MS, longest_ms), now_ms())
        # Reloads run in threads of the management API, but futures and timers belong to the event loop's thread.
        in_loop = asyncio.get_running_loop().call_soon_threadsafe
        control.configuration.subscribe(lambda snapshot: in_loop(worker.changed, snapshot))
        control.configuration.reload()
        data_plane = DataPlane(
            passed=lambda provider: worker.availability.lift(provider.id, "its test passed"),
            ready=lambda: self._serving,
            journal_writable=lambda: journal.is_writable,
            metrics=lambda: (metrics.render(), METRICS_CONTENT_TYPE),
        )
        app = worker.build(control.build(shipper, data_plane))
        self._entry = _build_gate(app, settings, control.sign_in_page, log)
        self._background(worker.transport.recheck())
        self._background(refresh_prices_forever(control.configuration, log))
        retention = Retention(stores.usage, stores.path, settings.usage_retention_days, log, pause=Throttle())
        self._background(delete_old_usage_forever(retention, log))
        self._serving = True

    def _build_worker(
        self, control: Control, journal: JournalWriter, known: KnownRecords, shipper: Shipper
    ) -> tuple[Worker, Metrics]:
        """Build the data plane, and the metrics that count its usage records."""
        settings, configuration, loop = self._settings, control.configuration, asyncio.get_running_loop()
        quarantined = QuarantineCount(quarantine_file(control.path))
        metrics = Metrics(
            lambda: chain(call_gauges(worker, configuration.snapshot, loop), journal_gauges(shipper, quarantined)),
            lambda: self.log_writer.dropped,
        )
        write_line = _request_lines(settings.log_level, self.log_writer.request)

        def observe(record: UsageRecord) -> None:
            known.remember(record)
            metrics(record)
            if write_line is not None:
                write_line(record)

        worker = Worker(
            WorkerDependencies(
                settings=settings,
                snapshot=lambda: configuration.snapshot,
                egress=control.egress,
                journal=journal,
                observe=observe,
                redact=self._redact,
                log=self.log,
            )
        )
        return worker, metrics

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)

        async def end() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self._stack.push_async_callback(end)


def _build_gate(app: ASGIApp, settings: Settings, sign_in_page: SignInPage, log: Callable[..., None]) -> Gate:
    return Gate(
        app,
        Keyring(settings.callers()),
        local_only=settings.env == "dev",
        log=log,
        dev_key=settings.dev_key,
        allowed_hosts=settings.own_hosts,
        sign_in_page=sign_in_page,
    )


def _request_lines(level: str, write: Callable[[UsageRecord], None]) -> Callable[[UsageRecord], None] | None:
    """Return the function that logs a finished request at `level`, or None where none is logged.

    Requests with status 5xx are logged as warnings, the others as info.
    """
    if level == "error":
        return None
    return (lambda record: write(record) if record.status >= 500 else None) if level == "warning" else write


async def _not_started(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("The application serves only after its lifespan has started it.")


async def replay_once(settings: Settings) -> int:
    """Move the usage records that stopped gateways left in the journal to the database. Returns their number.

    Raises:
        ConfigurationError: another gateway is running on this data directory.
        StoreUnavailable: the database does not answer.
    """
    app = Application(settings)
    with app.log_writer:
        async with app._stack:
            return open_stores(settings, app._stack, app.log).replayed


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
    """Reprice stored usage records with the current prices. A gateway may be running on the same database.

    Args:
        settings: settings of the gateway that owns the records.
        since_ms: first time of a request, in milliseconds UTC.
        until_ms: time before which requests are repriced, in milliseconds UTC; None for now.
        provider: reprice only attempts at this provider; None for all.
        model: reprice only attempts with this model; None for all.
        dry_run: report the differences without writing them.
        progress: called after each batch with the report so far.

    Raises:
        ConfigurationError: the database is not at this version; the message says what to do.
        RecordsRefused: the database rejects a new cost; records repriced before it keep their new cost.
        StoreUnavailable: the database does not answer; another run continues where this one stopped.
    """
    wanted = Wanted(
        since_ms=since_ms, until_ms=now_ms() if until_ms is None else until_ms, provider=provider, model=model
    )
    with contextlib.ExitStack() as stack:
        return build_repricing(settings, stack).run(wanted, dry_run=dry_run, progress=progress)


def _switch_threads_sooner() -> None:
    """Limit the event loop's wait for Python's global lock to 0.5 ms instead of 5 ms (`sys.setswitchinterval`).

    When the event loop returns from a system call while the shipper's thread runs Python code, the loop waits this
    interval before the interpreter takes the lock from that thread.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def _raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit: each connection is one, and shells often allow 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # the system's own maximum may be lower
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code.

    Raises:
        ConfigurationError: the settings or the data directory do not allow a start; the message says what to set.
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
        os._exit(code)  # a thread that returns from a blocked write during the interpreter's shutdown can abort it
    return code


def now_ms() -> int:
    """Return the current time in milliseconds UTC."""
    return time.time_ns() // 1_000_000
