"""Read the fields of stored records that sums need: for repricing, and to add old records to cube and budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.store.attempts_json import AttemptTexts
from llm_gateway.store.tables import usage_records

FIELDS = (
    *("id", "at_ms", "version", "key_name", "key_id", "team_id", "user_id", "service", "task_type", "agent"),
    *("outcome", "provider", "model", "cost_nanos", "cost_status", "latency_ms", "saved_cost_nanos"),
)
SUMMED_COLUMNS = tuple(usage_records.c[name] for name in (*FIELDS, "attempts"))
MATCHED_COLUMNS = (*SUMMED_COLUMNS, usage_records.c.session, usage_records.c.tags)


def summed_records(connection: Connection, texts: AttemptTexts, rows: Sequence[sa.Row[Any]]) -> list[UsageRecord]:
    """Return the records in rows of SUMMED_COLUMNS, with their attempts. Other fields are not set."""
    attempts = texts.read(connection, [(row.at_ms, row.attempts, row.user_id) for row in rows])
    return [
        UsageRecord(instance="", surface="", attempts=each, **dict(zip(FIELDS, row, strict=False)))
        for row, each in zip(rows, attempts, strict=True)
    ]


def matched_records(connection: Connection, texts: AttemptTexts, rows: Sequence[sa.Row[Any]]) -> list[UsageRecord]:
    """Return the records in rows of MATCHED_COLUMNS, with their attempts and all dimensions of budgets."""
    records = summed_records(connection, texts, rows)
    for record, row in zip(records, rows, strict=True):
        record.session = row.session
        record.tags = msgspec.json.decode(row.tags) if row.tags else {}
    return records
