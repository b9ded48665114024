"""Add the table of signed-in sessions of the dashboard."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Column, Text

revision = "0007"
down_revision = "0006"

SORTED_BY_BYTES = Text().with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table, empty."""
    op.create_table(
        "sessions",
        Column("id", SORTED_BY_BYTES, primary_key=True),
        Column("digest", SORTED_BY_BYTES, nullable=False),
        Column("key_name", Text, nullable=False),
        Column("key_id", Text),
        Column("timezone", Text, nullable=False),
        Column("client", Text, nullable=False),
        Column("created_at_ms", BigInteger, nullable=False),
        Column("used_at_ms", BigInteger, nullable=False),
        Column("ends_at_ms", BigInteger, nullable=False),
        sa.UniqueConstraint("digest", name="sessions_digest"),
    )


def downgrade() -> None:
    """Drop the table: everybody is signed out."""
    op.drop_table("sessions")
