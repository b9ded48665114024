"""Add the tables of hosts and of kept forms, and the oldest schema version whose code can use this one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary, Text

revision = "0016"
down_revision = "0015"

SORTED_BY_BYTES = Text().with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables. Code from before them refuses a newer database, whatever the row says."""
    op.create_table(
        "hosts",
        Column("id", SORTED_BY_BYTES, primary_key=True),
        Column("name", Text, nullable=False),
        Column("version", Text, nullable=False),
        Column("tables", Text, nullable=False),
        Column("run", Text, nullable=False),
        Column("place", Text, nullable=False),
        Column("secrets", Text, nullable=False, comment="JSON object"),
        Column("started_at_ms", BigInteger, nullable=False),
        Column("beat_at_ms", BigInteger, nullable=False),
    )
    compatibility = op.create_table("compatibility", Column("oldest", SORTED_BY_BYTES, primary_key=True))
    op.create_table(
        "kept_forms",
        Column("state", SORTED_BY_BYTES, primary_key=True),
        Column("at_ms", BigInteger, nullable=False),
        Column("sealed", LargeBinary, nullable=False),
    )
    op.execute(sa.insert(compatibility).values(oldest=revision))


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("kept_forms")
    op.drop_table("compatibility")
    op.drop_table("hosts")
