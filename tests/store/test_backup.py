"""Copies of the SQLite database: complete, checked, private, and put back without a moment that has no database."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.store.backup import back_up, compact, inspect, put_back
from llm_gateway.store.database import Database
from llm_gateway.store.migrations import HEAD
from llm_gateway.store.usage import UsageStore
from tests.store.histories import NOW_MS, record


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    return sqlite_database


def fill(database: Database, count: int, first: int = 0) -> None:
    UsageStore(database).write([record(NOW_MS + first + number) for number in range(count)])


def count(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        found: int = connection.execute("SELECT COUNT(*) FROM usage_records").fetchone()[0]
    return found


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_backup_holds_what_the_database_holds_and_only_its_owner_reads_it(
    database: Database, database_file: Path, tmp_path: Path
) -> None:
    fill(database, 3)
    target = tmp_path / "kept" / "copy.db"
    target.parent.mkdir()
    before = os.umask(0)
    try:
        held = back_up(database_file, target)
    finally:
        os.umask(before)
    assert (held.version, held.providers, held.overrides, held.records) == (HEAD, 0, 0, 3)
    assert held.newest_ms == record(NOW_MS + 2).at_ms
    assert target.stat().st_mode & 0o777 == 0o600
    assert names(target.parent) == {"copy.db"}
    assert inspect(target) == held
    assert names(target.parent) == {"copy.db"}, "to inspect it leaves nothing behind"


def test_writers_go_on_during_a_backup(database: Database, database_file: Path, tmp_path: Path) -> None:
    fill(database, 2000)
    written, stop = 2000, threading.Event()

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            fill(database, 100, first=written)
            written += 100

    writer = threading.Thread(target=write)
    writer.start()
    try:
        held = [back_up(database_file, tmp_path / f"{number}.db") for number in range(5)]
    finally:
        stop.set()
        writer.join()
    records = [each.records for each in held]
    assert records == sorted(records)
    assert all(number % 100 == 0 for number in records), "each is the state after a whole transaction"
    assert 2000 <= records[0] < written


def test_an_existing_file_is_never_replaced(database: Database, database_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_text("mine")
    with pytest.raises(ConfigurationError, match="exists already: choose another name"):
        back_up(database_file, target)
    assert target.read_text() == "mine"


def test_a_directory_that_does_not_exist_is_named(database: Database, database_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere/copy\.db cannot be written \(No such file or directory\)"):
        back_up(database_file, tmp_path / "nowhere" / "copy.db")


def test_a_damaged_database_makes_no_backup(database: Database, database_file: Path, tmp_path: Path) -> None:
    fill(database, 2000)
    database.close()
    with database_file.open("r+b") as file:
        file.seek(10 * 8192)
        file.write(b"\xff" * 8192 * 30)
    with pytest.raises(ConfigurationError, match="damaged"):
        back_up(database_file, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
    assert not list(tmp_path.glob("*.part-*"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no database of the gateway"),
        (b"SQLite format 3\0" + bytes(9000), "no database"),
        (b"x" * 99, "no database"),
    ],
)
def test_a_file_that_is_no_backup_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "other.db"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=says):
        inspect(file)
    with pytest.raises(ConfigurationError, match="There is no file"):
        inspect(tmp_path / "missing.db")


def test_a_backup_of_a_version_that_cannot_be_used_is_refused(database_file: Path) -> None:
    with closing(sqlite3.connect(database_file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert inspect(database_file).version == "9999", "it says that this version can use it, as the gateway does"
    with closing(sqlite3.connect(database_file)) as connection, connection:
        connection.execute("UPDATE compatibility SET oldest = '9998'")
    with pytest.raises(ConfigurationError, match="a newer llm-gateway made"):
        inspect(database_file)
    with closing(sqlite3.connect(database_file)) as connection, connection:
        connection.execute("DELETE FROM alembic_version")
    with pytest.raises(ConfigurationError, match=r"no database of the gateway \(it does not say of which version\)"):
        inspect(database_file)


def test_a_backup_can_go_to_a_file_system_without_hard_links(
    database: Database, database_file: Path, tmp_path: Path
) -> None:
    def no_link(_part: Path, _target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    target = tmp_path / "stick" / "copy.db"
    target.parent.mkdir()
    assert back_up(database_file, target, link=no_link) == inspect(target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert names(target.parent) == {"copy.db"}


def test_a_backup_takes_the_place_of_a_database_that_is_kept(
    database: Database, database_file: Path, tmp_path: Path
) -> None:
    fill(database, 1)
    copy = tmp_path / "copy.db"
    back_up(database_file, copy)
    fill(database, 5, first=1)  # in the write-ahead log, which must not meet the copy
    kept = put_back(copy, database_file)
    database.close()
    assert kept is not None
    assert (count(database_file), count(kept)) == (1, 6)
    assert database_file.stat().st_mode & 0o777 == 0o600
    assert put_back(copy, tmp_path / "new" / "gateway.db") is None
    assert count(tmp_path / "new" / "gateway.db") == 1


def test_a_damaged_database_is_kept_with_its_log(database: Database, database_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    back_up(database_file, copy)
    database.close()
    database_file.write_bytes(b"x" * 99)
    log = database_file.with_name(database_file.name + "-wal")
    log.write_bytes(b"y")
    kept = put_back(copy, database_file)
    assert kept is not None
    assert kept.read_bytes() == b"x" * 99
    assert kept.with_name(kept.name + "-wal").read_bytes() == b"y"
    assert not log.exists()
    assert count(database_file) == 0


def test_compacting_gives_the_space_of_deleted_rows_back(database: Database, database_file: Path) -> None:
    fill(database, 5000)
    UsageStore(database).prune(record(NOW_MS + 4900).at_ms, 100_000)
    before, after = compact(database_file)
    assert after == database_file.stat().st_size < before / 2
    database.close()
    assert inspect(database_file).records <= 101


def test_compacting_a_locked_database_says_so(database: Database, database_file: Path) -> None:
    with closing(sqlite3.connect(database_file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            compact(database_file, wait_s=0.05)


def test_compacting_needs_free_space(database_file: Path) -> None:
    needed = 2 * database_file.stat().st_size
    assert shutil.disk_usage(database_file.parent).free > needed
    with pytest.raises(ConfigurationError, match="free space first"):
        compact(database_file, free_bytes=lambda _place: needed - 1)
