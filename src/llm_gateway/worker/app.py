"""Composition root of the data plane: create its parts and connect them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from starlette.types import ASGIApp

from llm_gateway import wall_clock
from llm_gateway.cache import open_cache
from llm_gateway.cache.base import Cache
from llm_gateway.domain.catalog import Provider, Snapshot
from llm_gateway.domain.explanation import EXPLAIN_PATH
from llm_gateway.domain.usage import RecentCalls, UsageRecord
from llm_gateway.forked import Forks
from llm_gateway.gate.in_flight import InFlight
from llm_gateway.host_memory import HostMemory
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.host_memory.key_counts import KeyCounts
from llm_gateway.host_memory.workers import WorkerPlace
from llm_gateway.journal.writer import JournalWriter
from llm_gateway.limiter import open_key_limiter, open_limiter
from llm_gateway.limiter.base import Limiter
from llm_gateway.providers.price_lookup import PriceLookup
from llm_gateway.providers.registry import DIALECTS
from llm_gateway.routing.session_affinity import SessionAffinity
from llm_gateway.settings import Settings
from llm_gateway.telemetry.redaction import Redactor
from llm_gateway.upstream.egress import Egress
from llm_gateway.worker.dispatch import Dispatch, build_endpoints
from llm_gateway.worker.endpoints.explain import ExplainEndpoint
from llm_gateway.worker.endpoints.protocol_endpoint import EndpointDependencies
from llm_gateway.worker.endpoints.streaming import DrainLimit
from llm_gateway.worker.gateway import Gateway
from llm_gateway.worker.pipeline.admission import Admission
from llm_gateway.worker.pipeline.attempt import AttemptDependencies, Attempts
from llm_gateway.worker.pipeline.availability import CONFIGURATION_CHANGED, ProviderAvailability
from llm_gateway.worker.pipeline.availability.host_states import HostStates
from llm_gateway.worker.pipeline.budgets import Budgets
from llm_gateway.worker.pipeline.caching import Caching
from llm_gateway.worker.pipeline.explanation import Explainer
from llm_gateway.worker.pipeline.failover import Failover
from llm_gateway.worker.pipeline.key_limits import KeyLimits
from llm_gateway.worker.pipeline.lease_requests import AskControl, LeaseRequests
from llm_gateway.worker.pipeline.translation import Translation
from llm_gateway.worker.pipeline.transport import Transport
from llm_gateway.worker.pipeline.usage_recorder import UsageRecorder
from llm_gateway.worker.pipeline.waiting_line import WaitingLines

Log: TypeAlias = Callable[..., None]


class WorkerDependencies(NamedTuple):
    """Dependencies of the data plane.

    `snapshot` returns the current configuration. `observe` is called with every settled usage record. `limiter` and
    `key_limiter` are by default those of this process alone, and so is `cache`. `host` is the memory that workers
    share, and this worker's place in it.
    """

    settings: Settings
    snapshot: Callable[[], Snapshot]
    egress: Egress
    journal: JournalWriter
    observe: Callable[[UsageRecord], None]
    redact: Redactor
    log: Log
    limiter: Limiter | None = None
    key_limiter: Limiter | None = None
    cache: Cache | None = None
    host: tuple[HostMemory, WorkerPlace] | None = None
    ask_lease: AskControl | None = None


class Worker:
    """The data plane of one process. Call `changed` with every new snapshot, and `close` at the end."""

    def __init__(self, dependencies: WorkerDependencies) -> None:
        settings, log = dependencies.settings, dependencies.log
        self._dependencies = dependencies
        memory, place = dependencies.host or (None, None)
        shared_place = place if settings.workers > 1 else None
        self.in_flight = InFlight(settings.max_in_flight, settings.max_body_bytes_in_flight, place=shared_place)
        states = None if memory is None or place is None else HostStates(memory, place, time.monotonic)
        self.availability = ProviderAvailability(log=log, states=states)
        self.transport = Transport(dependencies.egress, log=log)
        self.limiter = dependencies.limiter or open_limiter()
        self._admission = Admission(self.limiter)
        self._lines = WaitingLines(
            self.limiter, self.availability.gate_wait_s, max_wait_s=settings.max_queue_seconds, clock=time.monotonic
        )
        self._affinity = SessionAffinity()
        self._known: dict[str, Provider] = {}
        counts = None if memory is None or shared_place is None else KeyCounts(memory, shared_place)
        self._key_limits = KeyLimits(dependencies.key_limiter or open_key_limiter(), counts)
        accounts = None if memory is None else BudgetAccounts(memory, dependencies.journal.name, _now_ms)
        self._budgets = Budgets(accounts, LeaseRequests(dependencies.ask_lease), log=log)
        recorder = UsageRecorder(
            dependencies.journal,
            instance=dependencies.journal.name,
            list_price=PriceLookup(lambda: dependencies.snapshot().public_prices).find,
            observe=dependencies.observe,
            release=self._key_limits.release,
            charge=self._budgets.charge,
        )
        cache = dependencies.cache
        self.cache = open_cache(settings.cache_max_bytes // settings.workers) if cache is None else cache
        caching = Caching(
            self.cache,
            ttl_s=settings.cache_ttl_seconds,
            shared=settings.cache_scope == "global",
        )
        translation = Translation()
        failover = self._build_failover(recorder, translation)
        self.gateway = Gateway(
            dependencies.snapshot, caching, failover, recorder, self._admission.state, self._key_limits, self._budgets
        )
        self._explainer = Explainer(
            dependencies.snapshot, caching, failover, self.availability, self._admission, translation
        )

    def _build_failover(self, recorder: UsageRecorder, translation: Translation) -> Failover:
        attempts = Attempts(
            AttemptDependencies(
                availability=self.availability,
                admission=self._admission,
                transport=self.transport,
                recorder=recorder,
                dialects=DIALECTS,
                translation=translation,
                redact=self._dependencies.redact,
                budgets=self._budgets,
            )
        )
        return Failover(
            availability=self.availability,
            admission=self._admission,
            attempts=attempts,
            translation=translation,
            affinity=self._affinity,
            lines=self._lines if self._lines.max_wait_s > 0 else None,
        )

    def build(self, health: Mapping[str, ASGIApp], management: ASGIApp) -> Dispatch:
        """Build the ASGI app: the endpoints of calls and those of `health`; other paths go to `management`."""
        settings = self._dependencies.settings
        dependencies = EndpointDependencies(
            self.gateway,
            self.in_flight,
            DrainLimit(settings.on_disconnect),
            timeout_s=settings.request_timeout_seconds,
            log=self._dependencies.log,
            most_bytes=settings.largest_body_bytes,
            forks=Forks(),
        )
        endpoints, below = build_endpoints(dependencies, self._dependencies.snapshot)
        dispatch = Dispatch({**endpoints, **health}, below, management)
        environment = {name: scopes for name, _, scopes in settings.callers()}
        explain = ExplainEndpoint(self._explainer, dispatch.find, environment, self.in_flight, dependencies.log)
        dispatch.add(EXPLAIN_PATH, explain)
        return dispatch

    def refill(self, calls: RecentCalls, now_ms: int) -> None:
        """Count the calls of an earlier run in the rate-limit windows of providers and keys."""
        self._admission.refill(calls.attempts, now_ms)
        self._key_limits.refill(calls.key_calls, now_ms)

    def changed(self, snapshot: Snapshot) -> None:
        """Reset the availability of providers whose calls changed, and forget deleted providers.

        Only a change of what is sent, where, or for how long closes a provider's breakers and opens its gates; only a
        new key or address ends its account's pause. Requests that wait for a changed provider try again at once.
        """
        providers = {provider.id: provider for provider in snapshot.providers.values()}
        for provider_id, before in self._known.items():
            after = providers.get(provider_id)
            if after is None:
                self.availability.forget(provider_id)
                self.limiter.forget(provider_id)
                self._lines.forget(provider_id)
            elif after.updated_at_ms != before.updated_at_ms:
                self._change(before, after)
        self._affinity.clear()
        self._budgets.change(snapshot.budgets)
        self.transport.keep_only(snapshot)
        self._known = providers

    def _change(self, before: Provider, after: Provider) -> None:
        if _calls_of(after) != _calls_of(before):
            self.availability.reset(after.id, after.updated_at_ms)
        if after.target != before.target:
            self.availability.lift(after.id, CONFIGURATION_CHANGED, after.updated_at_ms)
            self.limiter.uncap(after.id, after.updated_at_ms)
        self._lines.change(after)  # last, since it lets waiting requests try again

    async def close(self) -> None:
        """Give back what is held and counted for requests to come, and close the connections to providers."""
        self._budgets.close()
        self._key_limits.close()
        self.limiter.close()
        await self.transport.close()


def _calls_of(provider: Provider) -> tuple[object, ...]:
    """Return what decides how a provider is called, so that a change of it may put right what failed."""
    return provider.target, provider.kind, provider.protocols, provider.timeout_s


def _now_ms() -> int:
    return wall_clock.now_ms()
