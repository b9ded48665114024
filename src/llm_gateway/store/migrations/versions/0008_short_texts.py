"""Index the ends of sessions and of clients' ids on Postgres, as migration 0006 meant to.

`substr(text, -8)` is the end of a text for SQLite, and all of it for Postgres. Both indexes have the id, in whose order
rows are returned: without it Postgres reads millions of records back by their ids to find two.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

BEFORE = {
    "usage_records_sessions": "(substr(session, -8), id) WHERE session IS NOT NULL",
    "usage_records_client_ids": "(substr(client_request_id, -6)) WHERE client_request_id IS NOT NULL",
}
AFTER = {
    "usage_records_sessions": "(right(session, 8), id) WHERE session IS NOT NULL",
    "usage_records_client_ids": "(right(client_request_id, 6), id) WHERE client_request_id IS NOT NULL",
}


def upgrade() -> None:
    """Create the indexes anew."""
    _replace(AFTER)


def downgrade() -> None:
    """Create the indexes as migration 0006 does."""
    _replace(BEFORE)


def _replace(indexes: dict[str, str]) -> None:
    if op.get_bind().dialect.name == "sqlite":
        return
    for name, definition in indexes.items():
        op.execute(f"DROP INDEX {name}")
        op.execute(f"CREATE INDEX {name} ON usage_records {definition}")
