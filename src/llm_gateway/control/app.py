"""Composition root of the control plane: open the stores, load the configuration, build the management API."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

from starlette.types import ASGIApp

from llm_gateway import wall_clock
from llm_gateway.control.alert_sender import AlertSender
from llm_gateway.control.alerts import Alerts
from llm_gateway.control.budget_balances import BudgetBalances
from llm_gateway.control.declared_configuration.declaration import Declaration
from llm_gateway.control.declared_configuration.sections import ConfigurationStores
from llm_gateway.control.docs.home import home_router
from llm_gateway.control.docs.routes import docs_page_router
from llm_gateway.control.effective_keys import EffectiveKeys, stored_line, team_of
from llm_gateway.control.embedded_model import OnlyModelWarning
from llm_gateway.control.hosts import Hosts
from llm_gateway.control.identity_providers import code_flow_of, machine_tokens_of
from llm_gateway.control.key_use import KeyUse
from llm_gateway.control.live_configuration import LiveConfiguration, Sources
from llm_gateway.control.management.alert_targets import alert_targets_router, alert_test_router
from llm_gateway.control.management.app import build_management
from llm_gateway.control.management.audit import audit_router
from llm_gateway.control.management.breakdown import breakdown_router, series_router
from llm_gateway.control.management.budget_match import MatchCheck
from llm_gateway.control.management.budget_periods import budget_periods_router
from llm_gateway.control.management.budgets import accounts_router, budget_override_router, budgets_router
from llm_gateway.control.management.configuration import configuration_router
from llm_gateway.control.management.erasure import erasure_router
from llm_gateway.control.management.export import export_router
from llm_gateway.control.management.freshness import UpToDate, up_to_date_by
from llm_gateway.control.management.health import SharedCheck, health_router
from llm_gateway.control.management.hosts import hosts_router
from llm_gateway.control.management.key_spending import KeySpending
from llm_gateway.control.management.keys import EnvironmentKeys, keys_router, me_router
from llm_gateway.control.management.latency import latency_router
from llm_gateway.control.management.overrides import overrides_router
from llm_gateway.control.management.own_usage import OwnUsage
from llm_gateway.control.management.people import people_router
from llm_gateway.control.management.prices import prices_router
from llm_gateway.control.management.probe import Probe
from llm_gateway.control.management.provider_rules import ProviderRules
from llm_gateway.control.management.providers import providers_router
from llm_gateway.control.management.recent_usage import RecentUsage
from llm_gateway.control.management.records import records_router
from llm_gateway.control.management.router import Router
from llm_gateway.control.management.sessions import sessions_router
from llm_gateway.control.management.spend_limits import spend_limits_router
from llm_gateway.control.management.state import state_router
from llm_gateway.control.management.teams import teams_router
from llm_gateway.control.management.usage import usage_router
from llm_gateway.control.overrides_in_force import OverridesInForce
from llm_gateway.control.trouble import DELAYED_S
from llm_gateway.control.workers import Workers
from llm_gateway.dashboard.access import Access
from llm_gateway.dashboard.app import Dashboard, WithDashboard
from llm_gateway.dashboard.oidc_sign_in import OidcParts
from llm_gateway.docs_page.page import build_page
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import ConfigurationError, NotFound
from llm_gateway.forwarding.token_questions import answering_tokens
from llm_gateway.gate.authentication import Keyring
from llm_gateway.gate.in_flight import InFlight
from llm_gateway.journal.other_reader import NO_READER, OtherReader
from llm_gateway.journal.record_delivery import Sink
from llm_gateway.journal.replay import replay
from llm_gateway.journal.shipper import Shipper
from llm_gateway.journal.throttle import Throttle
from llm_gateway.local_model import NOT_INSTALLED, LocalModel, find_model
from llm_gateway.provider_calls.model_list import ModelLists
from llm_gateway.provider_calls.pool_factory import PoolFactory
from llm_gateway.provider_calls.webhook import Webhook
from llm_gateway.providers.account_assembler import AccountAssembler
from llm_gateway.providers.account_resolver import AccountResolver
from llm_gateway.providers.presets import load_presets
from llm_gateway.providers.prices import PriceList
from llm_gateway.providers.registry import DIALECTS
from llm_gateway.routing.snapshot import SnapshotBuilder
from llm_gateway.settings import Settings
from llm_gateway.store.alert_targets import AlertTargetStore
from llm_gateway.store.audit import AuditTrail
from llm_gateway.store.budget_spend import BudgetSpend
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.bulk import no_pause
from llm_gateway.store.database import Database
from llm_gateway.store.erasure import Erasure
from llm_gateway.store.hosts import SecretNames
from llm_gateway.store.kept_forms import KeptForms
from llm_gateway.store.keys import KeyStore
from llm_gateway.store.lease_ledger import leases_of
from llm_gateway.store.overrides import OverrideStore
from llm_gateway.store.people import PeopleStore
from llm_gateway.store.peppers import names_of, open_peppers, parse_peppers
from llm_gateway.store.price_history import PriceHistory
from llm_gateway.store.providers import ProviderStore
from llm_gateway.store.record_search import RecordSearch
from llm_gateway.store.secrets import SecretBox, load_or_create_key_file, parse_keys
from llm_gateway.store.sessions import SessionStore
from llm_gateway.store.teams import TeamStore
from llm_gateway.store.usage import AlsoCharge, UsageStore
from llm_gateway.store.usage_reports import UsageReports
from llm_gateway.telemetry.redaction import Redactor
from llm_gateway.upstream.egress import Egress

Log: TypeAlias = Callable[..., None]

SHIPPING_WORK_S, SHIPPING_REST_S = 0.002, 0.001
"""Seconds that the shipper works between two sleeps, and of each sleep. No call to a model waits for this process's
interpreter lock, and each sleep costs two switches of threads on a core that a worker may share."""


class Stores(NamedTuple):
    """The opened stores below the data directory `path`, or on PostgreSQL.

    `replayed` is the number of usage records that earlier gateways left in the journal and `open_stores` moved.
    """

    path: Path
    database: Database
    usage: UsageStore
    providers: ProviderStore
    overrides: OverrideStore
    keys: KeyStore
    teams: TeamStore
    audit: AuditTrail
    budgets: BudgetStore
    alert_targets: AlertTargetStore
    people: PeopleStore
    sessions: SessionStore
    kept_forms: KeptForms
    replayed: int


def check_settings(settings: Settings) -> None:
    """Check what can be checked without the database, so that a reload with such settings replaces nothing.

    Raises:
        ConfigurationError: the encryption keys or the peppers are not valid, or the embedded model is required and not
            installed.
    """
    if settings.encryption_keys:
        parse_keys(settings.encryption_keys)
    if settings.key_peppers is not None:
        parse_peppers(settings.key_peppers)
    if settings.local_model == "true" and find_model() is None:
        raise ConfigurationError(NOT_INSTALLED)


def open_stores(
    settings: Settings,
    stack: AsyncExitStack,
    log: Log,
    wrap: Callable[[Sink], Sink] = lambda sink: sink,
    other: OtherReader = NO_READER,
    claim: Callable[[Database, SecretNames], None] = lambda _database, _secrets: None,
    also_charge: AlsoCharge = lambda *_: None,
) -> Stores:
    """Migrate the database, and move journal entries of earlier gateways into it. The data directory must be locked.

    `wrap` returns the sink of these entries, given the store's own. `other` reads the journals, too. `claim` is called
    before anything is moved. `also_charge` gets what records were charged to budgets, as they are stored.

    Raises:
        ConfigurationError: the encryption keys or the peppers are not valid, or the journal cannot be read.
        StoreUnavailable: the database does not answer.
    """
    path = settings.data_dir.absolute()
    database = Database.open(settings.url)
    stack.callback(database.close)
    database.migrate(log)
    if settings.encryption_keys:
        keys = parse_keys(settings.encryption_keys)
    else:
        keys = load_or_create_key_file(path / "encryption.key")
    peppers = open_peppers(settings.key_peppers, path)
    box, usage = SecretBox(keys), UsageStore(database, also_charge)
    claim(database, SecretNames(box.names, names_of(peppers)))
    report = replay(path, wrap(usage.write), log=log, other=other)
    if report.records:
        log("usage journal replayed", records=report.records)
    audit = AuditTrail(database, path, log)
    return Stores(
        path=path,
        database=database,
        usage=usage,
        providers=ProviderStore(database, box, audit),
        overrides=OverrideStore(database, audit),
        keys=KeyStore(database, peppers, [name for name, _, _ in settings.callers()], audit=audit),
        teams=TeamStore(database, audit),
        audit=audit,
        budgets=BudgetStore(database, audit),
        alert_targets=AlertTargetStore(database, box, audit),
        people=PeopleStore(database, audit),
        sessions=SessionStore(database, audit=audit),
        kept_forms=KeptForms(database, box),
        replayed=report.records,
    )


def _webhook(settings: Settings, egress: Egress) -> Webhook | None:
    """Return the webhook of the settings; None if they name no URL."""
    if settings.webhook_url is None or settings.webhook_secret is None:
        return None
    return Webhook(settings.webhook_url, settings.webhook_secret, egress)


class Control:
    """The parts of the control plane: stores, live configuration, egress rules, presets and prices.

    `configuration` is empty until its first `reload`; `path` is the data directory; `sign_in_page` is the
    page at /docs.
    """

    def __init__(
        self, settings: Settings, stores: Stores, hosts: Hosts, local: LocalModel | None, redact: Redactor, log: Log
    ) -> None:
        self.path = stores.path
        self._settings = settings
        self._dev_key = settings.dev_key
        self._root_path = settings.root_path
        self._is_behind_proxy = bool(settings.proxy_networks)
        self._callers = settings.callers()
        self._environment_keys = EnvironmentKeys((name, scopes) for name, _, scopes in self._callers)
        self._allows_plain_http = settings.ui_insecure == "true"
        self._code_flow = code_flow_of(settings)
        self.tokens = machine_tokens_of(settings, self._team_id)
        self.sign_in_page = build_page(settings.dev_key)
        self._stores, self._hosts, self._local = stores, hosts, local
        self._redact = redact
        self._log = log
        self._in_flight = InFlight(settings.max_in_flight, settings.max_body_bytes_in_flight)
        self._presets = load_presets()
        self._unusable: dict[str, str] = {}
        self.egress = Egress(strict=settings.env == "production", private_hosts=settings.private_hosts)
        sender, webhook = AlertSender(self.egress, redact), _webhook(settings, self.egress)
        self.alerts = Alerts(stores.database, stores.keys, stores.alert_targets, sender, webhook, log)
        prices = PriceList()
        resolver = AccountResolver(
            dialects=DIALECTS,
            presets=self._presets,
            prices=prices,
            local_endpoint=lambda: (local.base_url, local.api_key) if local else None,
            learn=redact.learn,
        )
        assemble = AccountAssembler(dialects=DIALECTS, learn=redact.learn).assemble
        overrides, keys = OverridesInForce(stores.overrides), EffectiveKeys(stores.keys)
        self.configuration = LiveConfiguration(
            Sources(stores.providers, overrides, keys, stores.budgets, hosts.changes),
            resolver.resolve,
            lambda: prices.public,
            SnapshotBuilder(assemble, self._cannot_be_used).build,
            self._cannot_be_used,
        )
        self.configuration.subscribe(OnlyModelWarning(log))

    def _cannot_be_used(self, name: str, reason: str) -> None:
        self._unusable[name] = reason
        self._log("provider cannot be used", level="error", provider=name, reason=reason)

    def start_shipper(self, balances: BudgetBalances, other: OtherReader) -> Shipper:
        """Start the thread that moves journal entries to the database. Stop it after all workers have ended."""
        is_awaited = self._settings.journal == "database"
        throttle = no_pause if is_awaited else Throttle(work_s=SHIPPING_WORK_S, rest_s=SHIPPING_REST_S)
        sink = balances.sink(partial(self._stores.usage.write, pause=throttle))
        self.key_use = KeyUse(sink, self._stores.keys)
        self._held = balances.held
        shipper = Shipper(
            self.path / "journal",
            self._store_usage,
            log=self._log,
            pause=throttle,
            ended=balances.clear,
            other=other,
            is_awaited=is_awaited,
        )
        shipper.start()
        return shipper

    def _store_usage(self, records: list[UsageRecord]) -> None:
        self.key_use.write(records)
        self.alerts.events.note(records)

    def build(self, shipper: Shipper, database: SharedCheck, workers: Workers, balances: BudgetBalances) -> ASGIApp:
        """Build the management API as an ASGI application."""
        stores, configuration = self._stores, self.configuration
        local = self._local
        rules = ProviderRules(self._presets, self.egress, lambda: local.base_url if local else None)
        kept = (stores.providers, stores.overrides, stores.teams, stores.keys, stores.budgets, stores.alert_targets)
        declared = ConfigurationStores(*kept, rules, self.egress)
        up_to_date = up_to_date_by(shipper.flush)
        own = OwnUsage(lambda key_id: team_of(stored_line(stores.keys, key_id)))
        search, reports = RecordSearch(stores.database), UsageReports(stores.database)
        erasure = Erasure(stores.database, audit=stores.audit, together=balances.correct_stored)
        routers = (
            home_router(self._settings),
            health_router(
                check=database,
                ready=workers.are_ready,
                journal_writable=workers.can_record,
                is_behind=lambda: shipper.behind().seconds > DELAYED_S,
                snapshot=lambda: configuration.snapshot,
                metrics=workers.metrics,
                hosts=self._hosts,
            ),
            providers_router(stores.providers, configuration, rules, self._probe(workers)),
            overrides_router(stores.overrides, configuration),
            keys_router(stores.keys, configuration, self._environment_keys),
            me_router(stores.keys, self._environment_keys, self._key_spending(reports, up_to_date)),
            teams_router(stores.teams),
            people_router(stores.people),
            sessions_router(stores.sessions),
            state_router(self._settings, workers, stores.people),
            configuration_router(Declaration(stores.database, declared, self._reload_after_apply)),
            *self._budget_routers(reports, up_to_date),
            alert_targets_router(stores.alert_targets, self.alerts.deliveries, self.egress),
            alert_test_router(stores.alert_targets, self.alerts.sender),
            hosts_router(self._hosts, stores.audit),
            audit_router(stores.audit, workers.failed_authentications),
            usage_router(RecentUsage(stores.usage, reports), up_to_date, own),
            records_router(search, up_to_date, own, stores.budgets),
            export_router(search, up_to_date, own),
            breakdown_router(reports, up_to_date, own),
            series_router(reports, up_to_date, own),
            latency_router(search, up_to_date, own),
            erasure_router(erasure, stores.overrides, up_to_date),
            prices_router(lambda: configuration.snapshot, reports, PriceHistory(stores.database), up_to_date),
            docs_page_router(self.sign_in_page),
        )
        management = build_management(routers, self._log, self._in_flight, workers.pending, self._root_path)
        dashboard = self._dashboard(management, workers.count_failed_sign_in)
        app = WithDashboard(management, dashboard, is_behind_proxy=self._is_behind_proxy)
        return app if self.tokens is None else answering_tokens(app, self.tokens.verify)

    def _probe(self, workers: Workers) -> Probe:
        return Probe(
            ModelLists(PoolFactory(self.egress)).get,
            DIALECTS,
            self._redact,
            self._unusable,
            passed=lambda provider: workers.passed(provider.id),
        )

    def _reload_after_apply(self) -> None:
        self._stores.audit.settle()
        self.configuration.reload()

    def _dashboard(self, management: ASGIApp, on_failure: Callable[[str], None]) -> ASGIApp:
        keyring = Keyring(self._callers, lambda: self.configuration.snapshot)
        access = Access(
            self._stores.sessions,
            keyring,
            self._stores.people,
            allows_plain_http=self._allows_plain_http,
            code_flow=self._code_flow,
            on_failure=on_failure,
        )
        oidc = None
        if self._code_flow is not None:
            oidc = OidcParts(self._code_flow, self._team_id, self._stores.kept_forms)
        return Dashboard(management, access, self._log, self._root_path, self._dev_key, oidc=oidc).build()

    def _team_id(self, team: str) -> str | None:
        """Return the id of the team with this name or id, None without one."""
        named = self._stores.teams.list(name=team, limit=1)
        if named:
            return named[0].id
        try:
            return self._stores.teams.get(team).id
        except NotFound:
            return None

    def _key_spending(self, reports: UsageReports, up_to_date: UpToDate) -> KeySpending:
        stores, configuration = self._stores, self.configuration
        spend = BudgetSpend(stores.database)
        return KeySpending(reports, stores.budgets, spend, lambda: configuration.snapshot, up_to_date)

    def _budget_routers(self, reports: UsageReports, up_to_date: UpToDate) -> tuple[Router, ...]:
        stores, configuration = self._stores, self.configuration
        check = MatchCheck(stores.teams, self._environment_keys, lambda: configuration.snapshot)
        spend = BudgetSpend(stores.database)
        return (
            budgets_router(stores.budgets, configuration, check),
            budget_periods_router(stores.budgets, spend, up_to_date),
            budget_override_router(stores.budgets, configuration, wall_clock.now_ms),
            spend_limits_router(stores.budgets, configuration),
            accounts_router(
                stores.budgets,
                spend,
                reports.names,
                up_to_date,
                partial(leases_of, stores.database),
                self._held,
            ),
        )
