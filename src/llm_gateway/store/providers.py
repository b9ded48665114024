"""Store the configured providers; their API keys are encrypted at rest and leave only through `unseal`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import IntegrityError

from llm_gateway import wall_clock
from llm_gateway.domain.catalog import Provider, TokensOfModels
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import Conflict
from llm_gateway.store.audit import AuditTrail, Changes, Unaudited
from llm_gateway.store.identifiers import missing, stored_id
from llm_gateway.store.one_transaction import Transactions
from llm_gateway.store.secrets import SecretBox
from llm_gateway.store.tables import overrides, providers
from llm_gateway.store.unchanged import check_unchanged

Providers: TypeAlias = list[Provider]
SealedProviders: TypeAlias = list[tuple[Provider, bytes]]

JSON_COLUMNS: dict[str, Any] = {
    "models": tuple[str, ...],
    "prices": dict[str, dict[str, float]],
    "protocols": tuple[str, ...],
    "model_aliases": dict[str, str],
    "context_window": int | dict[str, int],
    "max_output_tokens": int | dict[str, int],
}
"""Columns with JSON text, and the type of their values; a null stays None."""

KEY_MASK, NEW_KEY_MASK = "***", "*** (new)"
"""What the audit trail has in place of an API key, and of one that a change replaces."""

_BY_PRIORITY = sa.select(providers).order_by(providers.c.priority.desc(), providers.c.name)
PUBLIC_COLUMNS = tuple(column for column in providers.c if column.name != "api_key")


class ProviderDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A provider to create. Its `repr` does not show the API key."""

    name: str
    display_name: str
    api_key: str
    kind: str
    models: tuple[str, ...]
    base_url: str | None = None
    is_enabled: bool = True
    rate_limit_rpm: int = 60
    rate_limit_tpm: int = 100_000
    priority: int = 10
    timeout_s: float = 60.0
    prices: dict[str, dict[str, float]] | None = None
    protocols: tuple[str, ...] | None = None
    model_aliases: dict[str, str] | None = None
    context_window: TokensOfModels | None = None
    max_output_tokens: TokensOfModels | None = None
    trace: bool = False

    def unsaved(self) -> Provider:
        """Return the provider as it would be stored, without an id and times."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__ if name != "api_key"}
        return Provider(id="", created_at_ms=0, updated_at_ms=0, **fields)

    def __repr__(self) -> str:
        return f"ProviderDraft({self.name!r})"


class ProviderStore:
    """The table of providers; `audit` keeps its changes. Fields that are derived for a snapshot are not set."""

    def __init__(self, database: Transactions, box: SecretBox, audit: AuditTrail | None = None) -> None:
        self._database = database
        self._changes: Changes = audit or Unaudited(database)
        self._box = box

    def within(self, transaction: Transactions) -> Self:
        """Return the same store whose reads and writes are part of a transaction."""
        part = copy.copy(self)
        part._database = transaction
        part._changes = self._changes.within(transaction)
        return part

    def list(self) -> Providers:
        """Return all providers, highest priority first, then by name."""
        return list_providers(self._database)

    def load(self) -> SealedProviders:
        """Return the providers as `list` does, each with its encrypted key for `unseal`."""
        with self._database.read() as connection:
            rows = connection.execute(_BY_PRIORITY).all()
        return [(_provider(row), row.api_key) for row in rows]

    def unseal(self, provider_id: str, sealed: bytes) -> str:
        """Return the decrypted API key of a provider.

        Raises:
            ConfigurationError: no configured encryption key decrypts it.
        """
        return self._box.open(sealed, provider_id)

    def get(self, provider_id: str) -> Provider:
        """Return one provider.

        Raises:
            NotFound: no provider has this id.
        """
        found = stored_id(provider_id, "provider")
        with self._database.read() as connection:
            return _get(connection, found)

    def create(self, draft: ProviderDraft) -> Provider:
        """Store a new provider.

        Raises:
            Conflict: a provider with this name exists.
        """
        values = _stored({name: getattr(draft, name) for name in draft.__struct_fields__ if name != "api_key"})
        values["id"] = provider_id = new_id()
        values["api_key"] = self._box.seal(draft.api_key, provider_id)
        values["created_at_ms"] = values["updated_at_ms"] = _now_ms()
        try:
            with self._changes.change("provider.create") as change:
                change.connection.execute(sa.insert(providers).values(values))
                created = _get(change.connection, provider_id)
                change.about(provider_id, created.name, after=_shown(created, KEY_MASK))
                return created
        except IntegrityError:
            raise _name_exists(draft.name) from None

    def update(
        self, provider_id: str, changes: Mapping[str, Any], *, unchanged_since_ms: int | None = None
    ) -> Provider:
        """Change the fields in `changes`, named as in `ProviderDraft`; overrides follow a new name.

        With `unchanged_since_ms`, only if that is when the provider was changed last.

        Raises:
            NotFound: no provider has this id.
            Conflict: another provider has the new name.
            ChangedSince: somebody has changed the provider since.
        """
        found = stored_id(provider_id, "provider")
        values = _stored({name: value for name, value in changes.items() if name != "api_key"})
        if "api_key" in changes:
            values["api_key"] = self._box.seal(changes["api_key"], found)
        try:
            with self._changes.change("provider.update") as change:
                connection = change.connection
                before = _get(connection, found, lock=True)
                check_unchanged("provider", before.updated_at_ms, unchanged_since_ms)
                values["updated_at_ms"] = max(_now_ms(), before.updated_at_ms + 1)
                connection.execute(sa.update(providers).where(providers.c.id == found).values(values))
                after = _get(connection, found)
                _rename_in_overrides(connection, before, after)
                mask = NEW_KEY_MASK if "api_key" in changes else KEY_MASK
                change.about(found, after.name, before=_shown(before, KEY_MASK), after=_shown(after, mask))
                return after
        except IntegrityError:
            raise _name_exists(str(changes.get("name"))) from None

    def delete(self, provider_id: str) -> None:
        """Delete a provider. Overrides that name it stay, without effect.

        Raises:
            NotFound: no provider has this id.
        """
        found = stored_id(provider_id, "provider")
        with self._changes.change("provider.delete") as change:
            before = _get(change.connection, found, lock=True)
            change.connection.execute(sa.delete(providers).where(providers.c.id == found))
            change.about(found, before.name, before=_shown(before, KEY_MASK))

    def note_test(self, provider: Provider, error: str | None) -> None:
        """Keep in the audit trail that a provider was tested, and how it ended; None if it passed."""
        with self._changes.change("provider.test") as change:
            change.about(provider.id, provider.name, after={"success": error is None, "error": error})

    def rekey(self) -> int:
        """Encrypt every API key with the first encryption key. Returns the number of keys changed.

        Raises:
            ConfigurationError: no configured encryption key decrypts one of them; nothing was changed.
        """
        query = sa.select(providers.c.id, providers.c.api_key).with_for_update()
        with self._changes.change("provider.rekey") as change:
            connection = change.connection
            stale = [row for row in connection.execute(query).all() if not self._box.is_current(row.api_key)]
            for row in stale:
                sealed = self._box.seal(self._box.open(row.api_key, row.id), row.id)
                connection.execute(sa.update(providers).where(providers.c.id == row.id).values(api_key=sealed))
            if stale:
                change.about(None, None, after={"providers": [row.id for row in stale]})
            else:
                change.nothing()
        return len(stale)


def list_providers(database: Transactions) -> Providers:
    """Return the providers as `ProviderStore.list` does, without needing an encryption key."""
    query = sa.select(*PUBLIC_COLUMNS).order_by(providers.c.priority.desc(), providers.c.name)
    with database.read() as connection:
        return [_provider(row) for row in connection.execute(query)]


def _get(connection: Connection, provider_id: str, *, lock: bool = False) -> Provider:
    query = sa.select(*PUBLIC_COLUMNS).where(providers.c.id == provider_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise missing("provider")
    return _provider(row)


def _shown(provider: Provider, mask: str) -> dict[str, Any]:
    """Return the stored fields of a provider for the audit trail."""
    names = (column.name for column in PUBLIC_COLUMNS)
    return {name: getattr(provider, name) for name in names} | {"api_key": mask}


def _rename_in_overrides(connection: Connection, before: Provider, after: Provider) -> None:
    if before.name != after.name:
        named = sa.update(overrides).where(overrides.c.provider_name == before.name)
        later = sa.case(
            (overrides.c.updated_at_ms < after.updated_at_ms, after.updated_at_ms), else_=overrides.c.updated_at_ms + 1
        )
        connection.execute(named.values(provider_name=after.name, updated_at_ms=later))


def _provider(row: Row[Any]) -> Provider:
    values = {name: value for name, value in row._mapping.items() if name != "api_key"}
    for name, kind in JSON_COLUMNS.items():
        if values[name] is not None:
            values[name] = msgspec.json.decode(values[name], type=kind)
    return Provider(**values)


def _stored(values: dict[str, Any]) -> dict[str, Any]:
    """Encode the values of `JSON_COLUMNS` as JSON text. Changes and returns `values`."""
    for name in JSON_COLUMNS:
        if values.get(name) is not None:
            values[name] = msgspec.json.encode(values[name]).decode()
    return values


def _name_exists(name: str) -> Conflict:
    return Conflict(f"A provider named {name!r} exists already; choose another name or change that one.")


def _now_ms() -> int:
    return wall_clock.now_ms()
