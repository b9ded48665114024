"""The indexes of usage_records (migrations 0006, 0008, 0024), as conditions that a query repeats word for word.

They are no part of `tables.py`: SQLAlchemy cannot read indexes of expressions back from SQLite to compare them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa


class TextIndex(NamedTuple):
    """An index of the last `length` characters of a column, which holds the rows that have a value."""

    column: str
    length: int

    def lookup(self, value: str, *, is_sqlite: bool) -> sa.TextClause:
        """Return the condition that finds the rows whose text ends as `value` does; others may end alike."""
        end = f"substr({{}}, -{self.length})" if is_sqlite else f"right({{}}, {self.length})"
        given = f":{self.column}_text" if is_sqlite else f"CAST(:{self.column}_text AS text)"
        condition = f"{self.column} IS NOT NULL AND {end.format(self.column)} = {end.format(given)}"
        return sa.text(condition).bindparams(sa.bindparam(f"{self.column}_text", value))


SESSIONS = TextIndex("session", 8)
CLIENT_IDS = TextIndex("client_request_id", 6)

FREQUENT_OUTCOMES = frozenset({"ok", "cached"})
IS_FAILURE = sa.text("outcome NOT IN ('ok', 'cached')")
"""Condition of the index of failures. The other outcomes are frequent: a page of them is found without an index."""


def customer_days(days: Sequence[int], customer: str) -> sa.TextClause:
    """Return the condition that finds a customer's rows of some days (since 1970) on Postgres.

    Rows of other customers with the same hash are found as well.
    """
    condition = "at_ms / 86400000 = ANY(:days) AND hashtext(user_id) = hashtext(CAST(:customer AS text))"
    return sa.text(condition).bindparams(days=list(days), customer=customer)
