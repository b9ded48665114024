"""Run SQL on the driver's cursor with SQLAlchemy's errors."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError

from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import CompiledQuery, change_rows, fetch_rows
from llm_gateway.store.tables import usage_names


def store_names(database: Database, *pairs: tuple[str | None, str | None]) -> list[int]:
    with database.write() as connection:
        return [change_rows(connection, "INSERT INTO usage_names (name) VALUES (?), (?)", pair) for pair in pairs]


def test_changes_are_counted_and_rolled_back_with_the_transaction(database: Database) -> None:
    assert store_names(database, ("a", "b")) == [2]
    with pytest.raises(IntegrityError):
        store_names(database, ("c", "d"), ("e", None))
    with database.read() as connection:
        assert fetch_rows(connection, "SELECT name FROM usage_names ORDER BY id", ()) == [("a",), ("b",)]


def test_errors_are_those_of_sqlalchemy_with_the_drivers_message(database: Database) -> None:
    with pytest.raises(IntegrityError, match="NOT NULL constraint failed"), database.write() as connection:
        change_rows(connection, "INSERT INTO usage_names (name) VALUES (?)", (None,))
    with database.write() as connection, pytest.raises(OperationalError, match="no such table: missing"):
        fetch_rows(connection, "SELECT * FROM missing", ())


def test_a_compiled_query_takes_its_own_values_and_those_given(database: Database) -> None:
    name = usage_names.c.name
    chosen = sa.or_(name == sa.bindparam("first"), name == "fixed")
    query = CompiledQuery(database, sa.select(name).where(chosen, name != sa.bindparam("but")).order_by(name))
    with database.write() as connection:
        change_rows(connection, "INSERT INTO usage_names (name) VALUES (?), (?), (?)", ("fixed", "given", "other"))
        assert query.rows(connection, but="", first="given") == [("fixed",), ("given",)]
        assert query.rows(connection, first="other", but="fixed") == [("other",)]
