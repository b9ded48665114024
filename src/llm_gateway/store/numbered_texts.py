"""Number texts that repeat in millions of rows, such as names and prices, so that a row holds a few digits instead.

Nothing is kept in memory from one transaction to the next: a transaction that is rolled back takes its numbers along,
and a database that is restored from a backup has others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.store.bulk import Pause, no_pause
from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import fetch_rows
from llm_gateway.store.set_insert import as_json, row_insert

MOST_AT_ONCE = 512
"""Texts or numbers looked up by one statement."""

LONGEST_TEXT = 600
"""Characters of the longest text that may be numbered; an index of Postgres holds 2,704 bytes."""

ARRAY_OF_TEXTS = "(SELECT value FROM jsonb_array_elements_text(%s::jsonb))"
ARRAY_OF_NUMBERS = "(SELECT value::bigint FROM jsonb_array_elements_text(%s::jsonb))"
"""What Postgres makes of a JSON array."""

_Pairs = list[tuple[int, str]]


class NumberedTexts:
    """A table of numbered texts: columns `id` and a text. Its methods run in the caller's transaction."""

    def __init__(self, database: Database, table: sa.Table) -> None:
        number, text = table.c
        self._insert = row_insert(database, table, (text.name,), f"ON CONFLICT ({text.name}) DO NOTHING")
        self._is_sqlite = database.is_sqlite
        self._greatest = sa.select(sa.func.max(number))
        pairs = f"{number.name}, {text.name}"
        # SQLite returns all pairs in one row, since fetching each row takes the GIL again.
        shown = f"json_group_array(json_array({pairs}))" if self._is_sqlite else pairs
        select = " ".join(["SELECT", shown, "FROM", table.name])
        self._by_text = f"{select} WHERE {text.name} IN "
        self._by_number = f"{select} WHERE {number.name} IN "

    def numbers(
        self,
        connection: Connection,
        texts: Iterable[str],
        pause: Pause = no_pause,
        most: int | None = None,
        known: dict[str, int] | None = None,
    ) -> dict[str, int]:
        """Return the number of each text; those that have none get one, unless the table holds `most` texts already.

        `known` has numbers that were found in the same transaction, which are not looked up again, and gets those that
        are found now. On Postgres, transactions that give new texts their numbers wait for each other: they do not
        deadlock if each gives all of a table's at once. `pause` is called before each statement.
        """
        known = {} if known is None else known
        wanted = set(texts)
        if unknown := wanted - known.keys():
            known |= self._found(connection, unknown, pause)
            missing = sorted(unknown - known.keys())  # sorted: so transactions wait for each other in one order
            pause()
            if missing and (most is None or self._newest(connection) < most):
                self._insert.run(connection, [(text,) for text in missing], pause)
                known |= self._found(connection, missing, pause)
        return {text: known[text] for text in wanted & known.keys()}

    def texts(self, connection: Connection, numbers: Iterable[int]) -> dict[int, str]:
        """Return the texts of these numbers."""
        return dict(self._pairs(connection, self._by_number, set(numbers), no_pause))

    def _newest(self, connection: Connection) -> int:
        newest: int | None = connection.execute(self._greatest).scalar()
        return newest or 0

    def _found(self, connection: Connection, texts: Iterable[str], pause: Pause) -> dict[str, int]:
        return {text: number for number, text in self._pairs(connection, self._by_text, texts, pause)}

    def _pairs(
        self, connection: Connection, query: str, wanted: Iterable[str | int], pause: Pause
    ) -> Iterator[tuple[int, str]]:
        for some in _parts(wanted):
            pause()
            if not self._is_sqlite:  # one array, since psycopg takes a microsecond to bind a value
                array = ARRAY_OF_TEXTS if isinstance(some[0], str) else ARRAY_OF_NUMBERS
                yield from fetch_rows(connection, query + array, (as_json(some),))
                continue
            # Few lengths, so that the driver can reuse prepared statements: the last one is repeated.
            length = 1 << (len(some) - 1).bit_length()
            text = f"{query}({', '.join('?' * length)})"
            rows = fetch_rows(connection, text, [*some, *[some[-1]] * (length - len(some))])
            yield from msgspec.json.decode(rows[0][0], type=_Pairs)


def _parts(wanted: Iterable[str | int]) -> Iterator[Sequence[str | int]]:
    each = iter(wanted)
    while some := list(islice(each, MOST_AT_ONCE)):
        yield some
