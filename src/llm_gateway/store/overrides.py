"""Store users' routing overrides: at most one per user and service, and one per user for all services."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, Self, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import IntegrityError

from llm_gateway import wall_clock
from llm_gateway.domain.catalog import Override
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import Conflict, Invalid
from llm_gateway.store.audit import AuditTrail, Changes, Unaudited
from llm_gateway.store.identifiers import missing, stored_id
from llm_gateway.store.one_transaction import Transactions
from llm_gateway.store.row_versions import RowChanges, RowVersions
from llm_gateway.store.tables import overrides, providers
from llm_gateway.suggestions import if_meant

Overrides: TypeAlias = list[Override]

ROWS = 500
"""Overrides that are read at once."""


class OverrideDraft(msgspec.Struct, frozen=True, kw_only=True):
    """An override to create; `service_name` None means all services."""

    user_id: str
    provider_name: str
    model_name: str
    service_name: str | None = None
    allow_fallback: bool = True


class OverrideStore:
    """The table of overrides; `audit` keeps its changes. In the database an empty service name stands for all."""

    def __init__(self, database: Transactions, audit: AuditTrail | None = None) -> None:
        self._database = database
        self._changes: Changes = audit or Unaudited(database)

    def within(self, transaction: Transactions) -> Self:
        """Return the same store whose reads and writes are part of a transaction."""
        part = copy.copy(self)
        part._database = transaction
        part._changes = self._changes.within(transaction)
        return part

    def list(self, user_id: str | None = None) -> Overrides:
        """Return all overrides, or those of one user, sorted by user and service."""
        query = sa.select(overrides).order_by(overrides.c.user_id, overrides.c.service_name)
        if user_id is not None:
            query = query.where(overrides.c.user_id == user_id)
        with self._database.read() as connection:
            return [_override(row) for row in connection.execute(query).all()]

    def changes(self, known: RowVersions) -> RowChanges:
        """Return which overrides have changed since those that are known."""
        return known.look(self._database)

    def load(self, ids: Collection[str]) -> Overrides:
        """Return the overrides with these ids. Each part of `ROWS` has its own time limit."""
        found: Overrides = []
        wanted = list(ids)
        for start in range(0, len(wanted), ROWS):
            query = sa.select(overrides).where(overrides.c.id.in_(wanted[start : start + ROWS]))
            with self._database.read() as connection:
                found += [_override(row) for row in connection.execute(query).all()]
        return found

    def create(self, draft: OverrideDraft) -> Override:
        """Store a new override.

        Raises:
            Invalid: there is no such provider, or it does not list the model.
            Conflict: the user already has an override for this service.
        """
        now_ms = wall_clock.now_ms()
        override = Override(
            id=new_id(),
            user_id=draft.user_id,
            service_name=draft.service_name or None,
            provider_name=draft.provider_name,
            model_name=draft.model_name,
            allow_fallback=draft.allow_fallback,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )
        values = {**msgspec.structs.asdict(override), "service_name": draft.service_name or ""}
        try:
            with self._changes.change("override.create") as change:
                _require_model(change.connection, draft)
                change.connection.execute(sa.insert(overrides).values(values))
                change.about(override.id, None, after=override)
        except IntegrityError:
            where = f"the service {draft.service_name!r}" if draft.service_name else "all services"
            raise Conflict(f"This user has an override for {where} already; delete it first.") from None
        return override

    def update(self, override_id: str, draft: OverrideDraft) -> None:
        """Give an override the provider, model and fallback of `draft`, whose user and service are the override's.

        Raises:
            NotFound: no override has this id.
            Invalid: there is no such provider, or it does not list the model.
        """
        found = stored_id(override_id, "override")
        values = {name: getattr(draft, name) for name in ("provider_name", "model_name", "allow_fallback")}
        later = sa.case(
            (overrides.c.updated_at_ms < (now_ms := wall_clock.now_ms()), now_ms),
            else_=overrides.c.updated_at_ms + 1,
        )
        named = overrides.c.id == found
        with self._changes.change("override.update") as change:
            connection = change.connection
            _require_model(connection, draft)
            row = connection.execute(sa.select(overrides).where(named).with_for_update()).one_or_none()
            if row is None:
                raise missing("override")
            connection.execute(sa.update(overrides).where(named).values(**values, updated_at_ms=later))
            after = connection.execute(sa.select(overrides).where(named)).one()
            change.about(found, None, before=_override(row), after=_override(after))

    def delete(self, override_id: str) -> None:
        """Delete an override.

        Raises:
            NotFound: no override has this id.
        """
        found = stored_id(override_id, "override")
        with self._changes.change("override.delete") as change:
            named = overrides.c.id == found
            row = change.connection.execute(sa.select(overrides).where(named).with_for_update()).one_or_none()
            if row is None:
                raise missing("override")
            change.connection.execute(sa.delete(overrides).where(named))
            change.about(found, None, before=_override(row))


def _require_model(connection: Connection, draft: OverrideDraft) -> None:
    # The row is locked: a concurrent rename of the provider waits, and then renames it in this override, too.
    query = sa.select(providers.c.models).where(providers.c.name == draft.provider_name).with_for_update(read=True)
    models = connection.execute(query).scalar_one_or_none()
    if models is None:
        names = connection.execute(sa.select(providers.c.name).order_by(providers.c.name)).scalars()
        raise Invalid(
            f"There is no provider named {draft.provider_name!r}: create it first, or name another."
            f"{if_meant(draft.provider_name, names)}",
            loc=("body", "provider_name"),
        )
    listed = msgspec.json.decode(models, type=tuple[str, ...])
    if draft.model_name not in listed:
        raise Invalid(
            f"The provider {draft.provider_name!r} does not list the model {draft.model_name!r}: "
            f"name one of its models, or add this one to them.{if_meant(draft.model_name, listed)}",
            loc=("body", "model_name"),
        )


def _override(row: Row[Any]) -> Override:
    return Override(**{**row._mapping, "service_name": row.service_name or None})
