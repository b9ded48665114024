"""Store signed-in sessions of the dashboard, so that they outlive a restart and can be ended.

The browser holds a secret of 256 random bits in a cookie, the table its SHA-256: who reads the database cannot sign in.
A hash made to be slow would add nothing, since nobody can guess 256 bits.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway import wall_clock
from llm_gateway.domain.person import Identity
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import NotFound
from llm_gateway.store.audit import AuditTrail, Changes, Unaudited
from llm_gateway.store.database import Database
from llm_gateway.store.tables import api_key_secrets, api_keys, people, sessions

LASTS_MS = 12 * 3_600_000
"""Life of a session, used or not."""
IDLE_MS = 2 * 3_600_000
"""Life of a session that is not used."""
TOUCH_MS = 60_000
"""How exactly the time of the last use is kept, so that a page does not cost a write."""
LONGEST_CLIENT = 200
MOST_OF_ONE = 20
"""Sessions of one owner; a further sign-in ends the oldest."""


class Owner(NamedTuple):
    """The owner of a session: the key `key_id` or, without an id, the key of the environment named `name`.

    A person has an id instead, and whom an identity provider named has an `identity`; `name` is then the person's.
    `as_of_ms` is the time of the person's last change when the password was checked. `public_id` is that of the secret
    which was presented for the key: the session ends with that secret.
    """

    name: str
    key_id: str | None = None
    person_id: str | None = None
    identity: Identity | None = None
    as_of_ms: int | None = None
    public_id: str | None = None


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A session of an owner. `*_ms` are milliseconds UTC; `client` is what the browser calls itself."""

    id: str
    key_name: str
    key_id: str | None
    timezone: str
    client: str
    created_at_ms: int
    used_at_ms: int
    ends_at_ms: int
    person_id: str | None
    identity: str | None
    address: str

    @property
    def owner(self) -> Owner:
        """Whose the session is."""
        identity = None if self.identity is None else msgspec.json.decode(self.identity, type=Identity)
        return Owner(self.key_name, self.key_id, self.person_id, identity)


class OwnerChanged(Exception):
    """The owner is not as it was when it proved who it is."""


_COLUMNS = [sessions.c[name] for name in Session.__struct_fields__]
_NO_PERSON = sa.and_(sessions.c.person_id.is_(None), sessions.c.identity.is_(None))


class SessionStore:
    """The table of sessions. `clock` returns seconds since 1970; `audit` keeps who ended sessions over the API."""

    def __init__(
        self, database: Database, clock: Callable[[], float] = wall_clock.now_s, audit: AuditTrail | None = None
    ) -> None:
        self._database = database
        self._clock = clock
        self._changes: Changes = audit or Unaudited(database)

    def open(
        self,
        owner: Owner,
        timezone: str,
        client: str,
        address: str,
        seal: Callable[[str], str] = lambda secret: secret,
    ) -> str:
        """Store a new session; forget those that have ended and the owner's oldest beyond MOST_OF_ONE.

        Returns its secret, to which `seal` can add something.

        Raises:
            OwnerChanged: the person was changed or deleted after the password was checked, or the key's secret has
                ended since: what ends sessions must end this sign-in, too.
        """
        secret, now_ms = seal(secrets.token_urlsafe(32)), self._now_ms()
        values = {
            "id": new_id(),
            "digest": _digest(secret),
            "key_name": owner.name,
            "key_id": owner.key_id,
            "timezone": timezone,
            "client": client[:LONGEST_CLIENT],
            "created_at_ms": now_ms,
            "used_at_ms": now_ms,
            "ends_at_ms": now_ms + LASTS_MS,
            "person_id": owner.person_id,
            "identity": None if owner.identity is None else msgspec.json.encode(owner.identity).decode(),
            "address": address,
        }
        with self._database.write() as connection:
            if owner.as_of_ms is not None:
                _check_unchanged(connection, owner)
            if owner.public_id is not None:
                until_ms = _end_of_secret(connection, owner, now_ms)
                values["ends_at_ms"] = min(now_ms + LASTS_MS, until_ms or now_ms + LASTS_MS)
            connection.execute(sa.delete(sessions).where(~_lives(now_ms)))
            connection.execute(sa.insert(sessions).values(values))
            newest = sa.select(sessions.c.id).where(_is_of(owner)).order_by(sessions.c.id.desc()).limit(MOST_OF_ONE)
            connection.execute(sa.delete(sessions).where(_is_of(owner), sessions.c.id.not_in(newest.scalar_subquery())))
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

    def living(self, owner: Owner | None = None) -> list[Session]:
        """Return the sessions that have not ended, the newest first: all, or those of one owner."""
        query = sa.select(*_COLUMNS).where(_lives(self._now_ms())).order_by(sessions.c.id.desc())
        if owner is not None:
            query = query.where(_is_of(owner))
        with self._database.read() as connection:
            return [Session(**row._mapping) for row in connection.execute(query)]

    def end(self, session_id: str) -> None:
        """End a session, if it has not ended: its owner signed out."""
        with self._database.write() as connection:
            connection.execute(sa.delete(sessions).where(sessions.c.id == session_id))

    def close(self, session_id: str, owner: Owner | None = None) -> None:
        """End a session, as an entry of the audit trail says: any, or one of this owner.

        Raises:
            NotFound: there is none with this id.
        """
        found = sa.and_(sessions.c.id == session_id.lower(), _lives(self._now_ms()))
        if owner is not None:
            found = sa.and_(found, _is_of(owner))
        with self._changes.change("session.end") as change:
            row = change.connection.execute(sa.select(*_COLUMNS).where(found).with_for_update()).one_or_none()
            if row is None:
                raise NotFound("There is no session with this id: it may have ended.")
            change.connection.execute(sa.delete(sessions).where(found))
            # People can change their names at an identity provider, but not the subject.
            identity = Session(**row._mapping).owner.identity
            who = {} if identity is None else {"issuer": identity.issuer, "subject": identity.subject}
            change.about(row.id, row.key_name, before={"client": row.client, "address": row.address, **who})

    def close_others(self, owner: Owner, kept: str | None) -> int:
        """End the sessions of an owner but the one with the id `kept`, as one entry says. Returns their number."""
        others = sa.and_(_is_of(owner), sessions.c.id != (kept or "").lower())
        with self._changes.change("session.end") as change:
            ended = change.connection.execute(sa.delete(sessions).where(others)).rowcount
            if ended:
                change.about(None, owner.name, before={"sessions": ended})
            else:
                change.nothing()
        return ended

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _check_unchanged(connection: Connection, owner: Owner) -> None:
    """Lock the person's row until the transaction ends: a change waits, and ends the session that is stored in it."""
    unchanged = sa.and_(people.c.id == owner.person_id, people.c.updated_at_ms == owner.as_of_ms)
    if connection.execute(sa.select(people.c.id).where(unchanged).with_for_update(read=True)).first() is None:
        raise OwnerChanged


def _end_of_secret(connection: Connection, owner: Owner, now_ms: int) -> int | None:
    """Return when the secret ends (milliseconds UTC; None: never). The key's row is locked: a rotation waits.

    Raises:
        OwnerChanged: it has ended.
    """
    connection.execute(sa.select(api_keys.c.id).where(api_keys.c.id == owner.key_id).with_for_update(read=True))
    secret = api_key_secrets.c
    found = sa.select(secret.until_ms).where(secret.public_id == owner.public_id, secret.key_id == owner.key_id)
    row = connection.execute(found).one_or_none()
    if row is None or (row.until_ms is not None and row.until_ms <= now_ms):
        raise OwnerChanged
    until_ms: int | None = row.until_ms
    return until_ms


def end_of_key(connection: Connection, key_id: str, until_ms: int) -> None:
    """Let the sessions of a key end at a time (milliseconds UTC), unless they end before it."""
    later = sa.and_(sessions.c.key_id == key_id, sessions.c.ends_at_ms > until_ms)
    connection.execute(sa.update(sessions).where(later).values(ends_at_ms=until_ms))


def _lives(now_ms: int) -> sa.ColumnElement[bool]:
    return sa.and_(sessions.c.ends_at_ms > now_ms, sessions.c.used_at_ms > now_ms - IDLE_MS)


def _is_of(owner: Owner) -> sa.ColumnElement[bool]:
    if owner.person_id is not None:
        return sessions.c.person_id == owner.person_id
    if owner.identity is not None:
        # The issuer and subject name a person for good (OpenID Connect Core 1.0, section 5.7); names and rights change.
        whole = msgspec.json.encode({"issuer": owner.identity.issuer, "subject": owner.identity.subject}).decode()
        start = whole.removesuffix("}")
        return sa.func.substr(sessions.c.identity, 1, len(start)) == start
    of_key = sessions.c.key_id.is_(None) if owner.key_id is None else sessions.c.key_id == owner.key_id
    return sa.and_(of_key, sessions.c.key_name == owner.name if owner.key_id is None else sa.true(), _NO_PERSON)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
