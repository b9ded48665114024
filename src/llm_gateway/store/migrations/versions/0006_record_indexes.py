"""Add indexes of usage records: failures, sessions, and the clients' own ids. Each leaves most records out.

An entry of an index also holds the record's id, 36 characters. So texts are indexed by their end, which is where ids
differ. Building them takes some 2 seconds for a million records.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

INDEXES = {
    "usage_records_failures": "(outcome) WHERE outcome NOT IN ('ok', 'cached')",
    "usage_records_sessions": "(substr(session, -8)) WHERE session IS NOT NULL",
    "usage_records_client_ids": "(substr(client_request_id, -6)) WHERE client_request_id IS NOT NULL",
}
BY_ID_ON_POSTGRES = {
    "usage_records_failures": "(outcome, id) WHERE outcome NOT IN ('ok', 'cached')",
    "usage_records_sessions": "(substr(session, -8), id) WHERE session IS NOT NULL",
}
"""Definitions with the id, in whose order rows are returned; SQLite adds it by itself, since it is the table's key."""


def upgrade() -> None:
    """Create the indexes."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for name, definition in (INDEXES if is_sqlite else INDEXES | BY_ID_ON_POSTGRES).items():
        op.execute(f"CREATE INDEX {name} ON usage_records {definition}")


def downgrade() -> None:
    """Drop the indexes."""
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
