"""Multi-row INSERTs of bounded size, and a callback between them that lets the event loop take the GIL.

`executemany` steps through SQLite row by row and takes the GIL back after each, which costs hundreds of microseconds
per row beside a busy event loop. One INSERT with many rows releases the GIL while the database works, but holds it
while values are bound, 0.2 µs each: statements are kept small, so that the event loop waits at most 0.2 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.store.driver_sql import change_rows

MOST_PARAMETERS = 1024
"""Maximum number of values bound by one statement; the GIL is held for 0.2 ms meanwhile."""

ITEMS_BETWEEN_PAUSES = 16
"""Items processed between two calls of `pause`."""

Pause: TypeAlias = Callable[[], None]
"""Called between small pieces of a long job in a thread, so that the event loop's thread can take the GIL."""

NULL_MARK = -0.5
NULL_IF_MARK = f"nullif(?, {NULL_MARK})"
"""Value bound for NULL in SQLite, and its placeholder. No column of these tables holds fractions.

The sqlite3 module takes 0.5 µs to bind None, since it looks for an adapter first, and 0.1 µs to bind a number.
"""

_Item = TypeVar("_Item")


def no_pause() -> None:
    """Do nothing; for callers without an event loop beside them, such as the command line."""


def with_pauses(items: Iterable[_Item], pause: Pause) -> Iterator[_Item]:
    """Yield `items`, and call `pause` before every 16th."""
    return chain.from_iterable(_parts(items, pause))  # without a step in Python for each item


def _parts(items: Iterable[_Item], pause: Pause) -> Iterator[list[_Item]]:
    each = iter(items)
    while part := list(islice(each, ITEMS_BETWEEN_PAUSES)):
        pause()
        yield part


class BulkInsert:
    """`INSERT … VALUES (…), (…) … <on conflict>` for one table; rows are tuples in the order of `columns`.

    `placeholder` is the driver's, `?` or `%s`. The number of rows per statement is a power of two, so that there are
    few statement texts and the driver can reuse prepared statements. Name in `often_null` the nullable columns that are
    None in many rows: SQLite then gets NULL_MARK for None, which is faster.
    """

    def __init__(
        self,
        table: sa.Table,
        columns: Sequence[str],
        on_conflict: str,
        placeholder: str,
        often_null: Collection[str] = (),
    ) -> None:
        self._head = " ".join(["INSERT INTO", table.name, f"({', '.join(columns)})", "VALUES "])
        self._marked = [at for at, name in enumerate(columns) if placeholder == "?" and name in often_null]
        placeholders = [NULL_IF_MARK if at in self._marked else placeholder for at in range(len(columns))]
        self._row = f"({', '.join(placeholders)})"
        self._tail = f" {on_conflict}"
        self._most_rows = _power_of_two(MOST_PARAMETERS // len(columns))
        self._texts: dict[int, str] = {}

    def run(self, connection: Connection, rows: Sequence[Sequence[Any]], pause: Pause = no_pause) -> int:
        """Insert the rows; call `pause` before each statement. Returns the number of rows inserted or changed."""
        done = 0
        start = 0
        while start < len(rows):
            pause()
            size = min(self._most_rows, _power_of_two(len(rows) - start))
            done += self._run_statement(connection, rows[start : start + size])
            start += size
        return done

    def _run_statement(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> int:
        text = self._texts.get(len(rows))
        if text is None:
            text = self._texts[len(rows)] = self._head + ", ".join([self._row] * len(rows)) + self._tail
        marked = [self._with_marks(row) for row in rows] if self._marked else rows
        return change_rows(connection, text, tuple(chain.from_iterable(marked)))

    def _with_marks(self, row: Sequence[Any]) -> list[Any]:
        values = list(row)
        for at in self._marked:
            if values[at] is None:
                values[at] = NULL_MARK
        return values


def adding(table: sa.Table, counters: Iterable[str]) -> str:
    """Return the ON CONFLICT clause that adds the new row's counters to those of the existing row."""
    key = ", ".join(column.name for column in table.primary_key)
    sums = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in counters)
    return " ".join([f"ON CONFLICT ({key})", "DO", "UPDATE", "SET", sums])


def _power_of_two(number: int) -> int:
    return 1 << (number.bit_length() - 1)
