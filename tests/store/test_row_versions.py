"""Finding what changed in a table: nothing is missed, whatever hosts' clocks say, and seldom are all rows read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.store.database import Database
from llm_gateway.store.row_versions import CLOCKS_MS, RowVersions
from llm_gateway.store.tables import teams

T0 = 1_790_000_000_000


def put(connection: Connection, name: str, at_ms: int) -> None:
    """Make a row, or change it at about this time: as stores do, later than its last change."""
    named = teams.c.id == name
    before = connection.execute(sa.select(teams.c.updated_at_ms).where(named)).scalar_one_or_none()
    if before is None:
        values = {"id": name, "name": name, "description": "", "created_at_ms": at_ms, "updated_at_ms": at_ms}
        connection.execute(sa.insert(teams).values(values))
    else:
        connection.execute(sa.update(teams).where(named).values(updated_at_ms=max(at_ms, before + 1)))


def stored(database: Database) -> dict[str, int]:
    with database.read() as connection:
        return {row.id: row.updated_at_ms for row in connection.execute(sa.select(teams))}


class Watched:
    """Transactions of a database that note the statements of reads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.statements: list[str] = []
        self.write = database.write

    @contextmanager
    def read(self, limit_s: float | None = None) -> Iterator[Connection]:
        with self._database.read(limit_s) as connection:
            sa.event.listen(connection, "before_cursor_execute", self._note)
            yield connection
            sa.event.remove(connection, "before_cursor_execute", self._note)

    def _note(self, _connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        self.statements.append(statement)


def test_each_change_is_found_whatever_the_clocks_say(database: Database) -> None:
    chance, known = Random(1), RowVersions(teams)
    seen: dict[str, int] = {}
    for _ in range(120):
        with database.write() as connection:
            for _ in range(chance.choice((0, 1, 1, 1, 3))):
                name = chance.choice("abcdefgh")
                if chance.random() < 0.3:
                    connection.execute(sa.delete(teams).where(teams.c.id == name))
                else:
                    put(connection, name, T0 + chance.randrange(-3 * CLOCKS_MS, 3 * CLOCKS_MS))
        changes = known.look(database)
        expected = stored(database)
        assert changes.changed == {name: at for name, at in expected.items() if seen.get(name) != at}
        assert changes.gone == seen.keys() - expected.keys()
        if chance.random() < 0.8:  # a reader that fails after its look sees the same again
            known.accept(changes)
            seen = expected


def test_after_a_change_only_what_is_recent_is_read(database: Database) -> None:
    with database.write() as connection:
        for number in range(20):
            put(connection, f"old {number}", T0 - 2 * CLOCKS_MS)
        put(connection, "new", T0)
    known, watched = RowVersions(teams), Watched(database)
    known.accept(known.look(database))
    with database.write() as connection:
        put(connection, "new", T0 + 1)
        put(connection, "newer", T0 + 2)
    assert known.look(watched) == ({"new": T0 + 1, "newer": T0 + 2}, set())
    assert len(watched.statements) == 2
    assert all("sum(" in each or "WHERE" in each for each in watched.statements)


def test_a_deleted_row_and_one_with_an_older_time_make_it_read_all_rows(database: Database) -> None:
    with database.write() as connection:
        for name in ("gone", "old", "new"):
            put(connection, name, T0 if name == "new" else T0 - 9 * CLOCKS_MS)
    known, watched = RowVersions(teams), Watched(database)
    known.accept(known.look(database))
    with database.write() as connection:
        connection.execute(sa.delete(teams).where(teams.c.id == "gone"))
        put(connection, "old", T0 - 8 * CLOCKS_MS)
    assert known.look(watched) == ({"old": T0 - 8 * CLOCKS_MS}, {"gone"})
    assert len(watched.statements) == 3
