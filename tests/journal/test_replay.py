from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.usage import encode_record
from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.journal.replay import replay
from llm_gateway.journal.segments import Position, WriterDir
from tests.examples import examples
from tests.journal.samples import (
    Database,
    Heard,
    attempt,
    frame,
    intent,
    left_behind,
    open_files,
    request_id,
    settled,
    settled_frames,
)


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def heard() -> Heard:
    return Heard()


def counts(data_dir: Path, database: Database, heard: Heard) -> tuple[int, int, int]:
    report = replay(data_dir, database, log=heard)
    return report.directories, report.records, report.abandoned


def test_a_directory_without_entries_yields_no_records(tmp_path: Path, database: Database, heard: Heard) -> None:
    assert counts(tmp_path, database, heard) == (0, 0, 0)
    left_behind(tmp_path, {})
    assert counts(tmp_path, database, heard) == (1, 0, 0)
    assert database.batches == []


def test_records_left_in_a_journal_are_stored_and_its_directory_deleted(
    tmp_path: Path, database: Database, heard: Heard
) -> None:
    outcome = frame("O", 90, encode_record(attempt("a", cost_status="exact", output_tokens=1)))
    left_behind(tmp_path, {1: settled_frames(range(5)) + frame("I", 90, intent(90)), 2: outcome}, writer="a")
    left_behind(tmp_path, {1: settled_frames(range(5, 8)) + frame("I", 91, intent(91))}, writer="b")
    (tmp_path / "journal" / "quarantine.jsonl").write_text("{}\n")

    assert counts(tmp_path, database, heard) == (2, 10, 2)

    assert database.numbers() == [*range(8), 90, 91]
    assert database.stored[request_id(0)].outcome == "ok"
    assert database.stored[request_id(90)].cost_status == "exact"
    assert database.stored[request_id(90)].error_code == "gateway_crashed"
    assert database.stored[request_id(91)].cost_nanos == 210_000
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["quarantine.jsonl"]
    assert heard.events == []
    assert counts(tmp_path, database, heard) == (0, 0, 0)


def test_replay_begins_at_the_checkpoint(tmp_path: Path, database: Database, heard: Heard) -> None:
    path = left_behind(tmp_path, {1: settled_frames(range(5))})
    directory = WriterDir(path)
    directory.keep_checkpoint(Position(1, len(settled_frames(range(3)))))
    directory.close()

    assert counts(tmp_path, database, heard) == (1, 2, 0)
    assert database.numbers() == [3, 4]


def test_the_directory_of_a_running_writer_is_skipped(tmp_path: Path, database: Database, heard: Heard) -> None:
    directory = WriterDir(left_behind(tmp_path, {1: settled_frames(range(5))}))

    assert counts(tmp_path, database, heard) == (0, 0, 0)
    assert directory.segments() == [1]

    directory.close()
    assert counts(tmp_path, database, heard) == (1, 5, 0)


def test_what_a_process_left_that_was_killed_while_it_made_a_directory_is_deleted(
    tmp_path: Path, database: Database, heard: Heard
) -> None:
    made = WriterDir(left_behind(tmp_path, {}, writer=".new-a"))
    left_behind(tmp_path, {}, writer=".new-b")
    left_behind(tmp_path, {1: settled_frames(range(2))}, writer="c")

    assert counts(tmp_path, database, heard) == (1, 2, 0)

    assert [path.name for path in (tmp_path / "journal").iterdir()] == [".new-a"]
    made.close()


def test_without_a_database_the_journal_is_left_for_the_next_start(
    tmp_path: Path, database: Database, heard: Heard
) -> None:
    path = left_behind(tmp_path, {1: settled_frames(range(5)) + frame("I", 9, intent(9))})
    for failures in ([StoreUnavailable("gone")], [StoreUnavailable("gone")]):
        database.after = list(failures)
        with pytest.raises(StoreUnavailable, match="gone"):
            replay(tmp_path, database, log=heard)
        assert path.exists()

    assert counts(tmp_path, database, heard) == (1, 6, 1)
    assert database.numbers() == [0, 1, 2, 3, 4, 9]


def test_a_failed_replay_leaves_no_file_open(tmp_path: Path, database: Database, heard: Heard) -> None:
    left_behind(tmp_path, {1: settled_frames(range(5))})
    descriptors = open_files()
    database.before = [StoreUnavailable("gone")]

    with pytest.raises(StoreUnavailable):
        replay(tmp_path, database, log=heard)

    assert open_files() == descriptors


def test_a_journal_that_cannot_be_read_is_a_configuration_error(
    tmp_path: Path, database: Database, heard: Heard
) -> None:
    path = left_behind(tmp_path, {})
    (path / "000001.seg").mkdir()

    with pytest.raises(ConfigurationError, match=r"journal/writer cannot be replayed \(Is a directory\): make it"):
        replay(tmp_path, database, log=heard)

    (path / "000001.seg").rmdir()
    assert counts(tmp_path, database, heard) == (1, 0, 0)


def test_a_long_replay_logs_its_progress(tmp_path: Path, database: Database, heard: Heard) -> None:
    small = frame("S", 1, settled(1))
    left_behind(tmp_path, {1: small * 15_000}, writer="a")
    left_behind(tmp_path, {1: small * 5_100}, writer="b")
    told: list[int] = []

    replay(tmp_path, Database(), log=heard, progress=told.append)

    assert [records // 1000 for records in told] == [10, 20]
    assert heard.events == []

    left_behind(tmp_path, {1: small * 10_000})
    replay(tmp_path, Database(), log=heard)
    assert heard.events == [("the usage journal is being replayed", {"records": 10_000})]


def test_a_torn_tail_costs_the_entry_that_was_being_written(tmp_path: Path, database: Database, heard: Heard) -> None:
    torn = frame("S", 9, settled(9))
    path = left_behind(tmp_path, {1: settled_frames(range(3)) + frame("I", 9, intent(9)) + torn[:-20]})

    assert counts(tmp_path, database, heard) == (1, 4, 1)

    assert database.numbers() == [0, 1, 2, 9]
    assert database.stored[request_id(9)].error_code == "gateway_crashed"
    [(event, fields)] = heard.events
    assert event == "the usage journal is damaged"
    assert (fields["file"], fields["bytes"]) == (str(path / "000001.seg"), len(torn) - 20)


@given(st.data())
@examples(0.6)
def test_any_damage_to_a_journal_costs_one_entry_at_most(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    data_dir, database = tmp_path_factory.mktemp("data"), Database()
    content = settled_frames(range(4))
    at = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    left_behind(data_dir, {1: bytes(damaged)})

    replay(data_dir, database, log=Heard())

    assert database.numbers() == [0, 1, 2, 3]
    assert sum(stored.outcome != "ok" for stored in database.stored.values()) <= 1


RECORDS = 12_000

SINK = """
import os, sqlite3, sys
from pathlib import Path
from llm_gateway.journal.replay import replay

database = sqlite3.connect(Path(sys.argv[1]) / "usage.db", isolation_level=None)
database.execute("PRAGMA journal_mode=WAL")
database.execute("CREATE TABLE IF NOT EXISTS records (id TEXT PRIMARY KEY, outcome TEXT)")
database.execute("CREATE TABLE IF NOT EXISTS total (count INTEGER)")

def sink(records):
    database.execute("BEGIN IMMEDIATE")
    before = database.total_changes
    database.executemany(
        "INSERT INTO records VALUES (?, ?) ON CONFLICT DO NOTHING", [(r.id, r.outcome) for r in records]
    )
    database.execute("INSERT INTO total VALUES (?)", (database.total_changes - before,))
    database.execute("COMMIT")
    print("stored", flush=True)

print("ready", flush=True)
replay(Path(sys.argv[1]), sink, log=lambda event, **fields: print(event, fields, file=sys.stderr))
print("done", flush=True)
"""


def start_replay(data_dir: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SINK, str(data_dir)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_replay_that_is_killed_and_run_again_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    for segment in range(4):
        numbers = range(segment * RECORDS // 4, (segment + 1) * RECORDS // 4)
        content = settled_frames(numbers) + frame("I", RECORDS + segment, intent(RECORDS + segment))
        left_behind(tmp_path, {segment + 1: content}, writer="a" if segment < 2 else "b")
    killed = 0
    for transactions in (0, 1, 0, 2, 1, 3):
        with start_replay(tmp_path) as process:
            assert process.stdout is not None
            for _ in range(transactions):
                process.stdout.readline()
            time.sleep(random.uniform(0, 0.005))
            process.send_signal(signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
    with start_replay(tmp_path) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()

    assert killed > 1
    assert (lines[-1], process.returncode) == ("done", 0)
    database = sqlite3.connect(tmp_path / "usage.db")
    found = database.execute("SELECT outcome, count(*) FROM records GROUP BY outcome ORDER BY outcome").fetchall()
    total = database.execute("SELECT sum(count) FROM total").fetchone()
    database.close()
    assert found == [("cancelled", 4), ("ok", RECORDS)]
    assert total == (RECORDS + 4,)
    assert list((tmp_path / "journal").iterdir()) == []
