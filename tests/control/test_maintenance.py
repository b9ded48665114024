"""Periodic jobs: deletion of old usage records and daily sums."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import sqlalchemy as sa

from llm_gateway.control.maintenance import delete_old_usage_forever
from llm_gateway.store.database import Database
from llm_gateway.store.retention import Retention
from llm_gateway.store.tables import usage_rollups
from llm_gateway.store.usage import UsageStore
from tests.store.histories import DAY_MS, record, stored_ids


class Watched(UsageStore):
    """A retention whose `is_done` is set once no day is left to sum up."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.is_done = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def build_block(self, until_ms: int) -> bool:
        is_built = super().build_block(until_ms)
        if not is_built:
            self._loop.call_soon_threadsafe(self.is_done.set)
        return is_built


async def test_old_records_are_deleted_and_past_days_are_summed_up(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'gateway.db'}")
    database.migrate()
    usage = Watched(database)
    now_ms = time.time_ns() // 1_000_000
    days = (100, 91, 89, 1, 0)
    records = [record(now_ms - day * DAY_MS) for day in days]
    usage.write(records)
    logged: list[tuple[str, dict[str, object]]] = []
    is_logged, loop = asyncio.Event(), asyncio.get_running_loop()

    def log(event: str, **fields: object) -> None:
        logged.append((event, fields))
        loop.call_soon_threadsafe(is_logged.set)

    retention = Retention(usage, tmp_path, 90, log)
    task = asyncio.create_task(delete_old_usage_forever(retention, lambda *_, **__: None))
    await asyncio.wait_for(usage.is_done.wait(), 30)
    await asyncio.wait_for(is_logged.wait(), 30)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert stored_ids(database) == sorted(given.id for given in records[2:])
    [(event, fields)] = logged
    assert (event, fields["count"]) == ("old usage records deleted", 2)
    assert usage.by_customer(365, now_ms, 1)[0].requests == len(days)
    with database.read() as connection:
        grains = set(connection.execute(sa.select(usage_rollups.c.grain)).scalars())
    assert grains > {"hour", "day", "2days"}
    database.close()
