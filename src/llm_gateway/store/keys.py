"""Store service keys. Of a secret only its keyed hash is stored, so that no one can read a key from the database."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, Self, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import IntegrityError

from llm_gateway import wall_clock
from llm_gateway.domain.key_secret import HashedSecret, Hashers, Pepper, make_secret, public_id_of
from llm_gateway.domain.stored_key import KeySettings, StoredKey, StoredSecret
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import Conflict
from llm_gateway.store.audit import AuditTrail, Changes, Unaudited
from llm_gateway.store.identifiers import missing, stored_id
from llm_gateway.store.key_family import check_family
from llm_gateway.store.one_transaction import Transactions
from llm_gateway.store.row_versions import RowChanges, RowVersions
from llm_gateway.store.sessions import end_of_key
from llm_gateway.store.tables import api_key_secrets, api_keys

Keys: TypeAlias = list[StoredKey]
Secrets: TypeAlias = list[StoredSecret]
SETTINGS = frozenset(KeySettings.__struct_fields__)
MOST_SECRETS = 4
"""Secrets that a key can have at once, when rotations overlap."""
ROWS = 500
"""Ids of a query at most: databases bound the parameters of a statement."""


class KeyDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A key to create."""

    name: str
    scopes: tuple[str, ...] = ("call",)
    settings: KeySettings = KeySettings()
    team_id: str | None = None
    parent_id: str | None = None
    owner: str | None = None
    disabled: bool = False
    expires_at_ms: int | None = None


class MadeKey(NamedTuple):
    """A key with its new secret, which is known only now."""

    key: StoredKey
    secret: str

    def __repr__(self) -> str:
        return f"MadeKey({self.key.name!r})"


class KeyStore:
    """The tables of keys and of the hashes of their secrets.

    Args:
        database: where they are.
        peppers: of the hashes; the first makes them.
        reserved: names that keys cannot have, those of the environment's keys.
        clock_ms: milliseconds UTC.
        audit: keeps the changes.
    """

    def __init__(
        self,
        database: Transactions,
        peppers: list[Pepper],
        reserved: Collection[str] = (),
        clock_ms: Callable[[], int] = wall_clock.now_ms,
        audit: AuditTrail | None = None,
    ) -> None:
        self._database = database
        self._changes: Changes = audit or Unaudited(database)
        self.peppers = peppers
        self._hashers = Hashers(peppers)
        self.reserved = frozenset(reserved)
        self._clock_ms = clock_ms

    def within(self, transaction: Transactions) -> Self:
        """Return the same store whose reads and writes are part of a transaction."""
        part = copy.copy(self)
        part._database = transaction
        part._changes = self._changes.within(transaction)
        return part

    def list(self, *, name: str | None = None, team_id: str | None = None, after: str = "", limit: int = 100) -> Keys:
        """Return up to `limit` keys in the order of their creation, those whose id is greater than `after`."""
        query = sa.select(api_keys).where(api_keys.c.id > after).order_by(api_keys.c.id).limit(limit)
        if name is not None:
            query = query.where(api_keys.c.name == name)
        if team_id is not None:
            query = query.where(api_keys.c.team_id == team_id)
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(query)]

    def get(self, key_id: str) -> StoredKey:
        """Return one key.

        Raises:
            NotFound: no key has this id.
        """
        found = stored_id(key_id, "key")
        with self._database.read() as connection:
            return _get(connection, found)

    def create(self, draft: KeyDraft) -> MadeKey:
        """Store a new key with a new secret.

        Raises:
            Conflict: the name is taken.
            Invalid: the key does not fit its team or its parent.
        """
        secret = make_secret()
        return MadeKey(self.create_with(draft, self.hashed(secret)), secret)

    def create_with(self, draft: KeyDraft, secret: HashedSecret) -> StoredKey:
        """Store a new key whose secret was made elsewhere. No other key may have it. Raises what `create` raises."""
        now_ms = self._clock_ms()
        key = StoredKey(
            id=new_id(),
            last4=secret.last4,
            last_used_at_ms=None,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            **{name: getattr(draft, name) for name in draft.__struct_fields__},
        )
        self._check_name(key.name)
        try:
            with self._changes.change("key.create") as change:
                connection = change.connection
                check_family(connection, key, _key)
                connection.execute(sa.insert(api_keys).values(_row(msgspec.structs.asdict(key))))
                connection.execute(sa.insert(api_key_secrets).values(_secret_row(key.id, secret)))
                change.about(key.id, key.name, after=key)
        except IntegrityError:
            raise _name_exists(key.name) from None
        return key

    def update(self, key_id: str, changes: Mapping[str, Any]) -> StoredKey:
        """Change the fields in `changes`, named as in `KeyDraft` and in `KeySettings`.

        Raises:
            NotFound: no key has this id.
            Conflict: the new name is taken.
            Invalid: the key would not fit its team or its parent.
        """
        found = stored_id(key_id, "key")
        if "name" in changes:
            self._check_name(changes["name"])
        try:
            with self._changes.change("key.update") as change:
                connection = change.connection
                before = _get(connection, found, lock=True)
                narrowed = {name: value for name, value in changes.items() if name in SETTINGS}
                fields = {name: value for name, value in changes.items() if name not in SETTINGS}
                after = msgspec.structs.replace(
                    before,
                    settings=msgspec.structs.replace(before.settings, **narrowed),
                    updated_at_ms=max(self._clock_ms(), before.updated_at_ms + 1),
                    **fields,
                )
                check_family(connection, after, _key)
                values = _row(msgspec.structs.asdict(after))
                del values["last_used_at_ms"]
                connection.execute(sa.update(api_keys).where(api_keys.c.id == found).values(values))
                change.about(found, after.name, before=before, after=after)
                return after
        except IntegrityError:
            raise _name_exists(str(changes.get("name"))) from None

    def rotate(self, key_id: str, overlap_s: float) -> MadeKey:
        """Give a key a new secret. Its secrets before end in `overlap_s` seconds, unless a rotation ends them sooner.

        So do the dashboard's sessions that were opened with them.

        Raises:
            NotFound: no key has this id.
            Conflict: it has too many secrets that have not ended yet.
        """
        found = stored_id(key_id, "key")
        secret, now_ms = make_secret(), self._clock_ms()
        until_ms = now_ms + round(overlap_s * 1000)
        of_key = api_key_secrets.c.key_id == found
        with self._changes.change("key.rotate") as change:
            connection = change.connection
            before = _get(connection, found, lock=True)
            ended = api_key_secrets.c.until_ms <= now_ms
            connection.execute(sa.delete(api_key_secrets).where(of_key, ended))
            if overlap_s <= 0:
                connection.execute(sa.delete(api_key_secrets).where(of_key))
            kept = connection.execute(
                sa.select(sa.func.count()).select_from(api_key_secrets).where(of_key)
            ).scalar_one()
            if kept >= MOST_SECRETS:
                raise Conflict(
                    f"This key has {kept} secrets that are still valid: wait until an overlap ends, or rotate with "
                    "overlap_s 0, which ends them at once."
                )
            later = sa.or_(api_key_secrets.c.until_ms.is_(None), api_key_secrets.c.until_ms > until_ms)
            connection.execute(sa.update(api_key_secrets).where(of_key, later).values(until_ms=until_ms))
            connection.execute(sa.insert(api_key_secrets).values(_secret_row(found, self.hashed(secret))))
            after = msgspec.structs.replace(
                before, last4=secret[-4:], updated_at_ms=max(now_ms, before.updated_at_ms + 1)
            )
            end_of_key(connection, found, until_ms)
            values = {"last4": after.last4, "updated_at_ms": after.updated_at_ms}
            connection.execute(sa.update(api_keys).where(api_keys.c.id == found).values(values))
            rotated = {"last4": after.last4, "overlap_s": overlap_s}
            change.about(found, after.name, before={"last4": before.last4}, after=rotated)
        return MadeKey(after, secret)

    def replace_secret(self, key_id: str, secret: HashedSecret) -> None:
        """Give a key a secret that was made elsewhere, and end those before at once. No other key may have it.

        Raises:
            NotFound: no key has this id.
        """
        found = stored_id(key_id, "key")
        with self._changes.change("key.rotate") as change:
            connection = change.connection
            before = _get(connection, found, lock=True)
            connection.execute(sa.delete(api_key_secrets).where(api_key_secrets.c.key_id == found))
            connection.execute(sa.insert(api_key_secrets).values(_secret_row(found, secret)))
            now_ms = self._clock_ms()
            end_of_key(connection, found, now_ms)
            updated_at_ms = max(now_ms, before.updated_at_ms + 1)
            values = {"last4": secret.last4, "updated_at_ms": updated_at_ms}
            connection.execute(sa.update(api_keys).where(api_keys.c.id == found).values(values))
            change.about(found, before.name, before={"last4": before.last4}, after={"last4": secret.last4})

    def detach(self, ids: Collection[str]) -> None:
        """Take team and parent from keys that get others later in the same transaction."""
        if not ids:
            return
        query = sa.update(api_keys).where(api_keys.c.id == sa.bindparam("key")).values(team_id=None, parent_id=None)
        with self._changes.change("key.detach") as change:
            change.connection.execute(query, [{"key": key_id} for key_id in ids])
            change.about(None, None, after={"keys": sorted(ids)})

    def delete(self, key_id: str) -> None:
        """Delete a key and its secrets. Usage keeps its id.

        Raises:
            NotFound: no key has this id.
            Conflict: it is the parent of other keys.
        """
        found = stored_id(key_id, "key")
        with self._changes.change("key.delete") as change:
            connection = change.connection
            key = _get(connection, found, lock=True)
            of_parent = sa.select(sa.func.count()).select_from(api_keys).where(api_keys.c.parent_id == found)
            children = connection.execute(of_parent).scalar_one()
            if children:
                raise Conflict(
                    f"This key is the parent of {children} {'key' if children == 1 else 'keys'}: delete those first, "
                    'or change it with {"disabled": true}, which ends all of them at once.'
                )
            connection.execute(sa.delete(api_key_secrets).where(api_key_secrets.c.key_id == found))
            connection.execute(sa.delete(api_keys).where(api_keys.c.id == found))
            change.about(found, key.name, before=key)

    def expiring(self, since_ms: int, until_ms: int, limit: int = ROWS) -> Keys:
        """Return up to `limit` keys that end between two times (milliseconds UTC), those that end first."""
        ends = api_keys.c.expires_at_ms
        query = sa.select(api_keys).where(ends > since_ms, ends <= until_ms, api_keys.c.disabled.is_(sa.false()))
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(query.order_by(ends).limit(limit))]

    def changes(self, known: RowVersions) -> RowChanges:
        """Return which keys have changed since those that are known."""
        return known.look(self._database)

    def ids(self) -> Collection[str]:
        """Return the ids of all keys."""
        with self._database.read() as connection:
            return connection.execute(sa.select(api_keys.c.id)).scalars().all()

    def load(self, ids: Collection[str]) -> tuple[Keys, Secrets]:
        """Return the keys with these ids, and all their secrets. Each part of `ROWS` keys has its own time limit."""
        keys: Keys = []
        found: Secrets = []
        wanted = list(ids)
        for start in range(0, len(wanted), ROWS):
            part = wanted[start : start + ROWS]
            with self._database.read() as connection:
                rows = connection.execute(sa.select(api_keys).where(api_keys.c.id.in_(part))).all()
                hashes = connection.execute(sa.select(api_key_secrets).where(api_key_secrets.c.key_id.in_(part))).all()
            keys += [_key(row) for row in rows]
            found += [StoredSecret(**row._mapping) for row in hashes]
        return keys, found

    def note_use(self, used_at_ms: Mapping[str, int]) -> None:
        """Store when keys were used last, by their id; ids that are gone are ignored."""
        if not used_at_ms:
            return
        last = api_keys.c.last_used_at_ms
        is_later = sa.or_(last.is_(None), last < sa.bindparam("at_ms"))  # another host may have stored a later one
        query = sa.update(api_keys).where(api_keys.c.id == sa.bindparam("key"), is_later)
        with self._database.write() as connection:
            connection.execute(
                query.values(last_used_at_ms=sa.bindparam("at_ms")),
                [{"key": key_id, "at_ms": at_ms} for key_id, at_ms in sorted(used_at_ms.items())],
            )

    def _check_name(self, name: str) -> None:
        if name in self.reserved:
            raise Conflict(f"{name!r} is the name of a key of the environment: choose another name.")

    def hashed(self, secret: str, pepper: int | None = None) -> HashedSecret:
        """Return the hash of a secret: with the first pepper, or with that of a version, if there is one."""
        version, text = self.peppers[0].version if pepper is None else pepper, secret.encode()
        digest = self._hashers.digest(version, text) or b""
        return HashedSecret(public_id_of(text).decode(), secret[-4:], version, digest)


def _get(connection: Connection, key_id: str, *, lock: bool = False) -> StoredKey:
    query = sa.select(api_keys).where(api_keys.c.id == key_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise missing("key")
    return _key(row)


def _key(row: Row[Any]) -> StoredKey:
    fields = dict(row._mapping)
    fields["scopes"] = msgspec.json.decode(fields["scopes"], type=tuple[str, ...])
    fields["settings"] = msgspec.json.decode(fields["settings"], type=KeySettings)
    return StoredKey(**fields)


def _row(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a key."""
    texts: Iterable[str] = ("scopes", "settings")
    return fields | {name: msgspec.json.encode(fields[name]).decode() for name in texts}


def _secret_row(key_id: str, secret: HashedSecret) -> dict[str, Any]:
    fields = {"public_id": secret.public_id, "digest": secret.digest, "pepper": secret.pepper}
    return {**fields, "key_id": key_id, "until_ms": None}


def _name_exists(name: str) -> Conflict:
    return Conflict(f"A key named {name!r} exists: choose another name, or change that one.")
