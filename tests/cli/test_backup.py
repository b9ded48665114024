"""Commands `backup`, `restore` and `compact`."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from llm_gateway.data_dir import DataDir
from llm_gateway.store.database import Database
from llm_gateway.store.migrations import HEAD
from llm_gateway.store.providers import ProviderDraft, ProviderStore
from llm_gateway.store.secrets import SecretBox
from llm_gateway.store.usage import UsageStore
from tests.cli.command import call, on_terminal
from tests.e2e.process import write_migrated
from tests.store.histories import NOW_MS, record

Capsys = pytest.CaptureFixture[str]
KEY = "ab" * 32


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide a database with a provider and a usage record in the settings' data directory."""
    monkeypatch.setenv("LLM_GATEWAY_ENCRYPTION_KEYS", KEY)
    write_migrated(Path("data/gateway.db"))
    database = Database.open("sqlite:///data/gateway.db", fsync=False)
    draft = ProviderDraft(name="acme", display_name="", kind="openai", api_key="sk-canary", models=("m",))
    ProviderStore(database, SecretBox([bytes.fromhex(KEY)])).create(draft)
    UsageStore(database).write([record(NOW_MS)])
    database.close()


HELD = {"version": HEAD, "providers": 1, "overrides": 0, "usage_records": 1, "newest_record": "2024-10-04T15:00:01Z"}


@pytest.mark.usefixtures("filled")
def test_a_backup_is_restored_elsewhere(capsys: Capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = call(capsys, "backup", "copy.db", "--json").json
    assert made == {**HELD, "file": str(tmp_path / "copy.db"), "bytes": Path("copy.db").stat().st_size}
    assert b"sk-canary" not in Path("copy.db").read_bytes()

    assert "add --replace" in call(capsys, "restore", "copy.db").sentence
    monkeypatch.setenv("LLM_GATEWAY_DATA_DIR", "other")
    assert call(capsys, "restore", "copy.db", "--json").json == {**HELD, "kept": None, "unreadable_keys": []}
    assert Path("other/gateway.db").stat().st_mode & 0o777 == 0o600

    monkeypatch.setenv("LLM_GATEWAY_ENCRYPTION_KEYS", secrets.token_hex(32))
    out = call(capsys, "restore", "copy.db", "--replace").out.splitlines()
    assert out[0] == (
        f"{tmp_path}/other/gateway.db holds 1 provider, 0 overrides and 1 usage record, "
        "the newest of 2024-10-04T15:00:01Z."
    )
    assert out[1].startswith(f"The former database is {tmp_path}/other/gateway.db.replaced-")
    assert out[2].startswith("The keys of these providers cannot be read with the present encryption keys: acme. Set ")


@pytest.mark.usefixtures("filled")
def test_a_terminal_shows_what_a_backup_lacks() -> None:
    ran = on_terminal("backup", "copy.db", LLM_GATEWAY_ENCRYPTION_KEYS=KEY, columns=400)
    assert ran.code == 0
    assert "copy.db holds 1 provider, 0 overrides and 1 usage record" in ran.out
    assert "The encryption keys (LLM_GATEWAY_ENCRYPTION_KEYS), the settings with the service keys" in ran.out
    assert KEY not in ran.out


def test_restoring_under_a_running_gateway_is_refused(capsys: Capsys) -> None:
    running = DataDir(Path("data"))
    ended = call(capsys, "restore", "copy.db")
    assert (ended.code, "Another gateway uses the data directory" in ended.sentence) == (78, True)
    running.close()


def test_what_does_not_exist_is_named(capsys: Capsys) -> None:
    assert "There is no database at" in call(capsys, "backup", "copy.db").sentence
    assert "There is no file copy.db" in call(capsys, "restore", "copy.db").sentence
    assert "There is no database at" in call(capsys, "compact").sentence
    assert not Path("copy.db").exists()


@pytest.mark.parametrize(
    ("command", "instead"),
    [(("backup", "f"), "pg_dump"), (("restore", "f"), "pg_restore"), (("compact",), "vacuumdb --full")],
)
def test_postgres_has_commands_of_its_own(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], instead: str
) -> None:
    monkeypatch.setenv("LLM_GATEWAY_DATABASE_URL", "postgresql://gateway:canary@db.example.com/gateway")
    ran = call(capsys, *command)
    assert (ran.code, "SQLite files only. On Postgres use: " + instead in ran.sentence) == (78, True)
    assert "canary" not in ran.err


@pytest.mark.usefixtures("filled")
def test_compacting_says_what_it_gained(capsys: Capsys, tmp_path: Path) -> None:
    done = call(capsys, "compact", "--json").json
    size = Path("data/gateway.db").stat().st_size
    assert (done["file"], done["bytes"]) == (f"{tmp_path}/data/gateway.db", size)
    assert done["bytes_before"] >= size
    assert call(capsys, "compact").out == f"{tmp_path}/data/gateway.db takes {size / 1e6:,.1f} MB now, 0.0 MB less.\n"
