"""Periodic jobs: deletion of old usage records, daily sums, and the lines of jobs that fail."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llm_gateway.control.live_configuration import LiveConfiguration
from llm_gateway.control.maintenance import (
    delete_old_usage_forever,
    log_failed_authentications_forever,
    refresh_prices_forever,
    save_totals,
)
from llm_gateway.control.management.health import SharedCheck
from llm_gateway.control.recent_calls import recent_attempts
from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.usage import SentAttempt
from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.shipper import Shipper
from llm_gateway.store.database import Database
from llm_gateway.store.retention import Retention
from llm_gateway.store.tables import usage_rollups
from llm_gateway.store.usage import UsageStore
from llm_gateway.telemetry.failed_authentications import FailedTotals
from llm_gateway.telemetry.report_totals import ReportTotals
from tests.application.driver import ignore
from tests.e2e.process import write_migrated
from tests.store.histories import DAY_MS, record, stored_ids
from tests.waiting import until


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
    write_migrated(tmp_path / "gateway.db")
    database = Database.open(f"sqlite:///{tmp_path / 'gateway.db'}")
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
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(delete_old_usage_forever(retention, ignore, lambda: False, first_s=0), 0.01)
    assert len(stored_ids(database)) == len(records)  # another host does it
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(delete_old_usage_forever(retention, ignore), 0.1)
    assert len(stored_ids(database)) == len(records)  # it is too early
    task = asyncio.create_task(delete_old_usage_forever(retention, lambda *_, **__: None, first_s=0))
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
        lengths = set(connection.execute(sa.select(usage_rollups.c.hours)).scalars())
    assert lengths > {1, 24, 48}
    database.close()


class Unusable(Retention, LiveConfiguration):
    """A part whose jobs fail, each time with the next of the errors."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def step(self) -> bool:
        raise self.errors.pop(0)

    def reload(self) -> Snapshot:
        raise self.errors.pop(0)


class NoRecords(UsageStore, Shipper):
    """A database without calls, and a shipper that cannot reach it in time."""

    def __init__(self) -> None: ...

    def flush(self, timeout_s: float) -> bool:
        return False

    def recent_attempts(self, since_ms: int, longest_request_ms: int = 0) -> list[SentAttempt]:
        return []


async def logged_by(job: Callable[[Callable[..., None]], Coroutine[Any, Any, None]], lines: int = 1) -> list[str]:
    """Run the job until it has logged `lines` lines. Returns their levels and events."""
    logged: list[str] = []

    def log(event: str, *, level: str = "info", **_: object) -> None:
        logged.append(f"{level}: {event}")

    task = asyncio.create_task(job(log))
    await until(lambda: len(logged) >= lines)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return logged


async def test_each_job_that_fails_is_logged_and_runs_again(tmp_path: Path) -> None:
    away, defect = StoreUnavailable("away"), ValueError("a defect")
    refreshed = await logged_by(
        lambda log: refresh_prices_forever(Unusable(away, *[defect] * 1000), log, every_s=0.001), lines=3
    )
    assert refreshed[:3] == [
        "warning: prices are not refreshed: the database does not answer",
        "error: prices cannot be refreshed",
        "error: prices cannot be refreshed",
    ]
    assert await logged_by(lambda log: delete_old_usage_forever(Unusable(away), log, first_s=0)) == [
        "warning: old usage records are not deleted: the database does not answer"
    ]
    assert await logged_by(lambda log: delete_old_usage_forever(Unusable(defect), log, first_s=0)) == [
        "error: old usage records cannot be deleted"
    ]

    def cannot_check() -> bool:
        raise defect

    assert await logged_by(SharedCheck(cannot_check).repeat) == ["error: database check cannot run"]


async def test_totals_that_cannot_be_saved_are_logged(tmp_path: Path) -> None:
    logged: list[tuple[str, dict[str, object]]] = []

    def log(event: str, **fields: object) -> None:
        logged.append((event, fields))

    assert not save_totals(ReportTotals(tmp_path / "missing" / "totals"), log)
    assert logged == [
        (
            "metrics cannot be saved: counters start anew after a restart",
            {"level": "warning", "reason": "No such file or directory"},
        )
    ]
    assert save_totals(ReportTotals(tmp_path / "totals"), log)
    store = NoRecords()
    assert recent_attempts(store, store, lambda: True, log, 60) == []
    assert logged[1:] == [
        (
            "rate limits start without the newest calls: their records are not in the database yet",
            {"level": "warning"},
        )
    ]


async def test_failed_authentications_have_one_line_for_many_with_counts_and_addresses() -> None:
    failed, lines = FailedTotals(), list[tuple[str, dict[str, Any]]]()

    def fail(*numbers: int) -> None:
        for place, number in enumerate(numbers):
            for _ in range(number):
                failed.count(f"203.0.113.{place}")

    def log(event: str, **fields: Any) -> None:
        lines.append((event, fields))
        fail(2)  # told by the next line

    fail(300, 6, 5, 4, 3, 1)
    async with asyncio.timeout(5):
        job = asyncio.create_task(log_failed_authentications_forever(failed.counts, log, every_s=0, pause_s=0))
        await until(lambda: len(lines) > 1)
        job.cancel()
    first = {f"203.0.113.{place}": number for place, number in enumerate((300, 6, 5, 4, 3))}
    assert lines[0] == ("failed authentications", {"level": "warning", "count": 319, "addresses": first})
    assert lines[1][1] == {"level": "warning", "count": 2, "addresses": {"203.0.113.0": 2}}
