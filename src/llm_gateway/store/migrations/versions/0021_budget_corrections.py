"""Note what repricing changes in accounts of budgets, until the memory of the gateway's host counts it, too.

Older gateways do not note it, and count it after their next cold start, as before.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Column

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Add the column, and an index of the accounts with something to count."""
    column = Column("uncounted_nanos", BigInteger, nullable=False, server_default=sa.text("0"))
    op.add_column("budget_spend", column)
    some = sa.text("uncounted_nanos <> 0")
    op.create_index("budget_spend_uncounted", "budget_spend", ["budget_id"], postgresql_where=some, sqlite_where=some)


def downgrade() -> None:
    """Drop them."""
    op.drop_index("budget_spend_uncounted", "budget_spend")
    op.drop_column("budget_spend", "uncounted_nanos")
