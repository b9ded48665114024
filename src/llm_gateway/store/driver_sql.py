"""Run SQL on the database driver's own cursor, for the statements that store usage records.

SQLAlchemy takes 50 to 100 µs to execute a statement, several times what SQLite needs for a small one. The shipper runs
a dozen of them for each batch of records, and holds the GIL meanwhile. Queries are compiled once instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeAlias
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

Values: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""Values of a statement's placeholders, by position or by name."""


def change_rows(connection: Connection, text: str, values: Values) -> int:
    """Execute a statement in the transaction of `connection`. Returns the number of rows inserted or changed.

    `text` has the driver's placeholders. Events of SQLAlchemy are not fired.

    Raises:
        DBAPIError: the database refuses the statement or does not answer; the same classes as SQLAlchemy raises.
    """
    cursor: Any = connection.connection.cursor()
    try:
        cursor.execute(text, values)
    except connection.dialect.loaded_dbapi.Error as error:
        raise _as_sqlalchemy(connection, text, error) from error
    changed: int = cursor.rowcount
    return changed


def fetch_rows(connection: Connection, text: str, values: Values) -> list[tuple[Any, ...]]:
    """Execute a query in the transaction of `connection`. Returns all its rows; otherwise as `change_rows`.

    Raises:
        DBAPIError: as `change_rows`.
    """
    cursor: Any = connection.connection.cursor()
    try:
        cursor.execute(text, values)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    except connection.dialect.loaded_dbapi.Error as error:
        raise _as_sqlalchemy(connection, text, error) from error
    return rows


def _as_sqlalchemy(connection: Connection, text: str, error: Exception) -> BaseException:
    dialect = connection.dialect
    return DBAPIError.instance(text, None, error, dialect.loaded_dbapi.Error, dialect=dialect)


class HasDialect(Protocol):
    """A database with the dialect of SQL to compile queries for."""

    @property
    def dialect(self) -> sa.Dialect:
        """The dialect."""


_Compiled: TypeAlias = tuple[str, Mapping[str, Any], Sequence[str] | None]
"""The SQL, the fixed values, and the order of placeholders if these have no names."""
_all_compiled: WeakKeyDictionary[sa.Select[Any], WeakKeyDictionary[sa.Dialect, _Compiled]] = WeakKeyDictionary()
"""All compiled queries, while there is the query: engines of SQLite share their dialect, so one is compiled once in a
process. Compiling takes up to 5 ms."""


class CompiledQuery:
    """A query whose SQL is compiled once, when it first runs, for the driver of `database`."""

    def __init__(self, database: HasDialect, query: sa.Select[Any]) -> None:
        self._dialect = database.dialect
        self._query = query

    @cached_property
    def _compiled(self) -> _Compiled:
        by_dialect = _all_compiled.setdefault(self._query, WeakKeyDictionary())
        found = by_dialect.get(self._dialect)
        if found is None:
            compiled = self._query.compile(dialect=self._dialect)
            found = by_dialect[self._dialect] = str(compiled), compiled.params, compiled.positiontup
        return found

    def rows(self, connection: Connection, **values: Any) -> list[tuple[Any, ...]]:
        """Return all rows; `values` are those of the query's bind parameters.

        Values are given to the driver, and returned, as they are: use it for texts, integers and lists of texts only.
        """
        text, fixed, order = self._compiled
        given = {**fixed, **values}
        ordered = given if order is None else [given[name] for name in order]
        return fetch_rows(connection, text, ordered)
