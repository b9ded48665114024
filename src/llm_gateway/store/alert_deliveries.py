"""Keep messages for the targets of alerts until they are delivered: a row for each target that a message waits for.

    waiting ──(claimed, for a minute)──▶ sent ──▶ taken: no row        given up after the last attempt: no row
       ▲                                  │
       └──────── again, later ────────────┘

A message is claimed before it is sent. So of several gateways on one database one sends it, and a gateway that is
killed meanwhile sends it once more, a minute later.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.domain.alert_target import AlertMessage, AlertTarget
from llm_gateway.store.database import Database
from llm_gateway.store.tables import alert_deliveries, webhook_messages

MOST_WAITING = 1000
"""Maximum number of messages that wait for a target; further ones are dropped."""
CLAIMED_MS = 60_000
"""Milliseconds after which a claimed message is sent again. Longer than a target may take to answer."""

_of = alert_deliveries.c


class Delivery(NamedTuple):
    """A message on its way to a target, and how often it was sent in vain."""

    target_id: str
    message: AlertMessage
    attempts: int


class AlertDeliveries:
    """The table of deliveries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, now_ms: int) -> list[str]:
        """Return the ids of the targets for which a message is to be sent now."""
        query = sa.select(_of.target_id).where(_of.next_attempt_ms <= now_ms).distinct()
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def claim(self, target_id: str, now_ms: int) -> Delivery | None:
        """Return the oldest message that is to be sent to a target now, and keep others from sending it."""
        query = (
            sa.select(_of.message_id, webhook_messages.c.at_ms, webhook_messages.c.body, _of.attempts)
            .join_from(alert_deliveries, webhook_messages, webhook_messages.c.id == _of.message_id)
            .where(_of.target_id == target_id, _of.next_attempt_ms <= now_ms)
            .order_by(webhook_messages.c.at_ms, _of.message_id)
            .limit(1)
        )
        with self._database.write() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                gone = _of.message_id.not_in(sa.select(webhook_messages.c.id))  # of an erased customer
                connection.execute(sa.delete(alert_deliveries).where(_of.target_id == target_id, gone))
                return None
            own = sa.update(alert_deliveries).where(
                _of.target_id == target_id, _of.message_id == row.message_id, _of.next_attempt_ms <= now_ms
            )
            if not connection.execute(own.values(next_attempt_ms=now_ms + CLAIMED_MS)).rowcount:
                return None
        return Delivery(target_id, AlertMessage(row.message_id, row.at_ms, row.body), row.attempts)

    def settle(self, delivery: Delivery, next_attempt_ms: int | None) -> None:
        """Store that a message was sent: taken or given up (None), or to be sent again at a time."""
        own = sa.and_(_of.target_id == delivery.target_id, _of.message_id == delivery.message.id)
        with self._database.write() as connection:
            if next_attempt_ms is None:
                connection.execute(sa.delete(alert_deliveries).where(own))
            else:
                again = {"attempts": delivery.attempts + 1, "next_attempt_ms": next_attempt_ms}
                connection.execute(sa.update(alert_deliveries).where(own).values(again))

    def forget(self, target_id: str) -> None:
        """Delete what waits for a target that is gone: an event may have been stored while it was deleted."""
        with self._database.write() as connection:
            connection.execute(sa.delete(alert_deliveries).where(_of.target_id == target_id))

    def waiting(self) -> dict[str, int]:
        """Return how many messages wait, by target."""
        query = sa.select(_of.target_id, sa.func.count()).group_by(_of.target_id)
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}


def add_deliveries(connection: Connection, targets: Iterable[AlertTarget], message: AlertMessage) -> int:
    """Add a message for each of the targets, in the caller's transaction. Returns how many had no place for it."""
    dropped = 0
    for target in targets:
        count = sa.select(sa.func.count()).select_from(alert_deliveries).where(_of.target_id == target.id)
        if connection.execute(count).scalar_one() >= MOST_WAITING:
            dropped += 1
            continue
        row = {"target_id": target.id, "message_id": message.id, "attempts": 0, "next_attempt_ms": message.at_ms}
        connection.execute(sa.insert(alert_deliveries).values(row))
    return dropped


def forget_deliveries(connection: Connection) -> None:
    """Delete the deliveries of messages that are gone, in the caller's transaction."""
    gone = _of.message_id.not_in(sa.select(webhook_messages.c.id))
    connection.execute(sa.delete(alert_deliveries).where(gone))
