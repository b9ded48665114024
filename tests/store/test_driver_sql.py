"""Run SQL on the driver's cursor with SQLAlchemy's errors."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import CompiledQuery, change_rows, fetch_rows
from llm_gateway.store.tables import usage_names


def store_names(database: Database, *pairs: tuple[str | None, str | None]) -> list[int]:
    with database.write() as connection:
        text = for_driver(database, "INSERT INTO usage_names (name) VALUES (?), (?)")
        return [change_rows(connection, text, pair) for pair in pairs]


def for_driver(database: Database, text: str) -> str:
    """Return the statement with the placeholders of the database's driver."""
    return text if database.is_sqlite else text.replace("?", "%s")


def test_changes_are_counted_and_rolled_back_with_the_transaction(database: Database) -> None:
    assert store_names(database, ("a", "b")) == [2]
    with pytest.raises(IntegrityError):
        store_names(database, ("c", "d"), ("e", None))
    with database.read() as connection:
        assert fetch_rows(connection, "SELECT name FROM usage_names ORDER BY id", ()) == [("a",), ("b",)]


def test_errors_are_those_of_sqlalchemy_with_the_drivers_message(database: Database) -> None:
    insert = for_driver(database, "INSERT INTO usage_names (name) VALUES (?)")
    with pytest.raises(IntegrityError, match=r"(?i)not.null constraint"), database.write() as connection:
        change_rows(connection, insert, (None,))
    missing, words = (
        (OperationalError, "no such table: missing")
        if database.is_sqlite
        else (ProgrammingError, 'relation "missing" does not exist')
    )
    with database.write() as connection, pytest.raises(missing, match=words):
        fetch_rows(connection, "SELECT * FROM missing", ())


def test_a_compiled_query_takes_its_own_values_and_those_given(database: Database) -> None:
    name = usage_names.c.name
    chosen = sa.or_(name == sa.bindparam("first"), name == "fixed")
    query = CompiledQuery(database, sa.select(name).where(chosen, name != sa.bindparam("but")).order_by(name))
    with database.write() as connection:
        insert = for_driver(database, "INSERT INTO usage_names (name) VALUES (?), (?), (?)")
        change_rows(connection, insert, ("fixed", "given", "other"))
        assert query.rows(connection, but="", first="given") == [("fixed",), ("given",)]
        assert query.rows(connection, first="other", but="fixed") == [("other",)]


def test_a_query_is_compiled_once_for_all_that_run_it(database: Database) -> None:
    compiled: list[str] = []

    class Counted(sa.Select[tuple[str]]):
        inherit_cache = True

        def compile(self, *given: Any, **options: Any) -> Any:
            compiled.append("once")
            return super().compile(*given, **options)

    query = Counted(usage_names.c.name)
    with database.read() as connection:
        for _ in range(3):
            assert CompiledQuery(database, query).rows(connection) == []
    assert compiled == ["once"]
