"""Retention with a wrong clock: a clock far ahead of the records deletes none of them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from llm_gateway.store.database import Database
from llm_gateway.store.usage import UsageStore
from tests.e2e.process import GatewayProcess, until
from tests.store.histories import DAY_MS, record


def store(directory: Path, days_ago: Sequence[float]) -> None:
    """Store usage records of requests from that many days ago."""
    now_ms = time.time_ns() // 1_000_000
    database = Database.open(f"sqlite:///{directory / 'data' / 'gateway.db'}")
    UsageStore(database).write([record(now_ms - int(days * DAY_MS)) for days in days_ago])
    database.close()


def count(directory: Path) -> int:
    with sqlite3.connect(directory / "data" / "gateway.db") as database:
        [found] = database.execute("SELECT count(*) FROM usage_records").fetchone()
    return int(found)


def test_a_clock_100_days_ahead_deletes_nothing_and_a_correct_one_does(tmp_path: Path) -> None:
    kept_file = tmp_path / "data" / "retention.json"
    with GatewayProcess(tmp_path):
        until(kept_file.exists)
    store(tmp_path, [100 + number / 10 for number in range(50)])

    kept_file.unlink()  # as after an upgrade: only the newest record tells the time of the last run
    for _ in range(2):
        with GatewayProcess(tmp_path) as gateway:
            until(lambda log=gateway: "old usage records" in log.log)  # type: ignore[misc]
            assert "not deleted: the system's clock has jumped ahead" in gateway.log
        assert count(tmp_path) == 50
        belief = json.loads(kept_file.read_bytes())
        assert time.time() * 1000 - belief["believed_ms"] > 99 * DAY_MS

    kept_file.unlink()
    store(tmp_path, [0.01])
    with GatewayProcess(tmp_path) as gateway:
        until(lambda: "old usage records deleted" in gateway.log)
        assert "jumped ahead" not in gateway.log
    assert count(tmp_path) == 1
