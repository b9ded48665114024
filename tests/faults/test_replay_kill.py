"""Kill replays (SIGKILL) in their middle until one completes: no record is lost or stored twice."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import msgspec
import pytest

from llm_gateway.domain.usage import AttemptRecord, Price, Usage, UsageRecord, cost, encode_record
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.journal.writer import JournalWriter
from tests.faults.conftest import Note
from tests.faults.ledger import Ledger
from tests.fork_server import COMMAND_LINE, fork_server

CUT_OFF_EVERY = 100
LONGEST_START_S = 0.2
"""A replay, forked from a process that has imported everything, writes to the database after 0.1 s."""
PRICE = Price(input=((0, 1_500_000_000),), output=((0, 6_250_000_000),))


def made_up_record(number: int) -> UsageRecord:
    usage = Usage(input_tokens=number % 997, output_tokens=number % 89)
    paid = cost(PRICE, usage)
    now = time.time_ns() // 1_000_000
    attempt = AttemptRecord(
        id=new_id(),
        provider_id=new_id(),
        provider=f"p{number % 3}",
        kind="openai",
        model="ok",
        started_ms=now,
        upstream_request_id=f"call-{number}",
        usage=usage,
        price=PRICE,
        cost_nanos=paid,
    )
    return UsageRecord(
        id=new_id(),
        at_ms=now - number % 30_000_000,
        instance="an earlier one",
        key_name="dev",
        user_id=f"customer-{number % 50}",
        service=f"service-{number % 7}",
        task_type="general",
        surface="generate",
        outcome="ok",
        status=200,
        provider=attempt.provider,
        model="ok",
        usage=usage,
        cost_nanos=paid,
        attempts=[attempt],
    )


async def write_journal(data_dir: Path, count: int) -> tuple[list[UsageRecord], list[UsageRecord]]:
    """Write a journal as a killed gateway leaves it. Returns the settled records, and those that were cut off."""
    journal = JournalWriter.open(data_dir, fsync="off")
    settled, cut_off = [], []
    for number in range(count):
        record = made_up_record(number)
        # Usage and cost of an intent are only in its attempt, as the upper bound.
        intent = msgspec.structs.replace(record, usage=Usage(), cost_nanos=0)
        await journal.intent(record.id, encode_record(intent))
        if number % CUT_OFF_EVERY:
            journal.settle(record.id, encode_record(record))
            settled.append(record)
        else:
            cut_off.append(record)
        await asyncio.sleep(0.001 if number % 500 == 0 else 0)
    await journal.sync_and_close()
    journal.directory.close()
    return settled, cut_off


def state(file: Path) -> tuple[int, int]:
    """Return size and modification time of a file, (0, 0) if it does not exist."""
    if not file.exists():
        return 0, 0
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def replay_until_done(directory: Path, kills: int) -> tuple[int, int, float]:
    """Kill up to `kills` replays, then let one end. Returns (kills, kills while writing, seconds of the last)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLM_GATEWAY_")}
    database = directory / "data" / "gateway.db-wal"
    killed = in_the_middle = 0
    while True:
        started = time.monotonic()
        with Path(os.devnull).open("r+b") as nothing:
            descriptors = (nothing.fileno(), nothing.fileno(), 2)
            replay = fork_server().start(COMMAND_LINE, ("usage", "replay"), descriptors, directory, environment)
        if killed == kills:
            assert replay.wait(300) == 0
            return killed, in_the_middle, time.monotonic() - started
        before = state(database)
        if killed % 3:  # wait until it has begun to write
            while replay.poll() is None and state(database) == before:
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.1))
        else:
            time.sleep(random.uniform(0, LONGEST_START_S))
        if replay.poll() is not None:
            assert replay.returncode == 0
            return killed, in_the_middle, time.monotonic() - started
        in_the_middle += state(database) != before
        replay.kill()
        replay.wait()
        killed += 1


@pytest.mark.fault("kill -9 during the replay", "SIGKILL at random moments of it until one comes through")
async def test_a_kill_during_replay_loses_no_record_and_stores_none_twice(
    tmp_path: Path, note: Note, long: bool
) -> None:
    count = 50_000 if long else 3_000
    settled, cut_off = await write_journal(tmp_path / "data", count)
    kills, in_the_middle, seconds = await asyncio.to_thread(replay_until_done, tmp_path, 30 if long else 3)
    ledger = Ledger(tmp_path / "data")
    ledger.check_sums()
    assert set(ledger.by_id) == {record.id for record in (*settled, *cut_off)}
    for record in settled:
        row = ledger.by_id[record.id]
        assert (row.outcome, row.cost_nanos) == ("ok", record.cost_nanos)
    for record in cut_off:
        row = ledger.by_id[record.id]
        assert (row.outcome, row.cost_nanos) == ("cancelled", record.cost_nanos)
    assert not [path for path in (tmp_path / "data" / "journal").iterdir() if path.is_dir()]
    note(f"{count} records, {kills} kills, {in_the_middle} while it wrote, last run {seconds:.1f} s: 0 lost, 0 twice")
