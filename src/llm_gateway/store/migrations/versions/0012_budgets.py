"""Add tables for budgets, what was spent of them, and messages to the webhook."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Column, Text

revision = "0012"
down_revision = "0011"

SORTED_BY_BYTES = Text().with_variant(Text(collation="C"), "postgresql")
AMOUNTS = ("nanos", "tokens", "requests")


def upgrade() -> None:
    """Create the tables, empty."""
    op.create_table(
        "budgets",
        Column("id", SORTED_BY_BYTES, primary_key=True),
        Column("name", SORTED_BY_BYTES, nullable=False),
        Column("accounts_id", SORTED_BY_BYTES, nullable=False, comment="budget_id of its accounts"),
        Column("per", Text),
        Column("settings", Text, nullable=False, comment="JSON object"),
        Column("defined_at_ms", BigInteger, nullable=False),
        Column("counted_from_ms", BigInteger, comment="null: older records are not added yet"),
        Column("created_at_ms", BigInteger, nullable=False),
        Column("updated_at_ms", BigInteger, nullable=False),
        sa.UniqueConstraint("name", name="budgets_name"),
    )
    notified = Column("notified", BigInteger, nullable=False, server_default=sa.text("0"))
    for name, more in (("budget_spend", [notified]), ("budget_backfill", [])):
        op.create_table(
            name,
            Column("budget_id", SORTED_BY_BYTES, primary_key=True),
            Column("value", SORTED_BY_BYTES, primary_key=True),
            Column("period_start_ms", BigInteger, primary_key=True, autoincrement=False),
            *(Column(amount, BigInteger, nullable=False) for amount in AMOUNTS),
            *more,
            sqlite_with_rowid=False,
        )
    op.create_index("budget_spend_period", "budget_spend", ["budget_id", "period_start_ms"])
    op.create_table(
        "webhook_messages",
        Column("id", SORTED_BY_BYTES, primary_key=True),
        Column("at_ms", BigInteger, nullable=False),
        Column("body", Text, nullable=False, comment="JSON object"),
        Column("attempts", BigInteger, nullable=False),
        Column("next_attempt_ms", BigInteger, comment="null: delivered or given up"),
    )


def downgrade() -> None:
    """Drop the tables: every budget ends."""
    op.drop_index("budget_spend_period", "budget_spend")
    for table in ("webhook_messages", "budget_backfill", "budget_spend", "budgets"):
        op.drop_table(table)
