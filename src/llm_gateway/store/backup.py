"""Backups of the SQLite database: copy it beside a running gateway, check a copy, put it back, and compact the file.

Everything here uses its own connections: a copy takes longer than `Database.read` allows.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.store import migrations
from llm_gateway.store.tables import compatibility

WAIT_S = 30.0
"""Maximum seconds of a wait for another writer's lock."""

SHORTEN_LOG = "PRAGMA wal_checkpoint(TRUNCATE)"
"""Write the write-ahead log to the database file, and empty it."""

MAGIC = b"SQLite format 3\0"
"""The first bytes of a SQLite file (sqlite.org/fileformat.html)."""

NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})
"""Error numbers of link(2) on a file system that has no hard links."""

PART_SIZE = 8 * 1024 * 1024
"""Bytes that `put_back` copies at a time."""


class Contents(NamedTuple):
    """Contents of a database: version of its tables, numbers of rows, time of the newest record in milliseconds UTC."""

    version: str
    providers: int
    overrides: int
    records: int
    newest_ms: int | None


def back_up(database: Path, target: Path, *, link: Callable[[Path, Path], None] = os.link) -> Contents:
    """Write a copy of the database, as it is at one moment, to a new file of mode 0600. Returns what the copy holds.

    Writers go on meanwhile. The copy has its name only when it is complete and checked (sqlite.org/lang_vacuum.html).
    `link` makes a hard link.

    Raises:
        ConfigurationError: the target exists or cannot be written, or the database is damaged.
        StoreUnavailable: the database does not answer.
    """
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    if target.exists():
        raise ConfigurationError(f"{target} exists already: choose another name for the backup.")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            with _explained(database), closing(_connect(database)) as connection:
                connection.execute("VACUUM INTO ?", (str(part),))
            contents = inspect(part)
            _keep(part)
            _name(part, target, link)
            _keep(target.parent)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The backup {target} cannot be written ({error.strerror}): free space, or choose another directory."
        ) from None
    return contents


def inspect(file: Path) -> Contents:
    """Check a backup completely, and return what it holds. Changes nothing, and leaves no file beside it.

    Raises:
        ConfigurationError: the file is missing, damaged, no backup, or of a newer version.
    """
    if not file.is_file():
        raise ConfigurationError(f"There is no file {file}: name a file that `llm-gateway backup` wrote.")
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise ConfigurationError(f"{file} is damaged ({damage}): use another backup.")
            version = _version(connection)
            return Contents(
                version,
                _one(connection, "SELECT COUNT(*) FROM providers"),
                _one(connection, "SELECT COUNT(*) FROM overrides"),
                _one(connection, "SELECT COUNT(*) FROM usage_records"),
                # The newest by id, which is a UUIDv7: no index has at_ms.
                _one(connection, "SELECT MAX(at_ms) FROM (SELECT at_ms FROM usage_records ORDER BY id DESC LIMIT 1)"),
            )
    except (sqlite3.Error, ValueError) as error:
        raise ConfigurationError(f"{file} is no database of the gateway ({error}): name one of its backups.") from None


def put_back(backup: Path, database: Path) -> Path | None:
    """Put a copy of the backup in the database's place. Returns where the former database is kept, None if none was.

    No gateway may run. A kill at any moment leaves the former database or the new one in place, never none.

    Raises:
        ConfigurationError: a file cannot be read or written.
    """
    part = database.with_name(f"{database.name}.part-{os.getpid()}")
    try:
        database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with backup.open("rb") as source, open(part, "xb", opener=_private) as copy:
                shutil.copyfileobj(source, copy, PART_SIZE)
            _keep(part)
            kept = _set_aside(database)
            part.replace(database)
            _keep(database.parent)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The database {database} cannot be replaced ({error.strerror}: {error.filename}): free space, or correct "
            "the permissions."
        ) from None
    return kept


def compact(
    database: Path,
    *,
    wait_s: float = WAIT_S,
    free_bytes: Callable[[Path], int] = lambda place: shutil.disk_usage(place).free,
) -> tuple[int, int]:
    """Rewrite the database file without the space of deleted rows. Returns its bytes before and after.

    Other writers wait meanwhile; readers do not. It takes up to twice the file's size on the same disk, of which
    `free_bytes` returns the free space. It waits `wait_s` seconds for another writer.

    Raises:
        ConfigurationError: the disk has too little space, or the database is damaged.
        StoreUnavailable: the database is locked by another process.
    """
    with _temporary_files_in(database.parent), _explained(database), closing(_connect(database, wait_s)) as connection:
        connection.execute(SHORTEN_LOG)
        before = database.stat().st_size
        needed, free = 2 * before, free_bytes(database.parent)
        if free < needed:
            raise ConfigurationError(
                f"Compacting {database} needs up to {needed / 1e6:,.0f} MB of free space on its disk, which has "
                f"{free / 1e6:,.0f} MB: free space first."
            )
        connection.execute("VACUUM")
        connection.execute(SHORTEN_LOG)
    return before, database.stat().st_size


def _connect(database: Path, wait_s: float = WAIT_S) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=wait_s, isolation_level=None)


@contextmanager
def _explained(database: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise StoreUnavailable(f"The database file {database} is locked by another process: try later.") from error
        if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            raise ConfigurationError(f"The copy cannot be written ({error}): free space on its disk.") from None
        raise ConfigurationError(
            f"The database file {database} cannot be copied ({error}): if it is damaged, restore a backup."
        ) from None


@contextmanager
def _temporary_files_in(directory: Path) -> Iterator[None]:
    """Let SQLite make its temporary files there: those of a large database may not fit on the disk of /tmp."""
    before = os.environ.get("SQLITE_TMPDIR")
    os.environ["SQLITE_TMPDIR"] = str(directory)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SQLITE_TMPDIR"]
        else:
            os.environ["SQLITE_TMPDIR"] = before


def _version(connection: sqlite3.Connection) -> str:
    """Return the version of the tables.

    Raises:
        ConfigurationError: this code cannot use tables of that version.
        ValueError: there is none.
    """
    found: list[tuple[str]] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    if len(found) != 1:
        raise ValueError("it does not say of which version")
    [(version,)] = found
    if version > migrations.HEAD:
        known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (compatibility.name,)).fetchone()
        query = f"SELECT oldest FROM {compatibility.name} WHERE oldest <= ?"  # noqa: S608 - the name is a constant
        if known and connection.execute(query, (migrations.HEAD,)).fetchone():
            return version
    migrations.refuse_newer(version)
    return version


def _name(part: Path, target: Path, link: Callable[[Path, Path], None]) -> None:
    """Give a finished file its name, without ever replacing a file that was made meanwhile.

    Raises:
        OSError: there is such a file, or the directory cannot be written.
    """
    try:
        link(part, target)
    except OSError as error:  # a file system without hard links, such as that of a USB stick
        if error.errno not in NO_LINKS:
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        part.replace(target)


def _one(connection: sqlite3.Connection, query: str) -> Any:
    """Return the only value that the query finds."""
    [(value,)] = connection.execute(query).fetchall()
    return value


def _set_aside(database: Path) -> Path | None:
    """Give the database a second name, and move its write-ahead log, which would damage another file, to that name."""
    if not database.exists():
        return None
    with database.open("rb") as file:
        is_sqlite = file.read(len(MAGIC)) == MAGIC
    if is_sqlite:  # else SQLite would delete the log
        with suppress(sqlite3.Error), closing(_connect(database)) as connection:
            connection.execute(SHORTEN_LOG)
    kept = database.with_name(f"{database.name}.replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    os.link(database, kept)
    for ending in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            database.with_name(database.name + ending).rename(kept.with_name(kept.name + ending))
    return kept


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _keep(path: Path) -> None:
    """Sync a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
