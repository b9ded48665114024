"""Find the rows of a table that changed since the last look, without reading all of them each time.

Rows have an `id` and an `updated_at_ms` that grows with each change of the row. Hosts have clocks of their own, so that
a later change can have an earlier time: the number of rows and the sum of their times show whether one was missed.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from llm_gateway.store.one_transaction import Transactions

CLOCKS_MS = 60_000
"""Milliseconds that changes may be older than the newest known one and are still found without reading all rows."""


class RowChanges(NamedTuple):
    """Ids of new and changed rows with their times, and ids of deleted ones."""

    changed: dict[str, int]
    gone: set[str]


class RowVersions:
    """The rows of a table that are known, by id, with the time of their last change in milliseconds UTC."""

    def __init__(self, table: sa.Table) -> None:
        self._queries = _queries(table)
        self._known: dict[str, int] = {}
        self._newest_ms = self._sum_ms = 0

    def look(self, database: Transactions) -> RowChanges:
        """Return what has changed since the changes that were accepted last.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with database.read() as connection:
            count, sum_ms = connection.execute(self._queries.totals).one()
            since = {"since": self._newest_ms - CLOCKS_MS}
            recent: dict[str, int] = dict(connection.execute(self._queries.recent, since).all())
            changed = {row: at_ms for row, at_ms in recent.items() if self._known.get(row) != at_ms}
            if (int(count), int(sum_ms or 0)) == self._totals_with(changed):
                return RowChanges(changed, set())
            rows: dict[str, int] = dict(connection.execute(self._queries.rows).all())
        changed = {row: at_ms for row, at_ms in rows.items() if self._known.get(row) != at_ms}
        return RowChanges(changed, self._known.keys() - rows.keys())

    def accept(self, changes: RowChanges) -> None:
        """Know these changes from now on."""
        _, self._sum_ms = self._totals_with(changes.changed)
        self._known.update(changes.changed)
        self._sum_ms -= sum(self._known.pop(row) for row in changes.gone)
        self._newest_ms = max([self._newest_ms, *changes.changed.values()])

    def _totals_with(self, changed: dict[str, int]) -> tuple[int, int]:
        """Return the number of known rows and the sum of their times, after a change of some."""
        new = sum(row not in self._known for row in changed)
        later_ms = sum(at_ms - self._known.get(row, 0) for row, at_ms in changed.items())
        return len(self._known) + new, self._sum_ms + later_ms


class _Queries(NamedTuple):
    """Number of rows and sum of their times; ids and times of all rows, and of those that changed after `since`."""

    totals: sa.Select[int, Any]
    rows: sa.Select[Any]
    recent: sa.Select[Any]


@cache
def _queries(table: sa.Table) -> _Queries:
    """Return the queries of a table: each look would take as long to write them anew as to execute them."""
    time = table.c.updated_at_ms
    rows = sa.select(table.c.id, time)
    return _Queries(sa.select(sa.func.count(), sa.func.sum(time)), rows, rows.where(time > sa.bindparam("since")))
