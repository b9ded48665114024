"""Which protocols a provider speaks: JSON text, null for the defaults of its preset or kind."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; providers that exist keep the defaults."""
    op.add_column("providers", Column("protocols", Text))


def downgrade() -> None:
    """Drop the column with all it holds."""
    op.drop_column("providers", "protocols")
