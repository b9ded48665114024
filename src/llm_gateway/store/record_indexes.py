"""The partial indexes of usage_records (migration 0006), as conditions that a query must repeat word for word.

They are no part of `tables.py`: SQLAlchemy cannot read indexes of expressions back from SQLite to compare them.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa


class TextIndex(NamedTuple):
    """An index of the last `length` characters of a column, which holds the rows that have a value."""

    column: str
    length: int

    def lookup(self, value: str) -> sa.TextClause:
        """Return the condition that finds the rows whose text ends as `value` does; others may end alike."""
        end = f"substr({self.column}, -{self.length})"
        condition = f"{self.column} IS NOT NULL AND {end} = substr(:{self.column}_text, -{self.length})"
        return sa.text(condition).bindparams(sa.bindparam(f"{self.column}_text", value))


SESSIONS = TextIndex("session", 8)
CLIENT_IDS = TextIndex("client_request_id", 6)

FREQUENT_OUTCOMES = frozenset({"ok", "cached"})
IS_FAILURE = sa.text("outcome NOT IN ('ok', 'cached')")
"""Condition of the index of failures. The other outcomes are frequent: a page of them is found without an index."""
