"""Name the budget of each lease, so that those of deleted budgets can be deleted.

Leases from before get it when they are used again; those of budgets that are deleted already stay.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision = "0022"
down_revision = "0021"

SORTED_BY_BYTES = Text().with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the column."""
    op.add_column("budget_leases", Column("budget_id", SORTED_BY_BYTES))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("budget_leases", "budget_id")
