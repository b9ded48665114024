"""Add the protocols of a provider: JSON text, null for the defaults of its preset or kind."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; existing providers keep the defaults."""
    op.add_column("providers", Column("protocols", Text))


def downgrade() -> None:
    """Drop the column with all its values."""
    op.drop_column("providers", "protocols")
