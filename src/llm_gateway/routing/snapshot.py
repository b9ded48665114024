"""Build the snapshot that serves requests from the configuration: providers by model and priority, overrides."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from llm_gateway.domain.budget import Budget
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.domain.catalog import Candidate, Override, Provider, Snapshot, Tiers
from llm_gateway.domain.configuration import Account, Configuration, OverrideKey
from llm_gateway.domain.key_secret import Hashers, Pepper
from llm_gateway.domain.model_aliases import AliasTable
from llm_gateway.domain.public_prices import PublicPrices
from llm_gateway.errors import reason_without_key


class SnapshotBuilder:
    """Builds snapshots; `assemble(account)` returns a provider that is ready for calls.

    An account that is the same object as in the configuration before keeps its provider, and if all do, their tables by
    model are kept, too.

    An account that this version cannot assemble becomes a disabled provider, and `cannot_be_used` gets its name and the
    reason: a newer control plane may know kinds that a worker does not.
    """

    def __init__(self, assemble: Callable[[Account], Provider], cannot_be_used: Callable[[str, str], None]) -> None:
        self._assemble = assemble
        self._cannot_be_used = cannot_be_used
        self._assembled: dict[str, tuple[Account, Provider]] = {}
        self._last: tuple[list[Provider], bool, Snapshot] | None = None
        self._peppers: tuple[Pepper, ...] = ()
        self._hashers = Hashers(())
        self._budgets: tuple[Budget, ...] = ()
        self._budget_table: BudgetTable | None = None

    def build(self, configuration: Configuration) -> Snapshot:
        """Return the snapshot of a configuration."""
        before, self._assembled = self._assembled, {}
        providers = [self._provider(account, before) for account in configuration.accounts]
        snapshot = self._of_same_providers(providers, configuration) or build_snapshot(
            providers, configuration.overrides, configuration.public_prices, has_vendor=configuration.has_vendor
        )
        if self._peppers != configuration.peppers:
            self._peppers, self._hashers = configuration.peppers, Hashers(configuration.peppers)
        if self._budgets != configuration.budgets:
            self._budgets = configuration.budgets
            self._budget_table = BudgetTable(configuration.budgets) if configuration.budgets else None
        snapshot = msgspec.structs.replace(
            snapshot,
            service_keys=configuration.service_keys,
            hashers=self._hashers,
            budgets=self._budget_table,
        )
        self._last = providers, configuration.has_vendor, snapshot
        return snapshot

    def _of_same_providers(self, providers: list[Provider], configuration: Configuration) -> Snapshot | None:
        """Return the last snapshot with the overrides and prices of `configuration`; None if its providers differ."""
        if self._last is None:
            return None
        before, has_vendor, snapshot = self._last
        if has_vendor != configuration.has_vendor or [*map(id, before)] != [*map(id, providers)]:
            return None
        return msgspec.structs.replace(
            snapshot, overrides=configuration.overrides, public_prices=configuration.public_prices
        )

    def _provider(self, account: Account, before: dict[str, tuple[Account, Provider]]) -> Provider:
        known = before.get(account.provider.id)
        try:
            made = known if known is not None and known[0] is account else (account, self._assemble(account))
            self._assembled[account.provider.id] = made
            return made[1]
        except Exception as error:  # edge: one account that cannot be assembled must not disable the others
            self._cannot_be_used(account.provider.name, reason_without_key(error))
            return msgspec.structs.replace(account.provider, is_enabled=False)


def build_snapshot(
    providers: Iterable[Provider],
    overrides: dict[OverrideKey, Override],
    public_prices: PublicPrices,
    *,
    has_vendor: bool,
) -> Snapshot:
    """Build the snapshot: enabled providers by model and priority, and overrides by customer and service.

    Requests that do not name the embedded model go to it only if `has_vendor` is False, that is if no other provider is
    enabled, usable or not: a made-up answer of this small model would be worse than an error.
    """
    by_provider = {provider.name: provider for provider in providers}
    enabled = sorted((p for p in by_provider.values() if p.is_enabled), key=lambda p: (-p.priority, p.name))
    by_model: dict[str, list[Candidate]] = {}
    pinned: dict[str, Tiers] = {}
    for provider in enabled:
        for model in provider.models:
            candidate = Candidate.of(provider, model)
            by_model.setdefault(model, []).append(candidate)
            pinned[f"{provider.name}/{model}"] = ((candidate,),)
    by_name = {model: _tiers(candidates) for model, candidates in by_model.items()}
    # A model's own name can look like provider/model, as OpenRouter's do: who names a provider gets it.
    tiers_by_model = {**by_name, **pinned}
    pinned_models = frozenset(pinned)
    return Snapshot(
        providers=by_provider,
        tiers=_tiers([Candidate.of(p, p.models[0]) for p in enabled if not (has_vendor and p.is_embedded)]),
        overrides=overrides,
        tiers_by_model=tiers_by_model,
        pinned_models=pinned_models,
        public_prices=public_prices,
        aliases=AliasTable(enabled, tiers_by_model, pinned_models) if enabled else None,
    )


def _tiers(candidates: Iterable[Candidate]) -> Tiers:
    """Group candidates by priority. They come sorted by it."""
    by_priority: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        by_priority.setdefault(candidate.provider.priority, []).append(candidate)
    return tuple(tuple(tier) for tier in by_priority.values())
