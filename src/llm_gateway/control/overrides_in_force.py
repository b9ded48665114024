"""Overrides in force, by user and service, as workers get them."""

from __future__ import annotations

from llm_gateway.domain.catalog import Override
from llm_gateway.domain.configuration import OverrideKey, override_key
from llm_gateway.store.overrides import OverrideStore
from llm_gateway.store.row_versions import RowVersions
from llm_gateway.store.tables import overrides


class OverridesInForce:
    """All overrides. Each `refresh` reads only what has changed since."""

    def __init__(self, store: OverrideStore) -> None:
        self._store = store
        self._versions = RowVersions(overrides)
        self._keys: dict[str, OverrideKey] = {}
        self._by_key: dict[OverrideKey, Override] = {}

    def refresh(self) -> dict[OverrideKey, Override]:
        """Return the overrides now. The result never changes; without changes it is the same object as before.

        Raises:
            StoreUnavailable: the database does not answer; nothing changes.
        """
        changes = self._store.changes(self._versions)
        if not changes.changed and not changes.gone:
            return self._by_key
        loaded = self._store.load(changes.changed)
        by_key = self._by_key.copy()
        for row in changes.changed.keys() | changes.gone:
            if row in self._keys:
                del by_key[self._keys.pop(row)]
        for override in loaded:
            self._keys[override.id] = key = override_key(override)
            by_key[key] = override
        self._by_key = by_key
        self._versions.accept(changes)
        return by_key
