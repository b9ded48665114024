"""Add the fields of usage records of version 2, and tables for the totals by combination of dimensions (cube).

No row is rewritten, so this takes no longer for millions of records: the two columns that were never used get new
names, and stored records are added to the cube afterwards, in steps (`store/cube_fill.py`). A gateway of an older
version that still runs cannot insert records any more, for want of the old columns: they wait in its journal.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Column, Text

revision = "0003"
down_revision = "0002"

SORTED_BY_BYTES = Text().with_variant(Text(collation="C"), "postgresql")
NUMBERED = BigInteger().with_variant(sa.Integer, "sqlite")
NEW_COLUMNS = (
    ("queued_ms", BigInteger),
    ("route", Text),
    ("key_id", Text),
    ("team_id", Text),
    ("instance_id", BigInteger),
)
RENAMED_COLUMNS = (("organization", "session"), ("project", "agent"))
DIMENSIONS = ("model", "provider", "key", "team", "service", "task_type", "agent")
COUNTERS = (
    *("requests", "cached_requests", "error_requests", "ok_requests", "estimated_requests", "unpriced_requests"),
    *("input_tokens", "output_tokens", "cost_nanos", "latency_ms"),
)


def upgrade() -> None:
    """Add columns and tables, and note which stored records are to be added to the cube."""
    for old, new in RENAMED_COLUMNS:
        op.execute(f"ALTER TABLE usage_records RENAME COLUMN {old} TO {new}")
    for name, kind in NEW_COLUMNS:
        op.add_column("usage_records", Column(name, kind))
    for table, text in (("usage_names", "name"), ("usage_origins", "origin")):
        op.create_table(
            table,
            Column("id", NUMBERED, primary_key=True),
            Column(text, SORTED_BY_BYTES, nullable=False),
            sa.UniqueConstraint(text, name=f"{table}_{text}"),
        )
    op.create_table(
        "usage_cube",
        Column("hours", BigInteger, primary_key=True, autoincrement=False),
        Column("bucket", BigInteger, primary_key=True, autoincrement=False),
        *(Column(name, BigInteger, primary_key=True, autoincrement=False) for name in DIMENSIONS),
        *(Column(name, BigInteger, nullable=False) for name in COUNTERS),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage_cube_fill",
        Column("until", SORTED_BY_BYTES, primary_key=True),
        Column("filled", SORTED_BY_BYTES, nullable=False),
    )
    op.execute("INSERT INTO usage_cube_fill (until, filled) SELECT coalesce(max(id), ''), '' FROM usage_records")


def downgrade() -> None:
    """Drop the tables and columns with all their values. Attempts that were stored since cannot be read afterwards."""
    for table in ("usage_cube_fill", "usage_cube", "usage_origins", "usage_names"):
        op.drop_table(table)
    for name, _ in NEW_COLUMNS:
        op.drop_column("usage_records", name)
    for old, new in RENAMED_COLUMNS:
        op.execute(f"ALTER TABLE usage_records RENAME COLUMN {new} TO {old}")
