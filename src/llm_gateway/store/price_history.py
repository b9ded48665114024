"""Since when the prices that operators set are in force, by the entries of the audit trail about their providers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.domain.catalog import Provider
from llm_gateway.store.one_transaction import Transactions
from llm_gateway.store.tables import audit_entries

Since: TypeAlias = Mapping[str, int]
"""Milliseconds UTC by model; a model whose price is older than the audit trail is not in it."""
PricesByModel: TypeAlias = dict[str, Any]

NAMED = '"prices"'
"""Part of the fields of each entry that changes prices."""


class PriceHistory:
    """Search of the audit trail for prices. A provider's entries are read again only after it was changed."""

    def __init__(self, database: Transactions) -> None:
        self._database = database
        self._found: dict[str, tuple[int, Since]] = {}

    def since(self, providers: Iterable[Provider]) -> Mapping[str, Since]:
        """Return since when each price of these providers is in force, by the provider's id.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        priced = [provider for provider in providers if provider.prices]
        known, self._found = self._found, {}
        stale = [provider for provider in priced if known.get(provider.id, (None,))[0] != provider.updated_at_ms]
        found = {provider.id: known[provider.id] for provider in priced if provider not in stale}
        if stale:
            with self._database.read() as connection:
                found |= {each.id: (each.updated_at_ms, _since(connection, each)) for each in stale}
        self._found = found
        return {provider_id: since for provider_id, (_, since) in found.items()}


def _since(connection: Connection, provider: Provider) -> Since:
    """Return since when the prices of a provider are in force: since the newest entry that changed each of them."""
    since: dict[str, int] = {}
    wanted: PricesByModel = dict(provider.prices or {})
    for at_ms, before, after in _changes(connection, provider):
        for model in [model for model in wanted if before.get(model) != after.get(model)]:
            if after.get(model) == wanted.pop(model):  # else somebody changed it with SQL
                since[model] = at_ms
        if not wanted:
            break
    return since


def _changes(connection: Connection, provider: Provider) -> Iterator[tuple[int, PricesByModel, PricesByModel]]:
    """Return the changes of a provider's prices, newest first: when, and the prices before and after."""
    entries = audit_entries.c
    query = (
        sa.select(entries.at_ms, entries.before, entries.after)
        .where(entries.at_ms >= provider.created_at_ms, entries.resource_id == provider.id)
        .where(entries.action.in_(("provider.create", "provider.update")), entries.after.contains(NAMED))
        .order_by(entries.at_ms.desc(), entries.number.desc())
    )
    for row in connection.execute(query):
        yield row.at_ms, _prices(row.before), _prices(row.after)


def _prices(fields: str | None) -> PricesByModel:
    found: PricesByModel = {} if fields is None else msgspec.json.decode(fields)
    return found.get("prices") or {}
