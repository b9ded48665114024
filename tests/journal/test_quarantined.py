"""Records of the quarantine file: listed, offered to the database again, and never lost by either."""

from __future__ import annotations

import fcntl
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.journal.quarantined import Reimported, list_quarantined, reimport
from llm_gateway.journal.record_delivery import Quarantine, QuarantineCount, quarantine_file
from tests.journal.samples import Database, Heard, record, request_id
from tests.waiting import wait_until


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Provide a quarantine of the records 0 to 3, an entry that could not be decoded, and a damaged line."""
    path = quarantine_file(tmp_path)
    path.parent.mkdir()
    quarantine = Quarantine(path, Heard())
    for number in range(4):
        quarantine.add(request_id(number), "a value is out of range", record=record(number))
    quarantine.add("x", "not JSON", payload="{")
    with path.open("ab") as lines:
        lines.write(b'{"request_id": torn\n\n')
    return path


def ids(data_dir: Path) -> list[str]:
    return [found.request_id for found in list_quarantined(data_dir)]


FOUR = [request_id(number) for number in range(4)]


def test_every_line_is_listed(file: Path, tmp_path: Path) -> None:
    found = list(list_quarantined(tmp_path))
    assert [each.request_id for each in found] == [*FOUR, "x", ""]
    assert found[2].record == record(2)
    assert (found[4].reason, found[4].payload) == ("not JSON", "{")
    assert found[5].reason.startswith("The line cannot be read: JSON is malformed")
    assert found[5].payload == '{"request_id": torn'


def test_what_the_database_accepts_now_leaves_the_quarantine(file: Path, tmp_path: Path, database: Database) -> None:
    database.refused = {request_id(1)}
    done: list[int] = []
    assert reimport(tmp_path, database, done.append) == Reimported(stored=3, refused=1, unreadable=2)
    assert database.numbers() == [0, 2, 3]
    assert done == [1, 2, 3, 4, 5, 6]
    assert ids(tmp_path) == [request_id(1), "x", ""]
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    before = file.read_bytes()
    assert reimport(tmp_path, database) == Reimported(stored=0, refused=1, unreadable=2)
    assert file.read_bytes() == before, "a line that stays is kept as it is"


def test_a_database_that_is_away_loses_nothing(file: Path, tmp_path: Path, database: Database) -> None:
    database.refused = {request_id(0)}

    def sink(records: list[UsageRecord]) -> None:
        if records[0].id == request_id(2):
            raise StoreUnavailable("away", retry_after_s=1)
        database(records)

    with pytest.raises(StoreUnavailable):
        reimport(tmp_path, sink)
    assert ids(tmp_path) == [*FOUR[2:], "x", "", FOUR[0]], "what is done is not offered again"
    count = QuarantineCount(file)
    assert count() == 8, "blank lines included, until the reimport is finished"
    assert reimport(tmp_path, database) == Reimported(stored=2, refused=1, unreadable=2)
    assert count() == 3
    assert reimport(tmp_path, database) == Reimported(stored=0, refused=1, unreadable=2)
    assert database.numbers() == [1, 2, 3]


def test_a_line_that_a_gateway_writes_meanwhile_is_kept(file: Path, tmp_path: Path, database: Database) -> None:
    gateway = Quarantine(file, Heard())

    def sink(records: list[UsageRecord]) -> None:
        if records[0].id == request_id(0):
            gateway.add(request_id(9), "a value is out of range", record=record(9))
        database(records)

    assert reimport(tmp_path, sink).stored == 4
    assert ids(tmp_path) == [request_id(9), "x", ""]


def test_a_gateway_that_opened_the_file_before_it_was_renamed_writes_to_the_new_one(file: Path) -> None:
    """A gateway that gets the lock after the rename sees that the file has another name, and opens the new one."""

    def times_open() -> int:
        return sum(link.resolve() == file for link in Path("/proc/self/fd").iterdir())

    with ThreadPoolExecutor(1) as gateway:
        with file.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            adding = gateway.submit(Quarantine(file, Heard()).add, "late", "r", payload="p")
            wait_until(lambda: times_open() == 2)
            file.rename(file.with_name("quarantine-1.jsonl"))
        adding.result()
    assert [json.loads(line)["request_id"] for line in file.read_text().splitlines()] == ["late"]


def test_only_one_reimport_runs_at_a_time(file: Path, tmp_path: Path, database: Database) -> None:
    def sink(_records: list[UsageRecord]) -> None:
        with pytest.raises(ConfigurationError, match="Another reimport is running"):
            reimport(tmp_path, database)

    assert reimport(tmp_path, sink).stored == 4


def test_without_a_quarantine_there_is_nothing_to_do(tmp_path: Path, database: Database) -> None:
    assert ids(tmp_path) == []
    assert reimport(tmp_path, database) == Reimported(0, 0, 0)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, database: Database) -> None:
    quarantine_file(tmp_path).mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"quarantine\.jsonl cannot be read or written \(Is a directory\)"):
        ids(tmp_path)
