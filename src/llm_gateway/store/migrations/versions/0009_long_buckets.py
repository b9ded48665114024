"""Sum the days of the cube to buckets of eight days, which reports of months read in the place of days."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

DAY, LONG = 24, 192
"""Hours of a bucket."""

DIMENSIONS = "model, provider, key, team, service, task_type, agent"
COUNTERS = (
    *("requests", "cached_requests", "error_requests", "ok_requests", "estimated_requests", "unpriced_requests"),
    *("input_tokens", "output_tokens", "cost_nanos", "latency_ms"),
)


def upgrade() -> None:
    """Add the rows."""
    sums = ", ".join(f"CAST(sum({name}) AS bigint)" for name in COUNTERS)
    into = f"usage_cube (hours, bucket, {DIMENSIONS}, {', '.join(COUNTERS)})"
    days = f"FROM usage_cube WHERE hours = {DAY} GROUP BY bucket / {LONG // DAY}, {DIMENSIONS}"
    op.execute(sa.text(f"INSERT INTO {into} SELECT {LONG}, bucket / {LONG // DAY}, {DIMENSIONS}, {sums} {days}"))


def downgrade() -> None:
    """Delete the rows."""
    op.execute(sa.text("DELETE FROM usage_cube WHERE hours = :long").bindparams(long=LONG))
