"""Configuration in memory: one immutable snapshot of providers and overrides, replaced after each change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from llm_gateway.domain.catalog import Candidate, Override, Provider, Snapshot, Tiers
from llm_gateway.domain.model_aliases import AliasTable
from llm_gateway.domain.public_prices import PublicPrices
from llm_gateway.errors import ConfigurationError, GatewayError
from llm_gateway.store.overrides import OverrideStore
from llm_gateway.store.providers import ProviderStore

Prepare: TypeAlias = Callable[[Provider, str], Provider]
Log: TypeAlias = Callable[[str, str], None]
Subscriber: TypeAlias = Callable[[Snapshot], object]


class LiveConfiguration:
    """The current configuration as `snapshot`, empty until the first `reload`.

    `prepare(provider, key)` returns the provider with its target URL and prices. If it fails, or the stored key cannot
    be decrypted, the snapshot lists the provider as disabled, and `log` gets its name and the reason. `public_prices`
    returns the price lists that the prepared providers need.
    """

    def __init__(
        self,
        providers: ProviderStore,
        overrides: OverrideStore,
        prepare: Prepare,
        public_prices: Callable[[], PublicPrices],
        log: Log,
    ) -> None:
        self.snapshot = build_snapshot([], [], PublicPrices(), has_vendor=False)
        self._providers = providers
        self._overrides = overrides
        self._prepare = prepare
        self._public_prices = public_prices
        self._log = log
        self._subscribers: list[Subscriber] = []
        self._reloading = threading.Lock()

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call `subscriber` with each later snapshot, in the thread that calls `reload`."""
        self._subscribers.append(subscriber)

    def reload(self) -> Snapshot:
        """Read the stores and replace the snapshot. A lock serialises reloads, so that none restores an older state.

        Raises:
            StoreUnavailable: the database does not answer; the snapshot does not change.
        """
        with self._reloading:
            loaded = self._providers.load()
            providers = [self._prepared(provider, sealed) for provider, sealed in loaded]
            has_vendor = has_enabled_vendor(provider for provider, _ in loaded)  # an unusable one counts as well
            snapshot = build_snapshot(providers, self._overrides.list(), self._public_prices(), has_vendor=has_vendor)
            self.snapshot = snapshot
            for subscriber in self._subscribers:
                subscriber(self.snapshot)
            return self.snapshot

    def _prepared(self, provider: Provider, sealed: bytes) -> Provider:
        try:
            return self._prepare(provider, self._providers.unseal(provider.id, sealed))
        except Exception as error:  # edge: one unusable provider must not disable the others
            self._log(provider.name, _reason(error))
            return msgspec.structs.replace(provider, is_enabled=False)


def _reason(error: Exception) -> str:
    # Messages of other exceptions could quote the key.
    return str(error) if isinstance(error, ConfigurationError | GatewayError) else type(error).__name__


def has_enabled_vendor(providers: Iterable[Provider]) -> bool:
    """Return whether a provider other than the embedded one is enabled."""
    return any(provider.is_enabled and not provider.is_embedded for provider in providers)


def build_snapshot(
    providers: list[Provider], overrides: list[Override], public_prices: PublicPrices, *, has_vendor: bool
) -> Snapshot:
    """Build the snapshot: enabled providers by model and priority, and overrides by customer and service.

    Requests that do not name the embedded model go to it only if `has_vendor` is False, that is if no other provider is
    enabled, usable or not: a made-up answer of this small model would be worse than an error.
    """
    enabled = sorted((p for p in providers if p.is_enabled), key=lambda p: (-p.priority, p.name))
    by_model: dict[str, list[Candidate]] = {}
    pinned: dict[str, Tiers] = {}
    for provider in enabled:
        for model in provider.models:
            candidate = Candidate.of(provider, model)
            by_model.setdefault(model, []).append(candidate)
            pinned[f"{provider.name}/{model}"] = ((candidate,),)
    by_name = {model: _tiers(candidates) for model, candidates in by_model.items()}
    tiers_by_model = {**pinned, **by_name}  # a model's own name can look like provider/model: the name wins
    pinned_models = frozenset(pinned.keys() - by_name.keys())
    return Snapshot(
        providers={p.name: p for p in providers},
        tiers=_tiers([Candidate.of(p, p.models[0]) for p in enabled if not (has_vendor and p.is_embedded)]),
        overrides={(o.user_id, o.service_name): o for o in overrides},
        tiers_by_model=tiers_by_model,
        pinned_models=pinned_models,
        public_prices=public_prices,
        aliases=AliasTable(enabled, tiers_by_model, pinned_models) if enabled else None,
    )


def _tiers(candidates: list[Candidate]) -> Tiers:
    """Group candidates by priority. They come sorted by it."""
    by_priority: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        by_priority.setdefault(candidate.provider.priority, []).append(candidate)
    return tuple(tuple(tier) for tier in by_priority.values())
