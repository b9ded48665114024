"""Work on stored usage without a server, for the command line: replay the journal, reprice records."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, closing
from functools import partial

from llm_gateway import wall_clock
from llm_gateway.control.app import open_stores
from llm_gateway.control.hosts import Hosts, machine_of
from llm_gateway.data_dir import DataDir
from llm_gateway.errors import ConfigurationError
from llm_gateway.journal.record_feed import feed_in_use
from llm_gateway.providers.presets import load_presets
from llm_gateway.providers.prices import PriceList, attempt_quote
from llm_gateway.settings import Settings
from llm_gateway.store.audit import AuditTrail
from llm_gateway.store.database import Database
from llm_gateway.store.migrations import OTHER_VERSION
from llm_gateway.store.providers import list_providers
from llm_gateway.store.repricing import RepriceReport, Repricing, Wanted
from llm_gateway.telemetry.process_log import open_log


async def replay_once(settings: Settings) -> int:
    """Move the usage records that stopped gateways left in the journal to the database. Returns their number.

    Raises:
        ConfigurationError: another gateway is running on this data directory, or on what it is a copy of.
        StoreUnavailable: the database does not answer.
    """
    output = open_log(level=settings.log_level, form=settings.log_format, secrets=())
    with output.writer, closing(DataDir(settings.data_dir)):
        async with AsyncExitStack() as stack:
            path = settings.data_dir.absolute()
            other, hosts = feed_in_use(path), Hosts(path, output.log, machine=machine_of(settings))
            return open_stores(settings, stack, output.log, other=other, claim=hosts.claim).replayed


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
    now_ms = wall_clock.now_ms()
    wanted = Wanted(
        since_ms=since_ms,
        until_ms=now_ms if until_ms is None else until_ms,
        provider=provider,
        model=model,
    )
    with ExitStack() as stack:
        database = _open_current(settings, stack)
        prices = partial(attempt_quote, PriceList(), load_presets())
        repricing = Repricing(database, list_providers(database), prices)
        if dry_run:
            return repricing.run(wanted, dry_run=True, progress=progress)
        audit = AuditTrail(database, settings.data_dir.absolute())
        with audit.change("usage.reprice") as change:
            change.about(None, None, after=wanted)
        report = repricing.run(wanted, dry_run=False, progress=progress)
        with audit.change("usage.repriced") as change:
            costs = {name: getattr(report, name) for name in ("cost_before_nanos", "cost_after_nanos")}
            change.about(None, None, after={"records": report.changed, **costs})
        return report


def _open_current(settings: Settings, stack: ExitStack) -> Database:
    """Open the database, which must be at this version.

    Raises:
        ConfigurationError: the database is not at this version.
        StoreUnavailable: the database does not answer.
    """
    database = Database.open(settings.url)
    stack.callback(database.close)
    if not database.is_current():
        raise ConfigurationError(OTHER_VERSION)
    return database
