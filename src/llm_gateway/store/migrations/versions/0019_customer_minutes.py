"""Add the minutes in which a customer called to the rollups of its hours: a search then reads these only.

No row is rewritten: the minutes of older hours are not known, and a search reads all of such an hour.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Column

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Add the column."""
    op.add_column("usage_rollups", Column("minutes", BigInteger, nullable=False, server_default=sa.text("-1")))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("usage_rollups", "minutes")
