"""Add what hits of the cache saved to the sums of usage, and fill it from the stored records.

Records are read once, in about a second for a million; what hits saved is summed by hour, customer and the dimensions
of the cube first. Sums of hours whose records are deleted already keep 0.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Column, Integer, Text, func

revision = "0011"
down_revision = "0010"

SORTED_BY_BYTES = Text().with_variant(Text(collation="C"), "postgresql")
COLUMN = "saved_cost_nanos"
HOUR_MS = 3_600_000
GRAINS = {"hour": 1, "day": 24} | {f"{days}days": days * 24 for days in (2, 4, 8, 16, 32)}
LONGEST_NAME = 256

_record = sa.table(
    "usage_records",
    *map(sa.column, ("id", "at_ms", "user_id", "outcome", COLUMN)),
    *map(sa.column, ("model", "provider", "key_id", "key_name", "team_id", "service", "task_type", "agent")),
).c
_rollups = sa.table("usage_rollups", *map(sa.column, ("dimension", "grain", "bucket_ms", "name", COLUMN)))
_fill = sa.table("usage_cube_fill", sa.column("filled"), sa.column("until")).c
TEXTS: dict[str, sa.ColumnElement[str]] = {
    "model": func.coalesce(_record.model, ""),
    "provider": func.coalesce(_record.provider, ""),
    "key": func.coalesce(_record.key_id, _record.key_name),
    "team": func.coalesce(_record.team_id, ""),
    "service": _record.service,
    "task_type": _record.task_type,
    "agent": func.coalesce(_record.agent, ""),
}
"""Dimensions of the cube, with their texts in a record."""
_cube = sa.table("usage_cube", *map(sa.column, ("hours", "bucket", *TEXTS, COLUMN)))
_saved = sa.table(
    "saved",
    *(sa.column(name, BigInteger) for name in ("hour", "nanos")),
    *(sa.column(name, Text) for name in ("customer", "whole_service", *TEXTS)),
    sa.column("is_in_cube", Integer),
)


def upgrade() -> None:
    """Add the columns, and fill them. Records that are not in the cube yet are added to it with what they saved."""
    for table in ("usage_rollups", "usage_cube"):
        op.add_column(table, Column(COLUMN, BigInteger, nullable=False, server_default=sa.text("0")))
    op.create_table(
        "saved",
        *(Column(name, BigInteger) for name in ("hour", "nanos")),
        *(Column(name, SORTED_BY_BYTES) for name in ("customer", "whole_service", *TEXTS)),
        Column("is_in_cube", Integer),
        prefixes=["TEMPORARY"],
    )
    _sum_records()
    for grain, hours in GRAINS.items():
        _fill_rollups("customer", _saved.c.customer, grain, hours)
        if grain in ("hour", "day"):
            _fill_rollups("service", _saved.c.whole_service, grain, hours)
        if grain in ("hour", "day", "8days"):
            _fill_cube(hours)
    op.execute("DROP TABLE saved")


def downgrade() -> None:
    """Drop the columns; records keep what each hit saved."""
    for table in ("usage_rollups", "usage_cube"):
        op.drop_column(table, COLUMN)


def _sum_records() -> None:
    is_waiting = sa.exists().where(_record.id > _fill.filled, _record.id <= _fill.until)
    groups = {
        "hour": _record.at_ms.op("/")(sa.literal_column(str(HOUR_MS), BigInteger)),
        "customer": _record.user_id,
        "whole_service": _record.service,
        **{name: func.substr(text, 1, LONGEST_NAME) for name, text in TEXTS.items()},
        "is_in_cube": sa.case((is_waiting, 0), else_=1),
    }
    columns = [value.label(f"of_{name}") for name, value in groups.items()]
    hits = sa.select(*columns, _record[COLUMN]).where(_record.outcome == "cached", _record[COLUMN] != 0).subquery()
    query = sa.select(*(hits.c[f"of_{name}"] for name in groups), _total(hits.c[COLUMN]))
    grouped = query.group_by(*(hits.c[f"of_{name}"] for name in groups))
    op.execute(sa.insert(_saved).from_select([*groups, "nanos"], grouped))


def _fill_rollups(dimension: str, name: sa.ColumnElement[str], grain: str, hours: int) -> None:
    bucket = _bucket(hours)
    sums = (
        sa.select(bucket.label("bucket"), name.label("of_name"), _total(_saved.c.nanos).label("nanos"))
        .group_by(bucket, name)
        .subquery()
    )
    rollups = _rollups.c
    op.execute(
        sa.update(_rollups)
        .values({COLUMN: sums.c.nanos})
        .where(rollups.dimension == dimension, rollups.grain == grain, rollups.name == sums.c.of_name)
        .where(rollups.bucket_ms == sums.c.bucket * sa.literal_column(str(hours * HOUR_MS), BigInteger))
    )


def _fill_cube(hours: int) -> None:
    bucket = _bucket(hours)
    names = {name: sa.table("usage_names", sa.column("id"), sa.column("name")).alias(f"n_{name}") for name in TEXTS}
    numbers = [names[name].c.id.label(f"id_{name}") for name in TEXTS]
    sums = (
        sa.select(bucket.label("bucket"), *numbers, _total(_saved.c.nanos).label("nanos"))
        .where(_saved.c.is_in_cube == 1, *(names[name].c.name == _saved.c[name] for name in TEXTS))
        .group_by(bucket, *(names[name].c.id for name in TEXTS))
        .subquery()
    )
    op.execute(
        sa.update(_cube)
        .values({COLUMN: sums.c.nanos})
        .where(_cube.c.hours == hours, _cube.c.bucket == sums.c.bucket)
        .where(*(_cube.c[name] == sums.c[f"id_{name}"] for name in TEXTS))
    )


def _bucket(hours: int) -> sa.ColumnElement[int]:
    """Return the number of the bucket since 1970; both databases divide integers to integers."""
    return _saved.c.hour.op("/")(sa.literal_column(str(hours), BigInteger))


def _total(value: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    return sa.cast(func.sum(value), BigInteger)
