"""Add the table of people who sign in with a password, and to sessions whose they are and where they were opened."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Text

revision = "0015"
down_revision = "0014"

SORTED_BY_BYTES = Text().with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table, empty. Sessions stay: they are those of keys."""
    op.create_table(
        "people",
        Column("id", SORTED_BY_BYTES, primary_key=True),
        Column("name", SORTED_BY_BYTES, nullable=False),
        Column("role", Text, nullable=False),
        Column("team_id", SORTED_BY_BYTES),
        Column("customer", Text),
        Column("password", Text, nullable=False),
        Column("disabled", Boolean, nullable=False),
        Column("created_at_ms", BigInteger, nullable=False),
        Column("updated_at_ms", BigInteger, nullable=False),
        sa.UniqueConstraint("name", name="people_name"),
    )
    op.add_column("sessions", Column("person_id", SORTED_BY_BYTES))
    op.add_column("sessions", Column("identity", Text, comment="JSON object"))
    op.add_column("sessions", Column("address", Text, nullable=False, server_default=sa.text("''")))


def downgrade() -> None:
    """Drop the table and the columns: people are signed out."""
    op.execute(sa.text("DELETE FROM sessions WHERE person_id IS NOT NULL OR identity IS NOT NULL"))
    for column in ("address", "identity", "person_id"):
        op.drop_column("sessions", column)
    op.drop_table("people")
