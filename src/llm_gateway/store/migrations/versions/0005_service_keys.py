"""Add tables for service keys that are made over the API, the hashes of their secrets, and teams."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, LargeBinary, Text

revision = "0005"
down_revision = "0004"

SORTED_BY_BYTES = Text().with_variant(Text(collation="C"), "postgresql")
INDEXES = (
    ("api_keys_team", "api_keys", "team_id"),
    ("api_keys_parent", "api_keys", "parent_id"),
    ("api_key_secrets_key", "api_key_secrets", "key_id"),
)


def upgrade() -> None:
    """Create the tables, empty: keys of the environment are not stored."""
    op.create_table(
        "teams",
        Column("id", SORTED_BY_BYTES, primary_key=True),
        Column("name", SORTED_BY_BYTES, nullable=False),
        Column("description", Text, nullable=False),
        Column("created_at_ms", BigInteger, nullable=False),
        Column("updated_at_ms", BigInteger, nullable=False),
        sa.UniqueConstraint("name", name="teams_name"),
    )
    op.create_table(
        "api_keys",
        Column("id", SORTED_BY_BYTES, primary_key=True),
        Column("name", SORTED_BY_BYTES, nullable=False),
        Column("scopes", Text, nullable=False, comment="JSON array"),
        Column("settings", Text, nullable=False, comment="JSON object"),
        Column("team_id", SORTED_BY_BYTES),
        Column("parent_id", SORTED_BY_BYTES),
        Column("owner", Text),
        Column("disabled", Boolean, nullable=False),
        Column("expires_at_ms", BigInteger),
        Column("last4", Text, nullable=False),
        Column("last_used_at_ms", BigInteger),
        Column("created_at_ms", BigInteger, nullable=False),
        Column("updated_at_ms", BigInteger, nullable=False),
        sa.UniqueConstraint("name", name="api_keys_name"),
    )
    op.create_table(
        "api_key_secrets",
        Column("public_id", SORTED_BY_BYTES, primary_key=True),
        Column("key_id", SORTED_BY_BYTES, nullable=False),
        Column("digest", LargeBinary, nullable=False),
        Column("pepper", BigInteger, nullable=False),
        Column("until_ms", BigInteger),
    )
    for name, table, column in INDEXES:
        op.create_index(name, table, [column])


def downgrade() -> None:
    """Drop the tables: every key that was made over the API ends."""
    for name, table, _ in INDEXES:
        op.drop_index(name, table)
    for table in ("api_key_secrets", "api_keys", "teams"):
        op.drop_table(table)
