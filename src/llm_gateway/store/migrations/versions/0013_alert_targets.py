"""Add tables for targets of alerts, and for the messages that wait for each of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, LargeBinary, Text

revision = "0013"
down_revision = "0012"

SORTED_BY_BYTES = Text().with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables, empty."""
    op.create_table(
        "alert_targets",
        Column("id", SORTED_BY_BYTES, primary_key=True),
        Column("name", SORTED_BY_BYTES, nullable=False),
        Column("kind", Text, nullable=False),
        Column("events", Text, nullable=False, comment="JSON array"),
        Column("is_enabled", Boolean, nullable=False),
        Column("host", Text, nullable=False),
        Column("mailbox", Text, comment="JSON object"),
        Column("has_secret", Boolean, nullable=False),
        Column("sealed", LargeBinary, nullable=False),
        Column("created_at_ms", BigInteger, nullable=False),
        Column("updated_at_ms", BigInteger, nullable=False),
        Column("delivered_ms", BigInteger),
        Column("failed_ms", BigInteger),
        Column("error", Text),
        sa.UniqueConstraint("name", name="alert_targets_name"),
    )
    op.create_table(
        "alert_deliveries",
        Column("target_id", SORTED_BY_BYTES, primary_key=True),
        Column("message_id", SORTED_BY_BYTES, primary_key=True),
        Column("attempts", BigInteger, nullable=False),
        Column("next_attempt_ms", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop the tables: nobody gets alerts any more."""
    for table in ("alert_deliveries", "alert_targets"):
        op.drop_table(table)
