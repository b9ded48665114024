"""Sum the days of the cube by key alone, too, which reports by key read in the place of all combinations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"

DAY, KEY_DAYS = 24, -24
"""Values of the column `hours`."""

COUNTERS = (
    *("requests", "cached_requests", "error_requests", "ok_requests", "estimated_requests", "unpriced_requests"),
    *("input_tokens", "output_tokens", "cost_nanos", "latency_ms", "saved_cost_nanos"),
)


def upgrade() -> None:
    """Add the rows."""
    sums = ", ".join(f"CAST(sum({name}) AS bigint)" for name in COUNTERS)
    into = f"usage_cube (hours, bucket, model, provider, key, team, service, task_type, agent, {', '.join(COUNTERS)})"
    days = f"FROM usage_cube WHERE hours = {DAY} GROUP BY bucket, key"
    op.execute(sa.text(f"INSERT INTO {into} SELECT {KEY_DAYS}, bucket, 0, 0, key, 0, 0, 0, 0, {sums} {days}"))


def downgrade() -> None:
    """Delete the rows."""
    op.execute(sa.text("DELETE FROM usage_cube WHERE hours = :key_days").bindparams(key_days=KEY_DAYS))
