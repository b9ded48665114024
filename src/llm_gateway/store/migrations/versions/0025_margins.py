"""Make way for the margins of the cube, which take the place of its days by key alone.

The gateway sums past days by the margins in the background (`cube_margins.py`); reports read the cube until then.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"

DAY, KEY_DAYS = 24, -24
"""Values of the column `hours`."""

COUNTERS = (
    *("requests", "cached_requests", "error_requests", "ok_requests", "estimated_requests", "unpriced_requests"),
    *("input_tokens", "output_tokens", "cost_nanos", "latency_ms", "saved_cost_nanos"),
)


def upgrade() -> None:
    """Delete the days by key alone."""
    op.execute(sa.text("DELETE FROM usage_cube WHERE hours < 0"))


def downgrade() -> None:
    """Delete the margins, and sum the days by key alone again."""
    op.execute(sa.text("DELETE FROM usage_cube WHERE hours < 0"))
    sums = ", ".join(f"CAST(sum({name}) AS bigint)" for name in COUNTERS)
    into = f"usage_cube (hours, bucket, model, provider, key, team, service, task_type, agent, {', '.join(COUNTERS)})"
    days = f"FROM usage_cube WHERE hours = {DAY} GROUP BY bucket, key"
    op.execute(sa.text(f"INSERT INTO {into} SELECT {KEY_DAYS}, bucket, 0, 0, key, 0, 0, 0, 0, {sums} {days}"))
