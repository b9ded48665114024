"""Add the budget that refused a request to its usage record."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    """Add the column; stored records do not say which budget refused them."""
    op.add_column("usage_records", Column("refused_by", Text))


def downgrade() -> None:
    """Drop the column with all its values."""
    op.drop_column("usage_records", "refused_by")
