"""People in the database: their passwords, what they are bound to, and what ends their sessions."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from llm_gateway.errors import Conflict, Invalid, NotFound
from llm_gateway.store.database import Database
from llm_gateway.store.people import PeopleStore
from llm_gateway.store.sessions import Owner, SessionStore
from llm_gateway.store.tables import people
from llm_gateway.store.teams import TeamStore

PASSWORD = "correct horse battery"


def test_a_person_is_known_by_its_password_until_it_changes(database: Database) -> None:
    store, sessions, teams = PeopleStore(database), SessionStore(database), TeamStore(database)
    team = teams.create("core")
    ann = store.create({"name": "ann", "role": "own", "team_id": team.id, "password": PASSWORD})
    for name, password, found in (("ann", PASSWORD, ann), ("ann", "x", None), ("Ann", PASSWORD, None)):
        assert store.check(name, password) == found, (name, password)
    with pytest.raises(Conflict):
        store.create({"name": "ann", "role": "viewer", "password": PASSWORD})
    with pytest.raises(Conflict, match="1 person belongs"):
        teams.delete(team.id)
    with pytest.raises(Invalid):
        store.update(ann.id, {"customer": None, "team_id": None})
    sessions.open(Owner("ann", person_id=ann.id), "UTC", "a browser", "127.0.0.1")
    assert store.update(ann.id, {"role": "viewer"}).team_id is None
    assert len(sessions.living()) == 1
    store.update(ann.id, {"password": "another password"})
    assert (sessions.living(), store.check("ann", PASSWORD)) == ([], None)
    store.update(ann.id, {"disabled": True})
    assert store.check("ann", "another password") is None
    with database.read() as connection:
        assert connection.execute(sa.select(people.c.password)).scalar_one().startswith("$argon2id$")
    store.delete(ann.id)
    teams.delete(team.id)
    with pytest.raises(NotFound):
        store.get(ann.id)
    assert store.list() == []
