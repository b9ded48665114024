"""Failed starts of the gateway process: exit code, one sentence that says what to do, and undamaged data.

Errors in the settings alone are in tests/test_settings_checks.py.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.process import CommandProcess, GatewayProcess, free_port, until
from tests.fork_server import GATEWAY, USUAL, Surroundings, fork_server
from tests.upstream import UpstreamProcess

POWERLESS = Surroundings(privileged=False)
"""Privileges of a usual user: file modes and privileged ports apply, even to root."""
BLOCK_BYTES = 512
PASSWORD = "s3cr3t"
KEYS = ["ab" * 32, "cd" * 32]


@dataclass(frozen=True)
class Refusal:
    code: int
    sentence: str


def refused(directory: Path, surroundings: Surroundings = USUAL, **settings: object) -> Refusal:
    """Start the gateway in `directory` and assert that it ends by itself with one sentence."""
    values = {"local_model": "false", "port": free_port(), **settings}
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("LLM_GATEWAY_")}
    environment = kept | {f"LLM_GATEWAY_{name.upper()}": str(value) for name, value in values.items()}
    code, written, complaint = fork_server().run(GATEWAY, (), directory, environment, surroundings=surroundings)
    assert complaint.startswith("llm-gateway: "), complaint
    [sentence] = complaint.splitlines()
    assert sentence.endswith((".", "?"))
    assert "Traceback" not in written
    assert PASSWORD not in written + complaint
    return Refusal(code, sentence.removeprefix("llm-gateway: "))


def starts(directory: Path, **settings: object) -> None:
    """Assert that the gateway now starts in the directory and serves."""
    with GatewayProcess(directory, **settings) as gateway:
        gateway.provider("acme", "http://127.0.0.1:1/v1")
        assert gateway.summary()["total_requests"] == 0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


# The address


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a" * 300, "127.0.0.1 "])
def test_a_host_that_cannot_be_bound_is_reported(tmp_path: Path, host: str) -> None:
    refusal = refused(tmp_path, host=host, env="dev")
    assert refusal.code == 78
    assert refusal.sentence.endswith("set LLM_GATEWAY_HOST.")
    assert list(tmp_path.iterdir()) == [], "the address comes first, nothing is made before it"


def test_a_privileged_port_is_reported(tmp_path: Path) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        pytest.skip("everyone may have low ports here")
    refusal = refused(tmp_path, POWERLESS, port=80)
    assert (refusal.code, refusal.sentence) == (
        78,
        "Port 80 may not be opened by this user: set LLM_GATEWAY_PORT above 1023.",
    )


# The data directory


def test_a_data_directory_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        refusal = refused(tmp_path, data_dir=tmp_path / place)
        assert refusal.code == 78
        assert refusal.sentence.endswith("set LLM_GATEWAY_DATA_DIR to a writable directory.")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["locked", "locked/data"])
def test_a_data_directory_that_cannot_be_written_is_reported(tmp_path: Path, place: str) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    refusal = refused(tmp_path, POWERLESS, data_dir=tmp_path / place)
    assert refusal.code == 78
    assert "(Permission denied): set LLM_GATEWAY_DATA_DIR" in refusal.sentence
    assert list((tmp_path / "locked").iterdir()) == []


@pytest.mark.parametrize("blocks", [0, 39, 2000])
def test_a_file_size_limit_is_reported_at_start(tmp_path: Path, blocks: int) -> None:
    """Disk sizes at which the database's first write fails, then a later one, then the journal's (512-byte blocks)."""
    refusal = refused(tmp_path, Surroundings(file_size=blocks * BLOCK_BYTES))
    assert refusal.code == 78
    assert "cannot be written (" in refusal.sentence
    assert "): free space, or set LLM_GATEWAY_DATA" in refusal.sentence
    starts(tmp_path)


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small disk takes the right to mount one")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("size", ["4k", "64k", "1m"])
def test_a_full_disk_is_reported_at_start(tmp_path: Path, size: str) -> None:
    with small_disk(tmp_path / "disk", size) as disk:
        refusal = refused(tmp_path, data_dir=disk / "data")
        assert refusal.code == 78
        assert "cannot be written (" in refusal.sentence
        assert "free space" in refusal.sentence
        command = ["mount", "-o", "remount,size=64m", str(disk)]
        subprocess.run(command, check=True)
        starts(tmp_path, data_dir=disk / "data")


# Keys at rest


@pytest.mark.parametrize("content", [b"", b"short\n", b"\0" * 44, b"\xff\xfe" * 22])
def test_a_damaged_key_file_is_reported(tmp_path: Path, data: Path, content: bytes) -> None:
    (data / "encryption.key").write_bytes(content)
    refusal = refused(tmp_path)
    assert refusal.code == 78
    assert f"{data}/encryption.key is " in refusal.sentence
    assert "32 " in refusal.sentence
    assert (data / "encryption.key").read_bytes() == content, "it may be all that is left of the keys"


def test_another_encryption_key_disables_the_provider_until_its_key_is_set(
    tmp_path: Path, mock: UpstreamProcess
) -> None:
    """With another key the gateway starts, so that users who lost the old one can enter the provider's key again."""
    with GatewayProcess(tmp_path, encryption_keys=KEYS[0]) as gateway:
        path = gateway.provider("acme", mock.base_url)
        assert gateway.ask().status == 200
    with GatewayProcess(tmp_path, encryption_keys=KEYS[1]) as gateway:
        assert "provider cannot be used" in gateway.log
        assert "not in LLM_GATEWAY_ENCRYPTION_KEYS: add it there" in gateway.log
        answer = gateway.ask()
        assert (answer.status, answer.json["code"]) == (503, "no_provider")
        assert "the gateway's log says what is wrong" in answer.json["detail"]
        [health] = gateway.call("GET", "/api/v1/health/providers").json["providers"]
        assert (health["name"], health["is_enabled"]) == ("acme", False)
        assert gateway.call("PATCH", path, {"api_key": "sk-again"}).status == 200
        assert gateway.ask().status == 200
    assert [call.key for call in mock.seen().calls] == ["sk-test", "sk-again"]


# The database


def write_database(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def content(path: Path) -> list[str] | bytes | None:
    """Return the contents of a SQLite database, or the bytes of another file."""
    if not path.is_file():
        return None
    with contextlib.closing(sqlite3.connect(path)) as connection, contextlib.suppress(sqlite3.DatabaseError):
        return list(connection.iterdump())
    return path.read_bytes()


def newer(path: Path) -> None:
    write_database(path, "CREATE TABLE alembic_version(version_num)", "INSERT INTO alembic_version VALUES ('9999')")


def foreign(path: Path) -> None:
    write_database(path, "CREATE TABLE providers(of_water TEXT)")


UNFIT: list[tuple[Callable[[Path], object], str]] = [
    (newer, "at version '9999', which a newer llm-gateway made: install that version"),
    (foreign, "does not accept the gateway's tables (table providers already exists): set LLM_GATEWAY_DATABASE_URL"),
    (lambda path: path.write_text("Dear diary"), "is damaged or not a SQLite database: restore a backup, or set"),
    (Path.mkdir, "is not a writable file in a writable directory"),
]


@pytest.mark.parametrize(("make", "sentence"), UNFIT)
def test_an_unusable_database_is_reported_and_left_unchanged(
    tmp_path: Path, data: Path, make: Callable[[Path], object], sentence: str
) -> None:
    file = data / "gateway.db"
    make(file)
    before = content(file)
    refusal = refused(tmp_path)
    assert refusal.code == 78
    assert sentence in refusal.sentence
    assert content(file) == before


def test_a_database_that_cannot_be_written_is_reported(tmp_path: Path, data: Path) -> None:
    starts(tmp_path)
    (data / "gateway.db").chmod(0o400)
    refusal = refused(tmp_path, POWERLESS)
    assert refusal.code == 78
    assert "is not a writable file in a writable directory" in refusal.sentence


def test_a_database_locked_by_another_process_is_reported(tmp_path: Path, data: Path) -> None:
    with contextlib.closing(sqlite3.connect(data / "gateway.db")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        refusal = refused(tmp_path)
    assert refusal.code == 1, "it may be let go of: whoever restarts it may try again"
    assert "locked by another process" in refusal.sentence
    starts(tmp_path)


@pytest.mark.parametrize(
    "url", ["mysql://x", "sqlite://", "sqlite:///x?mode=ro", f"postgresql://u:{PASSWORD}@h:port/x"]
)
def test_an_invalid_database_url_is_reported(tmp_path: Path, url: str) -> None:
    refusal = refused(tmp_path, database_url=url)
    assert refusal.code == 78
    assert refusal.sentence == (
        "LLM_GATEWAY_DATABASE_URL must be sqlite:///path/to/file or postgresql://user@host/name."
    )


def test_an_unreachable_postgres_is_reported(tmp_path: Path) -> None:
    refusal = refused(tmp_path, database_url=f"postgresql://u:{PASSWORD}@127.0.0.1:{free_port()}/x")
    if importlib.util.find_spec("psycopg") is None:
        assert refusal.code == 78
        assert "driver is missing: install the package psycopg" in refusal.sentence
    else:
        assert refusal.code == 1
        assert refusal.sentence.startswith("Postgres on 127.0.0.1 does not answer (")
        assert refusal.sentence.endswith("start it, or set LLM_GATEWAY_DATABASE_URL.")


# The journal


def test_a_journal_that_is_a_file_is_reported(tmp_path: Path, data: Path) -> None:
    (data / "journal").write_text("mine")
    refusal = refused(tmp_path)
    assert refusal.code == 78
    assert f"The usage journal in {data}/journal cannot be written" in refusal.sentence
    assert (data / "journal").read_text() == "mine"


@pytest.mark.parametrize("place", ["journal", "journal/left"])
def test_a_journal_that_cannot_be_read_is_reported(tmp_path: Path, data: Path, place: str) -> None:
    (data / place).mkdir(parents=True)
    (data / place).chmod(0)
    refusal = refused(tmp_path, POWERLESS)
    assert refusal.code == 78
    assert f"The usage journal in {data}/{place} cannot be" in refusal.sentence


# Signals

SIGCGT_TERM = 1 << (signal.SIGTERM - 1)


def takes_signals(pid: int) -> bool:
    """Return True if the process has installed a handler for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    [caught] = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) & SIGCGT_TERM)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(("number", "steps"), [(signal.SIGTERM, range(0, 6, 2)), (signal.SIGINT, range(1, 6, 2))])
def test_a_signal_during_the_start_ends_it_cleanly(tmp_path: Path, number: signal.Signals, steps: range) -> None:
    """At any time the process ends without an error message, and the next one starts with its data."""
    for step in steps:
        gateway = CommandProcess(tmp_path)
        gateway.launch()
        pid = gateway.process.pid
        until(lambda pid=pid: takes_signals(pid))  # type: ignore[misc]
        time.sleep(step * 0.12)
        gateway.process.send_signal(number)
        assert gateway.ended() == 0
        assert "Traceback" not in gateway.log
    starts(tmp_path)
