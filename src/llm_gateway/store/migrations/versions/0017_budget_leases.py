"""Add tables for what is leased of budgets' accounts to each of several hosts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Text

revision = "0017"
down_revision = "0016"

SORTED_BY_BYTES = Text().with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables, empty: no host has begun to use budgets."""
    op.create_table(
        "budget_leases",
        Column("account", SORTED_BY_BYTES, primary_key=True),
        Column("host", SORTED_BY_BYTES, primary_key=True),
        Column("granted", BigInteger, nullable=False),
        Column("used", BigInteger, nullable=False),
        Column("asked", BigInteger, nullable=False),
        Column("answered", BigInteger, nullable=False),
        Column("expires_at_ms", BigInteger, nullable=False),
    )
    unanswered = sa.text("asked != answered")
    op.create_index(
        "budget_leases_asked", "budget_leases", ["host"], postgresql_where=unanswered, sqlite_where=unanswered
    )
    op.create_table(
        "budget_hosts",
        Column("host", SORTED_BY_BYTES, primary_key=True),
        Column("is_alone", Boolean, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables: end all hosts but one before."""
    op.drop_table("budget_hosts")
    op.drop_index("budget_leases_asked", "budget_leases")
    op.drop_table("budget_leases")
