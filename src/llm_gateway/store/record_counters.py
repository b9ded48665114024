"""SQL expressions for the counters of `Totals` over stored records: what `Totals.add` computes, in the database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, func

from llm_gateway.store.rollups import ERRORS
from llm_gateway.store.tables import usage_records

_of = usage_records.c


def _sum(value: sa.ColumnElement[Any], condition: sa.ColumnElement[bool] | None = None) -> sa.ColumnElement[Any]:
    counted = value if condition is None else sa.case((condition, value), else_=0)
    return sa.cast(func.coalesce(func.sum(counted), 0), BigInteger)


_ONE: sa.ColumnElement[Any] = sa.literal(1, BigInteger)
RECORD_COUNTERS = (
    _sum(_ONE),
    _sum(_ONE, _of.outcome == "cached"),
    _sum(_ONE, _of.outcome.in_(sorted(ERRORS))),
    _sum(_ONE, _of.outcome == "ok"),
    _sum(_ONE, _of.cost_status == "estimated"),
    _sum(_ONE, _of.cost_status == "unpriced"),
    _sum(_of.input_tokens),
    _sum(_of.output_tokens),
    _sum(_of.cost_nanos),
    _sum(_of.latency_ms, _of.outcome == "ok"),
    _sum(_of.saved_cost_nanos, _of.outcome == "cached"),
)
"""The counters of Totals, in their order."""
