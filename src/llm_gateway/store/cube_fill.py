"""Add the records that were stored before the cube existed to it, in small steps that can be interrupted anywhere.

Each step is one transaction, which adds some records and moves the mark up to which they are in the cube
(`cube_table.py` draws it). The oldest come first, since they are the first to be deleted by age.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from llm_gateway.store.attempts_json import AttemptTexts
from llm_gateway.store.bulk import Pause, no_pause, with_pauses
from llm_gateway.store.cube import cube_sums
from llm_gateway.store.cube_table import CubeTable
from llm_gateway.store.database import Database
from llm_gateway.store.record_rows import SUMMED_COLUMNS, summed_records
from llm_gateway.store.tables import usage_records

STEP_RECORDS = 1000
"""Records added in one transaction."""


class FilledStep(NamedTuple):
    """The result of a step: the number of records, and when the last of them arrived (milliseconds UTC)."""

    records: int
    at_ms: int
    is_last: bool


class CubeFill:
    """The steps that add old records to the cube."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cube = CubeTable(database)
        self._texts = AttemptTexts(database)

    def step(self, limit: int = STEP_RECORDS, pause: Pause = no_pause) -> FilledStep | None:
        """Add the next `limit` records; None if none is left. `pause` is called after every few records.

        Raises:
            StoreUnavailable: the database does not answer; call again later.
        """
        records = usage_records.c
        with self._database.write() as connection:
            filling = self._cube.filling(connection, to_fill=True)
            if filling.is_over:
                return None
            query = (
                sa.select(*SUMMED_COLUMNS)
                .where(records.id > filling.filled, records.id <= filling.until)
                .order_by(records.id)
                .limit(limit)
            )
            rows = connection.execute(query).all()
            pause()
            added = summed_records(connection, self._texts, rows)
            self._cube.add(connection, cube_sums(with_pauses(added, pause)), pause)
            is_last = len(rows) < limit
            self._cube.set_filled(connection, filling.until if is_last else rows[-1].id)
            return FilledStep(len(rows), added[-1].at_ms if added else 0, is_last)
