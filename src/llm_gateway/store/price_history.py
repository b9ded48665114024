"""Since when the prices that operators set are in force, by the entries of the audit trail about their providers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.domain.catalog import Provider
from llm_gateway.errors import StoreUnavailable
from llm_gateway.store.one_transaction import Transactions
from llm_gateway.store.tables import audit_entries

Since: TypeAlias = Mapping[str, int]
"""Milliseconds UTC by model; a model whose price is older than the audit trail is not in it."""
PricesByModel: TypeAlias = dict[str, Any]

NAMED = '"prices"'
"""Part of the fields of each entry that changes prices."""
READ_S = 0.5
"""Seconds that a provider's entries may take to be read: pages show since when a price is in force beside much else."""
AGAIN_S = 60.0
"""Seconds after which entries are read again that took longer, or could not be read."""


class _Found(NamedTuple):
    """Result for a provider as of a change of it, which counts until a time of the clock."""

    updated_at_ms: int
    since: Since
    until: float = math.inf


class PriceHistory:
    """Search of the audit trail for prices. A provider's entries are read again only after it was changed.

    Threads can use it at once: then they may read the same entries.

    Args:
        database: where the entries are.
        clock: monotonic time in seconds.
        read_s: seconds that a provider's entries may take to be read.
    """

    def __init__(
        self, database: Transactions, clock: Callable[[], float] = time.monotonic, read_s: float = READ_S
    ) -> None:
        self._database = database
        self._clock = clock
        self._read_s = read_s
        self._found: Mapping[str, _Found] = {}

    def since(self, providers: Iterable[Provider]) -> Mapping[str, Since]:
        """Return since when each price of these providers is in force, by the provider's id.

        What cannot be read, or not in time, is not in it.
        """
        priced = [provider for provider in providers if provider.prices]
        known, now = self._found, self._clock()
        found: dict[str, _Found] = {}
        is_late = False
        for provider in priced:
            last = known.get(provider.id)
            if last is None or last.updated_at_ms != provider.updated_at_ms or now >= last.until:
                if is_late:  # one wait for each page is enough: the next one reads the others
                    continue
                last = self._read(provider)
                is_late = last.until != math.inf
            found[provider.id] = last
        self._found = found
        return {provider_id: each.since for provider_id, each in found.items()}

    def _read(self, provider: Provider) -> _Found:
        try:
            with self._database.read(self._read_s) as connection:
                return _Found(provider.updated_at_ms, _since(connection, provider))
        except StoreUnavailable:
            return _Found(provider.updated_at_ms, {}, self._clock() + AGAIN_S)


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
