"""Store people who sign in to the dashboard with a password. Nothing returns the hash of a password."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import IntegrityError

from llm_gateway import wall_clock
from llm_gateway.domain.person import StoredPerson
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import Conflict, Invalid
from llm_gateway.store.audit import AuditTrail, Changes, Unaudited
from llm_gateway.store.database import Database
from llm_gateway.store.identifiers import missing, stored_id
from llm_gateway.store.passwords import MOST_HASHES, NOBODYS, hashed, is_password_of
from llm_gateway.store.tables import people, sessions, teams
from llm_gateway.store.unchanged import check_unchanged

People: TypeAlias = list[StoredPerson]

NOT_BOUND = "The role own is bound to a team, a customer, or both: name one."
BOUND = "Only the role own is bound to a team or a customer: leave both out, or give the person the role own."
_COLUMNS = [people.c[name] for name in StoredPerson.__struct_fields__]


class PeopleStore:
    """The table of people; `audit` keeps its changes. Whatever takes a password blocks for some 65 ms."""

    def __init__(self, database: Database, audit: AuditTrail | None = None) -> None:
        self._database = database
        self._changes: Changes = audit or Unaudited(database)
        self._hashing = threading.BoundedSemaphore(MOST_HASHES)

    def list(self, *, name: str | None = None, after: str = "", limit: int = 100) -> People:
        """Return up to `limit` people in the order of their creation, those whose id is greater than `after`."""
        query = sa.select(*_COLUMNS).where(people.c.id > after).order_by(people.c.id).limit(limit)
        if name is not None:
            query = query.where(people.c.name == name)
        with self._database.read() as connection:
            return [StoredPerson(**row._mapping) for row in connection.execute(query)]

    def count(self) -> int:
        """Return how many people there are."""
        with self._database.read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(people)).scalar_one())

    def get(self, person_id: str) -> StoredPerson:
        """Return one person.

        Raises:
            NotFound: nobody has this id.
        """
        found = stored_id(person_id, "person")
        with self._database.read() as connection:
            return _person(_row(connection, found))

    def check(self, name: str, password: str) -> StoredPerson | None:
        """Return who has this name and password; None if nobody has, or the person is disabled.

        It takes as long for a name that nobody has.
        """
        query = sa.select(*_COLUMNS, people.c.password).where(people.c.name == name)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        with self._hashing:
            is_right = is_password_of(NOBODYS if row is None else row.password, password)
        return None if row is None or not is_right or row.disabled else _person(row)

    def create(self, fields: Mapping[str, Any]) -> StoredPerson:
        """Store a new person with `name`, `role`, `password`, and `team_id` and `customer` if it is bound to one.

        Raises:
            Conflict: the name is taken.
            Invalid: the role does not fit what it is bound to, or there is no such team.
        """
        given = dict(fields)
        password = self._hash(given.pop("password"))
        now_ms = wall_clock.now_ms()
        bound = {"team_id": None, "customer": None, "disabled": False} | given
        person = StoredPerson(id=new_id(), created_at_ms=now_ms, updated_at_ms=now_ms, **bound)
        try:
            with self._changes.change("person.create") as change:
                _check(change.connection, person)
                values = msgspec.structs.asdict(person) | {"password": password}
                change.connection.execute(sa.insert(people).values(values))
                change.about(person.id, person.name, after=person)
        except IntegrityError:
            raise _name_exists(person.name) from None
        return person

    def update(
        self, person_id: str, changes: Mapping[str, Any], *, unchanged_since_ms: int | None = None
    ) -> StoredPerson:
        """Change the fields of a person that `changes` has, such as `password`.

        With `unchanged_since_ms`, only if that is when the person was changed last.

        A new password and `disabled` end all sessions of the person. Another role without `team_id` and `customer`
        drops both, unless it is `own`.

        Raises:
            NotFound: nobody has this id.
            Conflict: the new name is taken.
            ChangedSince: somebody has changed the person since.
            Invalid: as for `create`.
        """
        found = stored_id(person_id, "person")
        given = dict(changes)
        password = self._hash(given.pop("password")) if "password" in given else None
        if given.get("role", "own") != "own":
            given = {"team_id": None, "customer": None} | given
        try:
            with self._changes.change("person.update") as change:
                connection = change.connection
                before = _person(_row(connection, found, lock=True))
                check_unchanged("person", before.updated_at_ms, unchanged_since_ms)
                updated_at_ms = max(wall_clock.now_ms(), before.updated_at_ms + 1)
                after = msgspec.structs.replace(before, **given, updated_at_ms=updated_at_ms)
                _check(connection, after)
                values = msgspec.structs.asdict(after) | ({} if password is None else {"password": password})
                connection.execute(sa.update(people).where(people.c.id == found).values(values))
                if password is not None or after.disabled:
                    _end_sessions(connection, found)
                change.about(found, after.name, before=_shown(before), after=_shown(after, is_new=password is not None))
                return after
        except IntegrityError:
            raise _name_exists(str(changes.get("name"))) from None

    def delete(self, person_id: str) -> None:
        """Delete a person, and end all sessions of the person.

        Raises:
            NotFound: nobody has this id.
        """
        found = stored_id(person_id, "person")
        with self._changes.change("person.delete") as change:
            person = _person(_row(change.connection, found, lock=True))
            change.connection.execute(sa.delete(people).where(people.c.id == found))
            _end_sessions(change.connection, found)
            change.about(found, person.name, before=person)

    def _hash(self, password: str) -> str:
        with self._hashing:
            return hashed(password)


def _row(connection: Connection, person_id: str, *, lock: bool = False) -> Row[*tuple[Any, ...]]:
    query = sa.select(*_COLUMNS).where(people.c.id == person_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise missing("person")
    return row


def _person(row: Row[*tuple[Any, ...]]) -> StoredPerson:
    return StoredPerson(**{name: row._mapping[name] for name in StoredPerson.__struct_fields__})


def _shown(person: StoredPerson, *, is_new: bool = False) -> dict[str, Any]:
    """Return the fields of a person for the audit trail, which tells of a new password, but not its hash."""
    return msgspec.structs.asdict(person) | {"password": "*** (new)" if is_new else "***"}


def _check(connection: Connection, person: StoredPerson) -> None:
    """Check what a person is bound to. The team's row is locked until the transaction ends."""
    is_bound = person.team_id is not None or person.customer is not None
    if is_bound != (person.role == "own"):
        raise Invalid(BOUND if is_bound else NOT_BOUND, loc=("body", "role"))
    if person.team_id is not None:
        query = sa.select(teams.c.id).where(teams.c.id == person.team_id).with_for_update(read=True)
        if connection.execute(query).one_or_none() is None:
            raise Invalid("There is no team with this id: create it first, or name another.", loc=("body", "team_id"))


def _end_sessions(connection: Connection, person_id: str) -> None:
    connection.execute(sa.delete(sessions).where(sessions.c.person_id == person_id))


def _name_exists(name: str) -> Conflict:
    return Conflict(f"A person named {name!r} exists: choose another name, or change that one.")
