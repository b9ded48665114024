"""The configuration in memory: one immutable snapshot, swapped whole after every change."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from llm_gateway.domain.catalog import Provider, Snapshot, build_snapshot
from llm_gateway.errors import ConfigurationError, GatewayError
from llm_gateway.store.overrides import OverrideStore
from llm_gateway.store.providers import ProviderStore

Prepare: TypeAlias = Callable[[Provider, str], Provider]
Log: TypeAlias = Callable[[str, str], None]
Subscriber: TypeAlias = Callable[[Snapshot], None]


class Live:
    """Holds `snapshot`, empty until the first `reload`.

    `prepare` takes a provider and its key and returns it with target and prices. If it fails, or the key does not
    open, the provider stands in the snapshot as disabled and `log` gets its name and the reason.
    """

    def __init__(self, providers: ProviderStore, overrides: OverrideStore, prepare: Prepare, log: Log) -> None:
        self.snapshot = build_snapshot([], [])
        self._providers = providers
        self._overrides = overrides
        self._prepare = prepare
        self._log = log
        self._subscribers: list[Subscriber] = []
        self._reloading = threading.Lock()

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call `subscriber` with every later snapshot, in the thread that reloads."""
        self._subscribers.append(subscriber)

    def reload(self) -> Snapshot:
        """Read the stores and swap the snapshot. One reload at a time, so that none puts back an older state.

        Raises:
            StoreUnavailable: the database does not answer; the snapshot stays as it was.
        """
        with self._reloading:
            providers = [self._prepared(provider, sealed) for provider, sealed in self._providers.load()]
            self.snapshot = build_snapshot(providers, self._overrides.list())
            for subscriber in self._subscribers:
                subscriber(self.snapshot)
            return self.snapshot

    def _prepared(self, provider: Provider, sealed: bytes) -> Provider:
        try:
            return self._prepare(provider, self._providers.unseal(provider.id, sealed))
        except Exception as error:  # edge: one unusable provider must not take the others with it
            self._log(provider.name, _reason(error))
            return msgspec.structs.replace(provider, is_enabled=False)


def _reason(error: Exception) -> str:
    # The message of an unforeseen error could quote the key.
    return str(error) if isinstance(error, ConfigurationError | GatewayError) else type(error).__name__
