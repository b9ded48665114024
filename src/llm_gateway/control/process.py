"""Application of the control process: database, shipping, reports, management API, configuration of all workers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from starlette.types import ASGIApp

from llm_gateway import wall_clock
from llm_gateway.channel.messages import NAME, ControlBeat
from llm_gateway.channel.server import ChannelServer
from llm_gateway.control.app import Control, Stores, check_settings, open_stores
from llm_gateway.control.budget_balances import BudgetBalances
from llm_gateway.control.budget_upkeep import count_corrections_forever, count_older_usage_forever
from llm_gateway.control.control_lock import keep_control_lock, lock_control_directory, take_control_lock
from llm_gateway.control.embedded_model import start_embedded_model
from llm_gateway.control.hosts import Hosts, beat_forever, machine_of
from llm_gateway.control.journal_metrics import journal_gauges
from llm_gateway.control.key_use import store_key_use_forever
from llm_gateway.control.lease_lifecycle import BudgetSharing
from llm_gateway.control.lost_database import note_database, refuse_lost_database
from llm_gateway.control.maintenance import (
    delete_old_usage_forever,
    log_failed_authentications_forever,
    refresh_prices_forever,
    save_totals,
    save_totals_forever,
    shorten_log_forever,
)
from llm_gateway.control.management.health import SharedCheck
from llm_gateway.control.measurements import gateway_gauges
from llm_gateway.control.recent_calls import calls_by_limit, fill_key_limits, fill_shared_limits, recent_attempts
from llm_gateway.control.stored_metrics import StoredMetrics, read_metrics_forever
from llm_gateway.control.telemetry_export import TelemetryExport
from llm_gateway.control.trouble import DELAYED_S, Trouble
from llm_gateway.control.workers import Workers
from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.configuration import Configuration
from llm_gateway.domain.jwt_verdict import Verdict
from llm_gateway.domain.metric_families import MetricFamily
from llm_gateway.domain.usage import RecentCalls
from llm_gateway.forwarding.control_socket import ControlSocket
from llm_gateway.host_memory import HostMemory, UnusableMemory
from llm_gateway.journal.record_delivery import QuarantineCount, quarantine_file
from llm_gateway.journal.shipper import Shipper
from llm_gateway.journal.throttle import Throttle
from llm_gateway.local_model import LocalModel
from llm_gateway.model_hand_over import ModelHandOver
from llm_gateway.process_application import ProcessApplication
from llm_gateway.settings import Settings
from llm_gateway.store.budget_backfill import BudgetBackfill
from llm_gateway.store.budget_spend import BudgetSpend
from llm_gateway.store.notices import listen_forever
from llm_gateway.store.retention import Retention
from llm_gateway.telemetry.failed_authentications import FailedTotals
from llm_gateway.telemetry.metrics import Metrics
from llm_gateway.telemetry.process_log import ProcessLog
from llm_gateway.telemetry.refused_requests import RefusalCounter
from llm_gateway.telemetry.report_totals import ReportTotals

OnReport: TypeAlias = Callable[[str, list[MetricFamily]], None]

TOTALS = "metrics.totals"
"""File in the data directory with the counts of workers that have ended."""


class ControlProcess(ProcessApplication):
    """The application of the control process, which `ControlServer` serves. The data directory must be locked.

    It calls `on_prepared` when it has nothing left to do before the control process before it, if any, has ended.
    """

    def __init__(
        self,
        settings: Settings,
        output: ProcessLog,
        *,
        memory: int | None = None,
        model: ModelHandOver | None = None,
        on_prepared: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._output = output
        self._on_prepared = on_prepared
        self._log = output.log
        self._failed = FailedTotals()
        self.refusals = RefusalCounter(output.log, self._failed.count)
        """The log for refused requests, which counts them."""
        self._memory = memory if settings.workers > 1 else None
        self._host = _open_memory(memory)
        self._balances = BudgetBalances(self._host, output.log)
        self._workers: Workers | None = None
        self._hand_over = model
        self._local: LocalModel | None = None
        self._control: Control | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The configuration in force. The application must have started."""
        if self._control is None:
            raise RuntimeError("The control process has not started.")
        return self._control.configuration.snapshot

    async def verify_token(self, token: bytes) -> Verdict:
        """Return who sends a token in the place of a service key. The application must have started."""
        if self._control is None or self._control.tokens is None:
            raise RuntimeError("The control process takes no tokens.")
        return await self._control.tokens.verify(token)

    @property
    def has_workers(self) -> bool:
        """True while a worker is connected."""
        return self._workers is not None and self._workers.are_connected()

    def leave_model(self) -> None:
        """Let the embedded model go on for the next control process."""
        if self._local is not None:
            self._local.leave()

    def announce_leaving(self) -> None:
        """Tell the workers to keep their requests for the next control process, and wait for its connection."""
        if self._workers is not None:
            self._workers.announce_leaving()

    async def admit_workers(self) -> None:
        """Let workers connect. Call it once the management API is served, so that no worker is ready before it.

        Raises:
            ConfigurationError: the channel's socket cannot be made; the message says what to set.
        """
        if self._workers is not None:
            await self._workers.start()

    async def _open(self) -> ASGIApp:
        """Open the stores, the embedded model and the shipper, and load the configuration.

        The stack closes them in reverse order: the shipper moves the last records before the database closes.

        Raises:
            ConfigurationError: the settings or the data directory do not allow a start; the message says what to set.
            StoreUnavailable: the database does not answer.
        """
        settings, stack, log = self._settings, self._stack, self._log
        check_settings(settings)
        await self._take_turn()
        _warn_of_keys(settings, log)
        export = TelemetryExport(settings, log)
        hosts = Hosts(settings.data_dir.absolute(), log, machine=machine_of(settings))
        sharing = BudgetSharing(self._host, self._balances, hosts, log)
        stores = open_stores(settings, stack, log, self._balances.sink, export.other, sharing.claim, sharing.use)
        note_database(self._host)
        self._balances.clear_ended(stores.path / "journal")
        await sharing.join()
        local = self._local = await start_embedded_model(settings, stores.providers, stack, log, self._hand_over)
        control = self._control = Control(settings, stores, hosts, local, self._output.redact, log)
        export.open(lambda: control.configuration.snapshot)
        stack.push_async_callback(export.close)
        stack.callback(sharing.leave, stores.path / "journal")
        shipper = control.start_shipper(self._balances, export.other)
        stack.callback(shipper.stop)
        database = SharedCheck(stores.database.check)
        await database()
        self._background(database.repeat(log))
        totals = ReportTotals(stores.path / TOTALS)
        stack.callback(save_totals, totals, log)
        workers = self._workers = self._follow_workers(stores, hosts, shipper, database, totals, export)
        self._background(save_totals_forever(totals, log))
        self._background(log_failed_authentications_forever(self._failed.counts, log))
        self._background(store_key_use_forever(control.key_use, log))
        control.configuration.connect(partial(self._distribute, workers, stores))
        control.configuration.reload()
        stack.push_async_callback(workers.stop)
        self._follow_hosts(hosts, control)
        self._background(refresh_prices_forever(control.configuration, log))
        retention = Retention(stores.usage, stores.path, settings.usage_retention_days, log, pause=Throttle())
        self._background(delete_old_usage_forever(retention, log, hosts.leads))
        self._follow_budgets(stores, hosts.leads)
        sharing.follow(self._background)
        self._background(control.alerts.run(partial(_troubles, workers, shipper, hosts), hosts.leads))
        self._background(export.run())
        self._background(shorten_log_forever(stores.database.shorten_log, log))
        return sharing.answering(control.build(shipper, database, workers, self._balances))

    async def _take_turn(self) -> None:
        """Wait until no other control process uses the database, and take its lock.

        Raises:
            ConfigurationError: the lock cannot be taken.
            StoreUnavailable: the database is gone.
        """
        settings = self._settings
        refuse_lost_database(settings.url, self._host)
        self._on_prepared()
        lock = await take_control_lock(settings.data_dir)
        self._stack.callback(os.close, lock)
        self._background(keep_control_lock(settings.data_dir, lock, self._log))
        directory = await lock_control_directory(settings.data_dir)
        if directory is not None:
            self._stack.callback(os.close, directory)
        refuse_lost_database(settings.url, self._host)  # the wait can be long

    def _follow_hosts(self, hosts: Hosts, control: Control) -> None:
        """Tell the other hosts that this one lives, and follow what they change."""
        if not hosts.is_shared:
            return
        wake = asyncio.Event()
        self._background(beat_forever(hosts, control.configuration.follow, self._log, wake))
        self._background(listen_forever(self._settings.url, wake.set, self._log))

    def _follow_workers(
        self,
        stores: Stores,
        hosts: Hosts,
        shipper: Shipper,
        database: SharedCheck,
        totals: ReportTotals,
        export: TelemetryExport,
    ) -> Workers:
        """Return the workers, whose counts go to `totals`, and what this process counts and measures itself."""
        failed, measure = self._failed, self._measurements(stores, shipper, database)
        return Workers(
            self._open_channel(
                stores, hosts, shipper, database, lambda key, families: totals.update(key, failed.take(key, families))
            ),
            totals,
            lambda: [*measure(), *export.gauges()],
            Metrics(lambda: [self.refusals.family(), *export.counters()], lambda: self._output.writer.dropped).report,
            self._log,
            failed,
        )

    def _measurements(
        self, stores: Stores, shipper: Shipper, database: SharedCheck
    ) -> Callable[[], list[MetricFamily]]:
        """Return a function that measures what this process knows: version, database, journal, budgets and keys."""
        quarantined, root = QuarantineCount(quarantine_file(stores.path)), quarantine_file(stores.path).parent
        stored = StoredMetrics(stores.budgets, BudgetSpend(stores.database), stores.keys)
        self._background(read_metrics_forever(stored, self._log))
        return lambda: [
            *gateway_gauges(database_ok=database.is_ok),
            *journal_gauges(root, shipper, quarantined),
            *stored.families(),
        ]

    def _follow_budgets(self, stores: Stores, is_leader: Callable[[], bool]) -> None:
        """Count older usage of new budgets, and what repricing changes in the accounts of all."""
        together = self._balances.add_stored
        backfill = BudgetBackfill(
            stores.database, pause=Throttle(), together=lambda store, charges: together(store, charges.items())
        )
        self._background(count_older_usage_forever(backfill, self._log, is_leader))
        spend = BudgetSpend(stores.database)
        correct = partial(self._balances.correct, lambda: spend.take_corrections(wall_clock.now_ms()))
        self._background(count_corrections_forever(correct, self._log))

    def _distribute(self, workers: Workers, stores: Stores, configuration: Configuration) -> None:
        """Send a configuration to all workers, once the memory that they share has its budgets and keys' last calls."""
        now_ms, spend = wall_clock.now_ms(), BudgetSpend(stores.database)
        self._balances.load(configuration.budgets, partial(spend.balances, now_ms), partial(spend.carried_over, now_ms))
        if self._memory is not None and self._host is not None:
            fill_key_limits(self._host, configuration.service_keys.values(), stores.usage.recent_key_calls, now_ms)
        workers.distribute(configuration)

    def _open_channel(
        self, stores: Stores, hosts: Hosts, shipper: Shipper, database: SharedCheck, on_report: OnReport
    ) -> ChannelServer:
        attempts = partial(
            recent_attempts,
            stores.usage,
            shipper,
            lambda: database.is_ok,
            self._log,
            self._settings.request_timeout_seconds,
        )
        if self._memory is not None:
            fill_shared_limits(self._memory, attempts)

        def recent_calls() -> RecentCalls:
            now_ms, keys = wall_clock.now_ms(), self.snapshot.service_keys.values()
            return RecentCalls(attempts(), calls_by_limit(keys, stores.usage.recent_key_calls, now_ms))

        address = ControlSocket(stores.path, name=NAME)
        self._stack.callback(address.close)
        channel = ChannelServer(
            address,
            state=lambda: ControlBeat(
                database_ok=database.is_ok,
                shipping_lag_s=shipper.behind().seconds,
                is_storing=shipper.is_storing,
                hosts=hosts.living if hosts.is_shared else 0,
                clock_offset_ms=wall_clock.CLOCK.offset_ms,
            ),
            log=self._log,
            recent_calls=None if self._memory is not None else recent_calls,
            on_report=on_report,
            workers=self._settings.workers,
        )
        channel.commit_by(shipper.commit)
        return channel


def _warn_of_keys(settings: Settings, log: Callable[..., None]) -> None:
    """Log which service keys of the environment may do more than they should."""
    if settings.env == "dev" and settings.service_keys is None:
        log("dev mode: anyone on this machine may call with the public development key", level="warning")
    if settings.env == "production" and (names := settings.callers_without_scopes()):
        log("service keys without scopes may do everything", level="warning", keys=names)


def _troubles(workers: Workers, shipper: Shipper, hosts: Hosts) -> list[Trouble]:
    """Return the troubles of this moment that have alerts. Those of journals are each host's own."""
    seconds = int(shipper.behind().seconds)
    delayed = [Trouble("journal.delayed", "", {"seconds": seconds})] if seconds > DELAYED_S else []
    found = [*delayed, *workers.troubles()]
    if not hosts.is_shared:
        return found
    return [each.at(hosts.id, hosts.name) if each.kind.startswith("journal.") else each for each in found]


def _open_memory(memory: int | None) -> HostMemory | None:
    """Return the memory that the processes share; None without such memory, or if another version made it."""
    if memory is None:
        return None
    try:
        return HostMemory(memory)
    except UnusableMemory:
        return None
