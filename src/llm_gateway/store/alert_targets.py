"""Store the targets of alerts; their URLs and passwords are encrypted at rest and leave only through `unseal`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import IntegrityError

from llm_gateway import wall_clock
from llm_gateway.domain.alert_target import AlertSecret, AlertTarget, Mailbox
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import Conflict
from llm_gateway.store.audit import AuditTrail, Changes, Unaudited
from llm_gateway.store.identifiers import missing, stored_id
from llm_gateway.store.one_transaction import Transactions, lock_for_count
from llm_gateway.store.secrets import SecretBox
from llm_gateway.store.tables import alert_deliveries, alert_targets
from llm_gateway.store.unchanged import check_unchanged

MOST_TARGETS = 50
"""Maximum number of targets: each event is compared with all of them."""
MASK, NEW_MASK = "***", "*** (new)"
"""What the audit trail has in place of the secrets, and of those that a change replaces."""
STATE = ("delivered_ms", "failed_ms", "error")
"""Columns that deliveries change; they are no part of a change that somebody makes."""
PUBLIC = tuple(column for column in alert_targets.c if column.name != "sealed")

Targets: TypeAlias = list[AlertTarget]
Changed: TypeAlias = Callable[[AlertTarget, AlertSecret], tuple[AlertTarget, AlertSecret]]
"""Return the changed target and its secrets; what it raises leaves the stored ones as they are."""


class AlertTargetStore:
    """The table of targets; `audit` keeps its changes. `clock_ms` returns milliseconds UTC."""

    def __init__(
        self,
        database: Transactions,
        box: SecretBox,
        audit: AuditTrail | None = None,
        clock_ms: Callable[[], int] = wall_clock.now_ms,
    ) -> None:
        self._database = database
        self._box = box
        self._changes: Changes = audit or Unaudited(database)
        self._clock_ms = clock_ms

    def within(self, transaction: Transactions) -> Self:
        """Return the same store whose reads and writes are part of a transaction."""
        part = copy.copy(self)
        part._database = transaction
        part._changes = self._changes.within(transaction)
        return part

    def list(self) -> Targets:
        """Return all targets in the order of their creation."""
        with self._database.read() as connection:
            return targets_in(connection)

    def get(self, target_id: str) -> AlertTarget:
        """Return one target.

        Raises:
            NotFound: no target has this id.
        """
        found = stored_id(target_id, "alert target")
        with self._database.read() as connection:
            return _target(_row(connection, found))

    def with_secret(self, target_id: str) -> tuple[AlertTarget, AlertSecret]:
        """Return one target and its secrets.

        Raises:
            NotFound: no target has this id.
            ConfigurationError: no configured encryption key decrypts them.
        """
        found = stored_id(target_id, "alert target")
        with self._database.read() as connection:
            row = _row(connection, found)
        return _target(row), self._opened(row)

    def unseal(self, target_id: str) -> AlertSecret:
        """Return the secrets of a target.

        Raises:
            NotFound: no target has this id.
            ConfigurationError: no configured encryption key decrypts them.
        """
        with self._database.read() as connection:
            return self._opened(_row(connection, target_id))

    def create(self, target: AlertTarget, secret: AlertSecret) -> AlertTarget:
        """Store a new target; its id and times are given here.

        Raises:
            Conflict: the name is taken, or there are too many targets.
        """
        now_ms = self._clock_ms()
        made = msgspec.structs.replace(target, id=new_id(), created_at_ms=now_ms, updated_at_ms=now_ms)
        try:
            with self._changes.change("alert_target.create") as change:
                lock_for_count(change.connection, alert_targets)
                count = change.connection.execute(sa.select(sa.func.count()).select_from(alert_targets)).scalar_one()
                if count >= MOST_TARGETS:
                    raise Conflict(f"There are {count} alert targets, which is the most: delete one first.")
                change.connection.execute(sa.insert(alert_targets).values(self._values(made, secret)))
                change.about(made.id, made.name, after=_shown(made, MASK))
        except IntegrityError:
            raise _name_exists(target.name) from None
        return made

    def update(self, target_id: str, changed: Changed, *, unchanged_since_ms: int | None = None) -> AlertTarget:
        """Change a target; with `unchanged_since_ms`, only if that is when it was changed last.

        Raises:
            NotFound: no target has this id.
            Conflict: another target has the new name.
            ChangedSince: somebody has changed the target since.
            ConfigurationError: no configured encryption key decrypts its secrets.
        """
        found, name = stored_id(target_id, "alert target"), ""
        try:
            with self._changes.change("alert_target.update") as change:
                row = _row(change.connection, found, lock=True)
                before, secret = _target(row), self._opened(row)
                check_unchanged("alert target", before.updated_at_ms, unchanged_since_ms)
                after, new_secret = changed(before, secret)
                after = msgspec.structs.replace(after, updated_at_ms=max(self._clock_ms(), before.updated_at_ms + 1))
                name = after.name
                own = sa.update(alert_targets).where(alert_targets.c.id == found)
                change.connection.execute(own.values(self._values(after, new_secret)))
                mask = MASK if secret == new_secret else NEW_MASK
                change.about(found, name, before=_shown(before, MASK), after=_shown(after, mask))
        except IntegrityError:
            raise _name_exists(name) from None
        return after

    def delete(self, target_id: str) -> None:
        """Delete a target, and what waits for it.

        Raises:
            NotFound: no target has this id.
        """
        found = stored_id(target_id, "alert target")
        with self._changes.change("alert_target.delete") as change:
            before = _target(_row(change.connection, found, lock=True))
            change.connection.execute(sa.delete(alert_deliveries).where(alert_deliveries.c.target_id == found))
            change.connection.execute(sa.delete(alert_targets).where(alert_targets.c.id == found))
            change.about(found, before.name, before=_shown(before, MASK))

    def note_test(self, target: AlertTarget, sentence: str, *, success: bool) -> None:
        """Keep in the audit trail that a target was tested, and what came of it; keep its state, too."""
        with self._changes.change("alert_target.test") as change:
            change.about(target.id, target.name, after={"success": success, "answer": sentence})
            self._note(change.connection, target.id, None if success else sentence)

    def note(self, target_id: str, error: str | None) -> None:
        """Store that a target took a message (None), or why it did not."""
        with self._database.write() as connection:
            self._note(connection, target_id, error)

    def rekey(self) -> int:
        """Encrypt the secrets of all targets with the first encryption key. Returns how many were changed.

        Raises:
            ConfigurationError: no configured encryption key decrypts one of them; nothing was changed.
        """
        query = sa.select(alert_targets.c.id, alert_targets.c.sealed).with_for_update()
        with self._changes.change("alert_target.rekey") as change:
            rows = change.connection.execute(query).all()
            stale = [row for row in rows if not self._box.is_current(row.sealed)]
            for row in stale:
                sealed = self._box.seal(self._box.open(row.sealed, row.id), row.id)
                own = sa.update(alert_targets).where(alert_targets.c.id == row.id)
                change.connection.execute(own.values(sealed=sealed))
            if stale:
                change.about(None, None, after={"alert_targets": [row.id for row in stale]})
            else:
                change.nothing()
        return len(stale)

    def _note(self, connection: Connection, target_id: str, error: str | None) -> None:
        now_ms = self._clock_ms()
        delivered = {"delivered_ms": now_ms, "failed_ms": None, "error": None}
        values = delivered if error is None else {"failed_ms": now_ms, "error": error}
        connection.execute(sa.update(alert_targets).where(alert_targets.c.id == target_id).values(values))

    def _opened(self, row: Row[Any]) -> AlertSecret:
        return msgspec.json.decode(self._box.open(row.sealed, row.id), type=AlertSecret)

    def _values(self, target: AlertTarget, secret: AlertSecret) -> Mapping[str, Any]:
        fields = {name: getattr(target, name) for name in target.__struct_fields__ if name not in STATE}
        mailbox = target.mailbox
        return fields | {
            "events": msgspec.json.encode(target.events).decode(),
            "mailbox": None if mailbox is None else msgspec.json.encode(mailbox).decode(),
            "sealed": self._box.seal(msgspec.json.encode(secret).decode(), target.id),
        }


def targets_in(connection: Connection) -> Targets:
    """Return all targets in the order of their creation, in the caller's transaction."""
    return [_target(row) for row in connection.execute(sa.select(*PUBLIC).order_by(alert_targets.c.id))]


def _row(connection: Connection, target_id: str, *, lock: bool = False) -> Row[Any]:
    query = sa.select(alert_targets).where(alert_targets.c.id == target_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise missing("alert target")
    return row


def _target(row: Row[Any]) -> AlertTarget:
    values = {name: value for name, value in row._mapping.items() if name != "sealed"}
    values["events"] = msgspec.json.decode(values["events"], type=tuple[str, ...])
    if values["mailbox"] is not None:
        values["mailbox"] = msgspec.json.decode(values["mailbox"], type=Mailbox)
    return AlertTarget(**values)


def _shown(target: AlertTarget, mask: str) -> dict[str, Any]:
    """Return the fields of a target for the audit trail."""
    names = [name for name in target.__struct_fields__ if name not in (*STATE, "mailbox", "has_secret")]
    mailbox = {} if target.mailbox is None else msgspec.structs.asdict(target.mailbox)
    return {**{name: getattr(target, name) for name in names}, **mailbox, "secrets": mask}


def _name_exists(name: str) -> Conflict:
    return Conflict(f"An alert target named {name!r} exists already; choose another name or change that one.")
