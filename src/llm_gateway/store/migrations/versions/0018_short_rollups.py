"""Keep numbers in the place of texts in rollups, which are then half as long. Customers get a table of names.

All rollups are rewritten, and on Postgres the cube, with shorter integers: in the transaction of the upgrade, some 5
seconds for each million rows, while records wait in the journals. The log tells the progress. Pages that the old rows
leave empty are used again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Column, Integer, SmallInteger, Text

revision = "0018"
down_revision = "0017"

SORTED_BY_BYTES = Text().with_variant(Text(collation="C"), "postgresql")
NUMBERED = BigInteger().with_variant(sa.Integer, "sqlite")
COUNTERS = (
    *("requests", "cached_requests", "error_requests", "ok_requests", "estimated_requests", "unpriced_requests"),
    *("input_tokens", "output_tokens", "cost_nanos", "latency_ms", "saved_cost_nanos"),
)
CUBE = ("model", "provider", "key", "team", "service", "task_type", "agent")
DIMENSIONS = {"service": 1, "customer": 2, "provider": 3}
GRAINS = {"hour": 1, "day": 24} | {f"{days}days": days * 24 for days in (2, 4, 8, 16, 32)}
HOUR_MS = 3_600_000
OLD, NEW = "usage_rollups_of_0017", "usage_rollups"


def upgrade() -> None:
    """Give names numbers, and copy the rows in the order of their new key."""
    op.create_table(
        "usage_customers",
        Column("id", NUMBERED, primary_key=True),
        Column("name", SORTED_BY_BYTES, nullable=False),
        sa.UniqueConstraint("name", name="usage_customers_name"),
    )
    _rename(NEW, OLD)
    op.create_table(
        NEW,
        Column("dimension", SmallInteger, primary_key=True, autoincrement=False),
        Column("hours", SmallInteger, primary_key=True, autoincrement=False),
        Column("bucket", Integer, primary_key=True, autoincrement=False),
        Column("name", BigInteger, primary_key=True, autoincrement=False),
        *map(_counter, COUNTERS),
        sqlite_with_rowid=False,
    )
    copied_rows = 0
    for dimension, number in DIMENSIONS.items():
        names = _names(dimension)
        op.execute(
            f"INSERT INTO {names} (name) SELECT DISTINCT name FROM {OLD} "  # noqa: S608 - constants
            f"WHERE dimension = '{dimension}' AND grain = 'day' ORDER BY name ON CONFLICT (name) DO NOTHING"
        )
        for grain, hours in GRAINS.items():
            figures = ", ".join(COUNTERS)
            copied = op.get_bind().execute(
                sa.text(
                    f"INSERT INTO {NEW} (dimension, hours, bucket, name, {figures}) "  # noqa: S608 - constants
                    f"SELECT {number}, {hours}, bucket_ms / {hours * HOUR_MS}, names.id, {figures} "
                    f"FROM {OLD} AS rollups JOIN {names} AS names ON names.name = rollups.name "
                    f"WHERE dimension = '{dimension}' AND grain = '{grain}' ORDER BY bucket_ms, names.id"
                )
            )
            _tell(dimension, grain, copied.rowcount)
            copied_rows += copied.rowcount
    rows = op.get_bind().execute(sa.text(f"SELECT count(*) FROM {OLD}")).scalar_one()  # noqa: S608 - a constant
    if rows != copied_rows:
        raise RuntimeError(f"{rows - copied_rows} rows of {NEW} have no place in the new table: nothing was changed.")
    op.drop_table(OLD)
    _change_cube("smallint", "integer")
    if op.get_bind().dialect.name != "sqlite":
        op.execute(f"ANALYZE {NEW}, usage_cube")


def downgrade() -> None:
    """Write the texts back."""
    _change_cube("bigint", "bigint")
    _rename(NEW, OLD)
    op.create_table(
        NEW,
        Column("dimension", SORTED_BY_BYTES, primary_key=True),
        Column("grain", SORTED_BY_BYTES, primary_key=True),
        Column("bucket_ms", BigInteger, primary_key=True, autoincrement=False),
        Column("name", SORTED_BY_BYTES, primary_key=True),
        *map(_counter, COUNTERS),
        sqlite_with_rowid=False,
    )
    for dimension, number in DIMENSIONS.items():
        for grain, hours in GRAINS.items():
            op.execute(
                f"INSERT INTO {NEW} SELECT '{dimension}', '{grain}', "  # noqa: S608 - constants
                f"CAST(bucket AS bigint) * {hours * HOUR_MS}, names.name, {', '.join(COUNTERS)} "
                f"FROM {OLD} AS rollups JOIN {_names(dimension)} AS names ON names.id = rollups.name "
                f"WHERE dimension = {number} AND hours = {hours} ORDER BY bucket, names.name"
            )
    op.drop_table(OLD)
    op.drop_table("usage_customers")


def _change_cube(hours: str, others: str) -> None:
    """Give the key of the cube other types on Postgres; on SQLite the type says nothing about the length."""
    if op.get_bind().dialect.name == "sqlite":
        return
    types = {"hours": hours} | dict.fromkeys(("bucket", *CUBE), others)
    op.execute(f"ALTER TABLE usage_cube {', '.join(f'ALTER {name} TYPE {kind}' for name, kind in types.items())}")


def _names(dimension: str) -> str:
    return "usage_customers" if dimension == "customer" else "usage_names"


def _rename(old: str, new: str) -> None:
    op.rename_table(old, new)
    if op.get_bind().dialect.name != "sqlite":
        op.execute(f"ALTER INDEX {old}_pkey RENAME TO {new}_pkey")


def _counter(name: str) -> Column[int]:
    default = sa.text("0") if name == "saved_cost_nanos" else None
    return Column(name, BigInteger, nullable=False, server_default=default)


def _tell(dimension: str, grain: str, rows: int) -> None:
    config = op.get_context().config
    log = None if config is None else config.attributes.get("log")
    if rows and log is not None:
        log("usage totals are being rewritten by the upgrade", dimension=dimension, grain=grain, rows=rows)
