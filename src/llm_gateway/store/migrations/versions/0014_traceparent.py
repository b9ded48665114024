"""Add the trace context that a client sent to its usage record."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the column; stored records have no trace context."""
    op.add_column("usage_records", Column("traceparent", Text))


def downgrade() -> None:
    """Drop the column with all its values."""
    op.drop_column("usage_records", "traceparent")
