"""The metadata of all tables, and their text type, which compares bytes."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Text

SORTED_BY_BYTES = Text().with_variant(Text(collation="C"), "postgresql")
"""Text compared by its bytes on Postgres too, whatever the database's locale; SQLite always does."""

metadata = sa.MetaData()
