"""Configuration in force: read from the stores after each change, and built into an immutable snapshot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

import msgspec

from llm_gateway.control.effective_keys import EffectiveKeys
from llm_gateway.control.overrides_in_force import OverridesInForce
from llm_gateway.domain.catalog import Provider, Snapshot
from llm_gateway.domain.configuration import Account, Configuration
from llm_gateway.domain.public_prices import PublicPrices
from llm_gateway.errors import reason_without_key
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.providers import ProviderStore

Resolve: TypeAlias = Callable[[Provider, str], Account]
Build: TypeAlias = Callable[[Configuration], Snapshot]
Log: TypeAlias = Callable[[str, str], None]
Subscriber: TypeAlias = Callable[[Snapshot], object]
Distribute: TypeAlias = Callable[[Configuration], object]


class Sources(NamedTuple):
    """The stores that a configuration is read from.

    `changes` returns a number that is another one after each management write, whichever host made it.
    """

    providers: ProviderStore
    overrides: OverridesInForce
    keys: EffectiveKeys
    budgets: BudgetStore
    changes: Callable[[], int] = lambda: 0


class LiveConfiguration:
    """The current configuration as `snapshot`, empty until the first `reload`.

    `resolve(provider, key)` returns the provider's account. If it fails, or the stored key cannot be decrypted, the
    provider is listed as disabled, and `log` gets its name and the reason. `public_prices` returns the price lists that
    the resolved providers need; `build` makes a snapshot.
    """

    def __init__(
        self,
        sources: Sources,
        resolve: Resolve,
        public_prices: Callable[[], PublicPrices],
        build: Build,
        log: Log,
    ) -> None:
        self.snapshot = build(Configuration())
        self._providers, self._overrides, self._keys, self._budgets, self._changes = sources
        self._seen_changes: int | None = None
        self._resolve = resolve
        self._public_prices = public_prices
        self._build = build
        self._log = log
        self._subscribers: list[Subscriber] = []
        self._distribute: Distribute = lambda _configuration: None
        self._reloading = threading.Lock()

    def connect(self, distribute: Distribute) -> None:
        """Call `distribute` with each later configuration, in the thread that calls `reload`, before it returns."""
        self._distribute = distribute

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call `subscriber` with each later snapshot, in the thread that calls `reload`."""
        self._subscribers.append(subscriber)

    def reload(self) -> Snapshot:
        """Read the stores and replace the snapshot. A lock serialises reloads, so that none restores an older state.

        Raises:
            StoreUnavailable: the database does not answer; the snapshot does not change.
        """
        with self._reloading:
            return self._reload()

    def follow(self, changes: int) -> None:
        """Reload if the number of management writes is another one than that of what is in force.

        Raises:
            StoreUnavailable: as `reload`.
        """
        with self._reloading:
            if changes != self._seen_changes:
                self._reload()

    def _reload(self) -> Snapshot:
        changes = self._changes()  # before the rest: what comes later is read again
        loaded = self._providers.load()
        configuration = Configuration(
            accounts=tuple(self._account(provider, sealed) for provider, sealed in loaded),
            overrides=self._overrides.refresh(),
            public_prices=self._public_prices(),
            has_vendor=has_enabled_vendor(provider for provider, _ in loaded),  # an unusable one counts as well
            service_keys=self._keys.refresh(),
            peppers=self._keys.peppers,
            budgets=self._budgets.in_force(),
        )
        snapshot = self._build(configuration)
        self.snapshot = snapshot
        for subscriber in self._subscribers:
            subscriber(snapshot)
        self._distribute(configuration)
        self._seen_changes = changes
        return snapshot

    def _account(self, provider: Provider, sealed: bytes) -> Account:
        try:
            return self._resolve(provider, self._providers.unseal(provider.id, sealed))
        except Exception as error:  # edge: one unusable provider must not disable the others
            self._log(provider.name, reason_without_key(error))
            return Account(provider=msgspec.structs.replace(provider, is_enabled=False))


def has_enabled_vendor(providers: Iterable[Provider]) -> bool:
    """Return whether a provider other than the embedded one is enabled."""
    return any(provider.is_enabled and not provider.is_embedded for provider in providers)
