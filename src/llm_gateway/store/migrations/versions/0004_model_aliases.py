"""Add optional fields of a provider: aliases and token limits of its models (JSON text or null), and `trace`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Boolean, Column, Text

revision = "0004"
down_revision = "0003"

TEXTS = ("model_aliases", "context_window", "max_output_tokens")


def upgrade() -> None:
    """Add the columns; existing providers have no aliases, no limits of their own, and no trace."""
    for name in TEXTS:
        op.add_column("providers", Column(name, Text))
    op.add_column("providers", Column("trace", Boolean, nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Drop the columns with all their values."""
    for name in ("trace", *reversed(TEXTS)):
        op.drop_column("providers", name)
