"""Store teams, to which service keys belong."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from llm_gateway import wall_clock
from llm_gateway.domain.stored_key import Team
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import Conflict
from llm_gateway.store.audit import AuditTrail, Changes, Unaudited
from llm_gateway.store.identifiers import missing, stored_id
from llm_gateway.store.one_transaction import Transactions
from llm_gateway.store.tables import api_keys, people, teams

Teams: TypeAlias = list[Team]


class TeamStore:
    """The table of teams; `audit` keeps its changes."""

    def __init__(self, database: Transactions, audit: AuditTrail | None = None) -> None:
        self._database = database
        self._changes: Changes = audit or Unaudited(database)

    def within(self, transaction: Transactions) -> Self:
        """Return the same store whose reads and writes are part of a transaction."""
        part = copy.copy(self)
        part._database = transaction
        part._changes = self._changes.within(transaction)
        return part

    def list(self, *, name: str | None = None, contains: str | None = None, after: str = "", limit: int = 100) -> Teams:
        """Return up to `limit` teams in the order of their creation, those whose id is greater than `after`.

        `contains` is a part of their names, with letters of ASCII in either case; on Postgres those of all scripts.
        """
        query = sa.select(teams).where(teams.c.id > after).order_by(teams.c.id).limit(limit)
        if name is not None:
            query = query.where(teams.c.name == name)
        if contains is not None:
            query = query.where(teams.c.name.icontains(contains, autoescape=True))
        with self._database.read() as connection:
            return [Team(**row._mapping) for row in connection.execute(query)]

    def get(self, team_id: str) -> Team:
        """Return one team.

        Raises:
            NotFound: no team has this id.
        """
        found = stored_id(team_id, "team")
        with self._database.read() as connection:
            return _get(connection, found)

    def create(self, name: str, description: str = "") -> Team:
        """Store a new team.

        Raises:
            Conflict: a team with this name exists.
        """
        now_ms = wall_clock.now_ms()
        team = Team(id=new_id(), name=name, description=description, created_at_ms=now_ms, updated_at_ms=now_ms)
        try:
            with self._changes.change("team.create") as change:
                change.connection.execute(sa.insert(teams).values(msgspec.structs.asdict(team)))
                change.about(team.id, name, after=team)
        except IntegrityError:
            raise _name_exists(name) from None
        return team

    def update(self, team_id: str, changes: Mapping[str, Any]) -> Team:
        """Change `name` and `description`, those that `changes` has.

        Raises:
            NotFound: no team has this id.
            Conflict: another team has the new name.
        """
        found = stored_id(team_id, "team")
        try:
            with self._changes.change("team.update") as change:
                connection = change.connection
                before = _get(connection, found, lock=True)
                updated_at_ms = max(wall_clock.now_ms(), before.updated_at_ms + 1)
                values = {**changes, "updated_at_ms": updated_at_ms}
                connection.execute(sa.update(teams).where(teams.c.id == found).values(values))
                after = _get(connection, found)
                change.about(found, after.name, before=before, after=after)
                return after
        except IntegrityError:
            raise _name_exists(str(changes.get("name"))) from None

    def delete(self, team_id: str) -> None:
        """Delete a team that has no keys and no people. Usage keeps its id.

        Raises:
            NotFound: no team has this id.
            Conflict: keys or people belong to it.
        """
        found = stored_id(team_id, "team")
        with self._changes.change("team.delete") as change:
            connection = change.connection
            team = _get(connection, found, lock=True)
            _check_unused(connection, found)
            connection.execute(sa.delete(teams).where(teams.c.id == found))
            change.about(found, team.name, before=team)


def _get(connection: Connection, team_id: str, *, lock: bool = False) -> Team:
    query = sa.select(teams).where(teams.c.id == team_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise missing("team")
    return Team(**row._mapping)


def _check_unused(connection: Connection, team_id: str) -> None:
    """Check that neither keys nor people belong to a team.

    Raises:
        Conflict: some do.
    """
    for table, one, many in ((api_keys, "key belongs", "keys belong"), (people, "person belongs", "people belong")):
        query = sa.select(sa.func.count()).select_from(table).where(table.c.team_id == team_id)
        count = connection.execute(query).scalar_one()
        if count:
            raise Conflict(
                f"{count} {one if count == 1 else many} to this team: delete them first, or give them another team."
            )


def _name_exists(name: str) -> Conflict:
    return Conflict(f"A team named {name!r} exists: choose another name, or change that one.")
