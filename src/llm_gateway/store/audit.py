"""Store what management writes change, in the same transaction: who, when, what, before and after, in a hash chain.

Stores of what the management API changes open their transactions with `AuditTrail.change`, which fails if the change is
not described. The chain is that of the data directory (`audit_head.py`); on Postgres several gateways have one each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway import wall_clock
from llm_gateway.domain.audit import GAP, GATEWAY, START, Actor, AuditEntry, current_actor
from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.store.audit_head import Head, HeadFile
from llm_gateway.store.database import Database
from llm_gateway.store.notices import notify
from llm_gateway.store.one_transaction import Transactions
from llm_gateway.store.set_insert import row_insert
from llm_gateway.store.tables import audit_chains, audit_entries

NOT_SHOWN = frozenset({"id", "created_at_ms", "updated_at_ms", "last_used_at_ms"})
"""Fields that an entry leaves out: they are in the entry itself, or are not what a change is about."""

MOST_TOLD = 1000
"""Changes of one transaction that have a log line each."""
_of = audit_entries.c
Fields: TypeAlias = Mapping[str, Any]
Log: TypeAlias = Callable[..., None]
Position: TypeAlias = tuple[int, int, str]
"""Time, number and chain of an entry, in the order of pages."""


class AuditFilter(NamedTuple):
    """The entries to return: times in milliseconds UTC, the end excluded; a None selects all.

    `actor` is a name, a key's id, or `oidc:` with a person's subject, `resource` a type, an id or a name.
    """

    start_ms: int | None = None
    end_ms: int | None = None
    actor: str | None = None
    action: str | None = None
    resource: str | None = None


class Change:
    """A transaction that changes something. Say what with `about`, or that nothing changes with `nothing`."""

    def __init__(self, connection: Connection, action: str) -> None:
        self.connection = connection
        self.action = action
        self.is_described = False
        self.is_nothing = False
        self.resource: tuple[str | None, str | None] = (None, None)
        self.before: Fields | None = None
        self.after: Fields | None = None

    def about(self, resource_id: str | None, name: str | None, *, before: object = None, after: object = None) -> None:
        """Describe the change; `before` and `after` are structs or mappings without secrets, None if there is none.

        If there are both, only the fields that differ are stored.
        """
        old, new = _fields(before), _fields(after)
        if old is not None and new is not None:
            differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
            old, new = ({name: each[name] for name in differing if name in each} for each in (old, new))
        self.resource, self.before, self.after = (resource_id, name), old, new
        self.is_described = True

    def nothing(self) -> None:
        """Say that the transaction changes nothing, so that no entry is stored."""
        self.is_described = self.is_nothing = True


class AuditTrail:
    """The audit entries of a database, and the chain of one data directory. Thread-safe.

    Args:
        database: where the entries are.
        directory: the data directory, which must exist when something changes.
        log: takes a line for each change that is stored, and one if the head's file cannot be written afterwards.
        clock_ms: milliseconds UTC.
        fsync: as for `HeadFile`.
    """

    def __init__(
        self,
        database: Database,
        directory: Path,
        log: Log = lambda _event, **_fields: None,
        clock_ms: Callable[[], int] = wall_clock.now_ms,
        *,
        fsync: bool = True,
    ) -> None:
        self._database: Transactions = database
        self._is_part = False
        self._head = HeadFile(directory, fsync=fsync)
        self._log = log
        self._clock_ms = clock_ms
        self._add_chain = row_insert(
            database, audit_chains, ("chain", "number", "hash"), "ON CONFLICT (chain) DO NOTHING"
        )

    def within(self, transaction: Transactions) -> Self:
        """Return the same trail whose entries are part of a transaction. Call `settle` once that is committed."""
        part = copy.copy(self)
        part._database, part._is_part = transaction, True
        return part

    def settle(self) -> None:
        """Log what was stored, and write the head of the chain, as it is in the database, to the file."""
        try:
            known = self._head.read()
            with self._database.read() as connection:
                query = sa.select(audit_entries).where(_of.chain == known.chain, _of.number > known.number)
                for entry in connection.execute(query.order_by(_of.number).limit(MOST_TOLD)):
                    self._tell(entry.action, entry.resource_name, Actor(entry.actor, entry.key_id, entry.address))
                query = sa.select(audit_chains).where(audit_chains.c.chain == known.chain)
                row = connection.execute(query).one_or_none()
                last = Head(known.chain, 0, START) if row is None else Head(**row._mapping)
                is_gap = _is_ahead(known, last)
                is_noted = is_gap and self._is_noted(connection, known)
            if not is_gap or is_noted:
                self._head.advance(last, is_after_gap=is_noted)
        except (ConfigurationError, StoreUnavailable) as error:  # the next change writes the file
            self._log("audit head cannot be written", level="error", reason=str(error))

    @contextmanager
    def change(self, action: str) -> Iterator[Change]:
        """Open a write transaction whose change is stored with it as an entry. `action` is such as `team.create`.

        Raises:
            StoreUnavailable: as `Database.write`, or the head's file cannot be used: nothing was changed.
            RuntimeError: the block did not describe its change: nothing was changed.
        """
        head, has_gap = None, False
        with self._database.write() as connection:
            change = Change(connection, action)
            yield change
            if not change.is_described:
                raise RuntimeError(f"The change {action} is not described for the audit trail.")
            if not change.is_nothing:
                head, has_gap = self._append(change)
                notify(connection)
        if head is not None and not self._is_part:
            self._tell(action, change.resource[1], current_actor())
            try:
                self._head.advance(head, is_after_gap=has_gap)
            except ConfigurationError as error:  # the change is stored: the next one writes the file again
                self._log("audit head cannot be written", level="error", reason=str(error))

    def _tell(self, action: str, name: str | None, actor: Actor) -> None:
        """Log a change that is stored: who, and what. The entry has the rest."""
        self._log(
            "management change", level="warning", action=action, name=name, by=actor.name, client=actor.address or None
        )

    def page(self, wanted: AuditFilter, limit: int, before: Position | None = None) -> list[AuditEntry]:
        """Return up to `limit` entries, newest first, those before the position of another one.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        entries = audit_entries.c
        place = (entries.at_ms, entries.number, entries.chain)
        query = sa.select(audit_entries).order_by(*(each.desc() for each in place)).limit(limit)
        if before is not None:
            query = query.where(sa.tuple_(*place) < sa.tuple_(*map(sa.literal, before)))
        if wanted.start_ms is not None:
            query = query.where(entries.at_ms >= wanted.start_ms)
        if wanted.end_ms is not None:
            query = query.where(entries.at_ms < wanted.end_ms)
        if wanted.actor is not None:
            named = [entries.actor == wanted.actor, entries.key_id == wanted.actor]
            if wanted.actor.startswith("oidc:"):  # behind the subject stands a name, which can change
                start = f"{wanted.actor} ("
                named.append(sa.func.substr(entries.actor, 1, len(start)) == start)
            query = query.where(sa.or_(*named))
        if wanted.action is not None:
            query = query.where(entries.action == wanted.action)
        if (text := wanted.resource) is not None:
            of_type = entries.action.startswith(f"{text}.", autoescape=True)
            query = query.where(sa.or_(of_type, entries.resource_id == text, entries.resource_name == text))
        with self._database.read() as connection:
            return [AuditEntry(**row._mapping) for row in connection.execute(query)]

    def _append(self, change: Change) -> tuple[Head, bool]:
        """Add the entry of a change to the chain, behind one for entries that are missing. Returns the new head."""
        connection = change.connection
        try:
            known = self._head.read()
        except ConfigurationError as error:
            raise StoreUnavailable(f"Nothing was changed, since the audit trail cannot be kept: {error}") from None
        last = self._last(connection, known.chain)
        # Nobody else adds to the chain now, and the file is written after a commit: it is never ahead of the chain.
        has_gap = _is_ahead(known, last)
        if has_gap and not self._is_noted(connection, known):
            gap = Change(connection, GAP)
            before, after = ({"number": each.number, "hash": each.hash} for each in (known, last))
            gap.about(None, None, before=before, after=after)
            last = self._add(gap, last, GATEWAY)
        head = self._add(change, last, current_actor())
        chains = audit_chains.c
        moved = sa.update(audit_chains).where(chains.chain == head.chain)
        connection.execute(moved.values(number=head.number, hash=head.hash))
        return head, has_gap

    def _is_noted(self, connection: Connection, known: Head) -> bool:
        """Return whether the newest entry of a gap is about this head, such as one of the same transaction."""
        entries = audit_entries.c
        of_gaps = sa.select(entries.before).where(entries.chain == known.chain, entries.action == GAP)
        newest = connection.execute(of_gaps.order_by(entries.number.desc()).limit(1)).scalar()
        return newest == _text({"number": known.number, "hash": known.hash})

    def _last(self, connection: Connection, chain: str) -> Head:
        """Return the chain's head in the database, and keep others from adding to it until the transaction ends."""
        query = sa.select(audit_chains).where(audit_chains.c.chain == chain).with_for_update()
        row = connection.execute(query).one_or_none()
        if row is None:
            self._add_chain.run(connection, [(chain, 0, START)])
            row = connection.execute(query).one()
        return Head(**row._mapping)

    def _add(self, change: Change, last: Head, actor: Actor) -> Head:
        """Insert the entry of a change behind the entry `last`. Returns the new head."""
        resource_id, name = change.resource
        entry = AuditEntry(
            chain=last.chain,
            number=last.number + 1,
            at_ms=self._clock_ms(),
            actor=actor.name,
            key_id=actor.key_id,
            address=actor.address,
            request_id=actor.request_id,
            action=change.action,
            resource_id=resource_id,
            resource_name=name,
            before=_text(change.before),
            after=_text(change.after),
        )
        digest = entry.hash_after(last.hash)
        values = msgspec.structs.asdict(entry) | {"hash": digest}
        change.connection.execute(sa.insert(audit_entries).values(values))
        return Head(last.chain, entry.number, digest)


class Unaudited:
    """Transactions like those of `AuditTrail` that store no entries: for stores without a gateway's changes."""

    def __init__(self, database: Transactions) -> None:
        self._database = database

    def within(self, transaction: Transactions) -> Unaudited:
        """Return the same for a part of a transaction."""
        return Unaudited(transaction)

    @contextmanager
    def change(self, action: str) -> Iterator[Change]:
        """Open a write transaction."""
        with self._database.write() as connection:
            yield Change(connection, action)


Changes: TypeAlias = AuditTrail | Unaudited
"""Where stores open their transactions."""


def _is_ahead(known: Head, last: Head) -> bool:
    """Return whether the file knows of entries that the chain does not have."""
    return known.number > last.number or (known.number == last.number and known.hash != last.hash)


def _fields(value: object) -> dict[str, Any] | None:
    """Return the fields of a struct or a mapping; those of a key's `settings` are fields of the key."""
    if value is None:
        return None
    found: dict[str, Any] = msgspec.to_builtins(value)
    found.update(found.pop("settings", None) or {})
    return {name: field for name, field in found.items() if name not in NOT_SHOWN}


def _text(fields: Fields | None) -> str | None:
    return None if fields is None else msgspec.json.encode(fields).decode()
