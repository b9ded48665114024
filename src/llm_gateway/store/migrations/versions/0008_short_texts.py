"""Index the ends of sessions and of clients' ids on Postgres, as migration 0006 meant to.

`substr(text, -8)` is the end of a text for SQLite, and all of it for Postgres.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

ENDS = {
    "usage_records_sessions": "({end}(session, {sign}8), id) WHERE session IS NOT NULL",
    "usage_records_client_ids": "({end}(client_request_id, {sign}6)) WHERE client_request_id IS NOT NULL",
}


def upgrade() -> None:
    """Create the indexes anew."""
    _replace("right", "")


def downgrade() -> None:
    """Create the indexes as migration 0006 does."""
    _replace("substr", "-")


def _replace(end: str, sign: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        return
    for name, definition in ENDS.items():
        op.execute(f"DROP INDEX {name}")
        op.execute(f"CREATE INDEX {name} ON usage_records {definition.format(end=end, sign=sign)}")
