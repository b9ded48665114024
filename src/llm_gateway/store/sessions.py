"""Store signed-in sessions of the dashboard, so that they outlive a restart and can be ended.

The browser holds a secret of 256 random bits in a cookie, the table its SHA-256: who reads the database cannot sign in.
A hash made to be slow would add nothing, since nobody can guess 256 bits.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

import msgspec
import sqlalchemy as sa

from llm_gateway.domain.uuid7 import new_id
from llm_gateway.store.database import Database
from llm_gateway.store.tables import sessions

LASTS_MS = 12 * 3_600_000
"""Life of a session, used or not."""
IDLE_MS = 2 * 3_600_000
"""Life of a session that is not used."""
TOUCH_MS = 60_000
"""How exactly the time of the last use is kept, so that a page does not cost a write."""
LONGEST_CLIENT = 200


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A session of the owner of a key. `*_ms` are milliseconds UTC; `client` describes the browser and its address."""

    id: str
    key_name: str
    key_id: str | None
    timezone: str
    client: str
    created_at_ms: int
    used_at_ms: int
    ends_at_ms: int


_COLUMNS = [sessions.c[name] for name in Session.__struct_fields__]


class SessionStore:
    """The table of sessions. `clock` returns seconds since 1970."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def open(self, key_name: str, key_id: str | None, timezone: str, client: str) -> str:
        """Store a new session, and forget those that have ended. Returns its secret."""
        secret, now_ms = secrets.token_urlsafe(32), self._now_ms()
        values = {
            "id": new_id(),
            "digest": _digest(secret),
            "key_name": key_name,
            "key_id": key_id,
            "timezone": timezone,
            "client": client[:LONGEST_CLIENT],
            "created_at_ms": now_ms,
            "used_at_ms": now_ms,
            "ends_at_ms": now_ms + LASTS_MS,
        }
        with self._database.write() as connection:
            connection.execute(sa.delete(sessions).where(~_lives(now_ms)))
            connection.execute(sa.insert(sessions).values(values))
        return secret

    def find(self, secret: str) -> Session | None:
        """Return the session with this secret, and note its use; None if there is none, or it has ended."""
        now_ms, digest = self._now_ms(), _digest(secret)
        query = sa.select(*_COLUMNS).where(sessions.c.digest == digest, _lives(now_ms))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        session = Session(**row._mapping)
        if session.used_at_ms < now_ms - TOUCH_MS:
            with self._database.write() as connection:
                connection.execute(
                    sa.update(sessions).where(sessions.c.id == session.id).values({"used_at_ms": now_ms})
                )
        return session

    def living(self) -> list[Session]:
        """Return the sessions that have not ended, the newest first."""
        query = sa.select(*_COLUMNS).where(_lives(self._now_ms())).order_by(sessions.c.id.desc())
        with self._database.read() as connection:
            return [Session(**row._mapping) for row in connection.execute(query)]

    def end(self, session_id: str) -> None:
        """End a session, if it has not ended."""
        with self._database.write() as connection:
            connection.execute(sa.delete(sessions).where(sessions.c.id == session_id))

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _lives(now_ms: int) -> sa.ColumnElement[bool]:
    return sa.and_(sessions.c.ends_at_ms > now_ms, sessions.c.used_at_ms > now_ms - IDLE_MS)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
