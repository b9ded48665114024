"""Application of the control process: database, shipping, reports, management API, configuration of all workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from starlette.types import ASGIApp

from llm_gateway.channel.messages import NAME, ControlBeat
from llm_gateway.channel.server import ChannelServer
from llm_gateway.control.app import Control, Stores, check_settings, open_stores
from llm_gateway.control.budget_balances import BudgetBalances
from llm_gateway.control.budget_upkeep import count_older_usage_forever
from llm_gateway.control.control_lock import take_control_lock
from llm_gateway.control.embedded_model import start_embedded_model
from llm_gateway.control.journal_metrics import journal_gauges
from llm_gateway.control.key_use import store_key_use_forever
from llm_gateway.control.maintenance import (
    delete_old_usage_forever,
    refresh_prices_forever,
    save_totals,
    save_totals_forever,
    shorten_log_forever,
)
from llm_gateway.control.management.health import SharedCheck
from llm_gateway.control.measurements import gateway_gauges
from llm_gateway.control.recent_calls import fill_shared_limits, recent_calls
from llm_gateway.control.workers import Workers
from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.configuration import Configuration
from llm_gateway.domain.metric_families import MetricFamily
from llm_gateway.domain.token_verdict import Verdict
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
from llm_gateway.store.retention import Retention
from llm_gateway.telemetry.failed_authentications import FailedTotals
from llm_gateway.telemetry.metrics import Metrics
from llm_gateway.telemetry.process_log import ProcessLog
from llm_gateway.telemetry.refusals import RefusalCounter
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
        self._balances = BudgetBalances(_open_memory(memory), output.log)
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
        self._on_prepared()
        stack.callback(os.close, await take_control_lock(settings.data_dir))
        if settings.env == "dev" and settings.service_keys is None:
            log("dev mode: anyone on this machine may call with the public development key", level="warning")
        stores = open_stores(settings, stack, log, self._balances.sink)
        self._balances.clear_ended(stores.path / "journal")
        local = self._local = await start_embedded_model(settings, stores.providers, stack, log, self._hand_over)
        control = self._control = Control(settings, stores, local, self._output.redact, log)
        shipper = control.start_shipper(self._balances)
        stack.callback(shipper.stop)
        database = SharedCheck(stores.database.check)
        await database()
        self._background(database.repeat(log))
        quarantined, root = QuarantineCount(quarantine_file(stores.path)), quarantine_file(stores.path).parent
        totals, failed = ReportTotals(stores.path / TOTALS), self._failed
        stack.callback(save_totals, totals, log)
        workers = self._workers = Workers(
            self._open_channel(
                stores, shipper, database, lambda key, families: totals.update(key, failed.take(key, families))
            ),
            totals,
            lambda: [*gateway_gauges(database_ok=database.is_ok), *journal_gauges(root, shipper, quarantined)],
            Metrics(lambda: [self.refusals.family()], lambda: self._output.writer.dropped).report,
            log,
            failed,
        )
        self._background(save_totals_forever(totals, log))
        self._background(store_key_use_forever(control.key_use, log))
        control.configuration.connect(partial(self._distribute, workers, BudgetSpend(stores.database)))
        control.configuration.reload()
        stack.push_async_callback(workers.stop)
        self._background(refresh_prices_forever(control.configuration, log))
        retention = Retention(stores.usage, stores.path, settings.usage_retention_days, log, pause=Throttle())
        self._background(delete_old_usage_forever(retention, log))
        self._follow_budgets(control, stores)
        self._background(shorten_log_forever(stores.database.shorten_log, log))
        return control.build(shipper, database, workers)

    def _follow_budgets(self, control: Control, stores: Stores) -> None:
        """Count older usage of new budgets, and tell the webhook what is spent."""
        backfill = BudgetBackfill(stores.database, pause=Throttle())
        self._background(
            count_older_usage_forever(backfill, lambda charges: self._balances.add(charges.items()), self._log)
        )
        webhook = control.webhook_job()
        if webhook is not None:
            self._background(webhook)

    def _distribute(self, workers: Workers, spend: BudgetSpend, configuration: Configuration) -> None:
        """Send a configuration to all workers, once the balances of its budgets are in the memory that they share."""
        now_ms = time.time_ns() // 1_000_000
        self._balances.load(configuration.budgets, partial(spend.balances, now_ms), partial(spend.carried_over, now_ms))
        workers.distribute(configuration)

    def _open_channel(
        self, stores: Stores, shipper: Shipper, database: SharedCheck, on_report: OnReport
    ) -> ChannelServer:
        recent = partial(
            recent_calls,
            stores.usage,
            shipper,
            lambda: database.is_ok,
            self._log,
            self._settings.request_timeout_seconds,
        )
        if self._memory is not None:
            fill_shared_limits(self._memory, recent)
        address = ControlSocket(stores.path, name=NAME)
        self._stack.callback(address.close)
        return ChannelServer(
            address,
            state=lambda: ControlBeat(database_ok=database.is_ok, shipping_lag_s=shipper.behind().seconds),
            log=self._log,
            recent_attempts=None if self._memory is not None else recent,
            on_report=on_report,
        )


def _open_memory(memory: int | None) -> HostMemory | None:
    """Return the memory that the processes share; None without such memory, or if another version made it."""
    if memory is None:
        return None
    try:
        return HostMemory(memory)
    except UnusableMemory:
        return None
