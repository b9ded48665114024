"""Add an index of the audit trail by resource, for the history of a provider's prices."""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Create the index."""
    op.create_index("audit_entries_resource", "audit_entries", ["resource_id", "at_ms"])


def downgrade() -> None:
    """Drop the index."""
    op.drop_index("audit_entries_resource", "audit_entries")
