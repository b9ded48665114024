"""Add tables for the audit trail: entries of what management writes changed, and the heads of their chains."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Text

revision = "0010"
down_revision = "0009"

SORTED_BY_BYTES = Text().with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables, empty: changes from before have no entries."""
    op.create_table(
        "audit_entries",
        Column("chain", SORTED_BY_BYTES, primary_key=True),
        Column("number", BigInteger, primary_key=True, autoincrement=False),
        Column("at_ms", BigInteger, nullable=False),
        Column("actor", Text, nullable=False),
        Column("key_id", Text),
        Column("address", Text, nullable=False),
        Column("request_id", Text),
        Column("action", Text, nullable=False),
        Column("resource_id", Text),
        Column("resource_name", Text),
        Column("before", Text),
        Column("after", Text),
        Column("hash", Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("audit_entries_at", "audit_entries", ["at_ms", "number", "chain"])
    op.create_table(
        "audit_chains",
        Column("chain", SORTED_BY_BYTES, primary_key=True),
        Column("number", BigInteger, nullable=False),
        Column("hash", Text, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables, and with them all entries."""
    op.drop_index("audit_entries_at", "audit_entries")
    for table in ("audit_entries", "audit_chains"):
        op.drop_table(table)
