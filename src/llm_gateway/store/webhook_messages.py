"""Keep messages about events until they are delivered, so that no restart or absent receiver loses one.

They go to the webhook of the settings, if there is one, and to the targets that hear the event (`alert_deliveries.py`).

Each message has an id that names its event. It is stored once: an event that happens again, or is found again after a
restart, adds nothing.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from llm_gateway.domain.alert_target import AlertMessage
from llm_gateway.store.alert_deliveries import add_deliveries, forget_deliveries
from llm_gateway.store.alert_targets import targets_in
from llm_gateway.store.database import Database
from llm_gateway.store.rollups import DAY_MS
from llm_gateway.store.tables import webhook_messages

MOST_WAITING = 1000
"""Maximum number of messages that wait; further ones are dropped."""
KEPT_MS = 40 * DAY_MS
"""Milliseconds for which a message stays after its event."""
UNHEARD_MS = DAY_MS
"""Milliseconds for which a message waits for a webhook that the settings do not name any more."""
LONGEST_PART = 64

_of = webhook_messages.c


def id_part(value: str) -> str:
    """Return a value of any characters as a part of a message's id, which is a header and a key of an index.

    It is percent-encoded, or the SHA-256 of the value if that is shorter.
    """
    part = quote(value, safe="")
    return part if len(part) <= LONGEST_PART else sha256(value.encode()).hexdigest()


class Message(NamedTuple):
    """A message: its id, the event's time (milliseconds UTC), its JSON text, and how often it was sent in vain."""

    id: str
    at_ms: int
    body: str
    attempts: int


class WebhookMessages:
    """The table of messages. `has_webhook`: the settings have a webhook, which gets all events."""

    def __init__(self, database: Database, most_waiting: int = MOST_WAITING, *, has_webhook: bool = True) -> None:
        self._database = database
        self._most_waiting = most_waiting
        self._has_webhook = has_webhook

    def are_heard(self) -> bool:
        """Return whether anybody gets messages.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        if self._has_webhook:
            return True
        with self._database.read() as connection:
            return any(target.is_enabled for target in targets_in(connection))

    def add(self, message_id: str, at_ms: int, kind: str, data: dict[str, Any]) -> bool:
        """Store a message in a transaction of its own.

        Returns False if a receiver does not get it, since too many wait for it.
        """
        with self._database.write() as connection:
            return self.add_in(connection, message_id, at_ms, kind, data)

    def add_in(self, connection: Connection, message_id: str, at_ms: int, kind: str, data: dict[str, Any]) -> bool:
        """Store a message in the caller's transaction; otherwise as `add`."""
        if connection.execute(sa.select(_of.id).where(_of.id == message_id)).first() is not None:
            return True
        targets = [target for target in targets_in(connection) if target.hears(kind)]
        is_full = self._has_webhook and _waiting(connection) >= self._most_waiting
        if not targets and (is_full or not self._has_webhook):
            return not is_full
        body = msgspec.json.encode({"id": message_id, "type": kind, "at_ms": at_ms, "data": data}).decode()
        next_ms = at_ms if self._has_webhook and not is_full else None
        row = {"id": message_id, "at_ms": at_ms, "body": body, "attempts": 0, "next_attempt_ms": next_ms}
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        if not connection.execute(insert(webhook_messages).values(row).on_conflict_do_nothing()).rowcount:
            return True  # another host has just told it
        dropped = add_deliveries(connection, targets, AlertMessage(message_id, at_ms, body))
        return not (is_full or dropped)

    @staticmethod
    def forget(connection: Connection, start: str, part: str) -> None:
        """Delete the messages whose ids begin with `start` and whose bodies have a part, in a transaction."""
        has_part = sa.func.replace(_of.body, part, "") != _of.body  # LIKE takes `Ann` for `ann` on SQLite
        connection.execute(sa.delete(webhook_messages).where(_of.id.startswith(start, autoescape=True), has_part))
        forget_deliveries(connection)

    def due(self, now_ms: int, limit: int) -> list[Message]:
        """Return up to `limit` messages that are to be sent now, the oldest first."""
        query = (
            sa.select(_of.id, _of.at_ms, _of.body, _of.attempts)
            .where(_of.next_attempt_ms <= now_ms)
            .order_by(_of.at_ms, _of.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [Message(*row) for row in connection.execute(query)]

    def note(self, message: Message, next_attempt_ms: int | None) -> None:
        """Store that a message was sent: delivered or given up (None), or to be sent again at a time."""
        update = sa.update(webhook_messages).where(_of.id == message.id)
        with self._database.write() as connection:
            connection.execute(update.values(attempts=message.attempts + 1, next_attempt_ms=next_attempt_ms))

    def prune(self, now_ms: int) -> None:
        """Delete messages of old events that do not wait any more.

        Without a webhook, none waits for longer than a webhook that fails would have been tried: another gateway on the
        database may still have one.
        """
        with self._database.write() as connection:
            if not self._has_webhook:
                stale = sa.and_(_of.next_attempt_ms.is_not(None), _of.at_ms < now_ms - UNHEARD_MS)
                connection.execute(sa.update(webhook_messages).where(stale).values(next_attempt_ms=None))
            connection.execute(
                sa.delete(webhook_messages).where(_of.next_attempt_ms.is_(None), _of.at_ms < now_ms - KEPT_MS)
            )
            forget_deliveries(connection)


def _waiting(connection: Connection) -> int:
    query = sa.select(sa.func.count()).select_from(webhook_messages).where(_of.next_attempt_ms.is_not(None))
    return connection.execute(query).scalar_one()
