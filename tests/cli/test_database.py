"""Commands `migrate` and `rekey`: their effect on the database, and the databases they reject."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from llm_gateway.store.database import Database
from llm_gateway.store.migrations import HEAD
from llm_gateway.store.providers import ProviderStore
from llm_gateway.store.secrets import SecretBox, parse_keys
from tests.cli.command import Ran, SetUp, call, execute
from tests.e2e.process import GatewayProcess

Capsys = pytest.CaptureFixture[str]
OLD, NEW = secrets.token_hex(32), secrets.token_hex(32)
SETTING = "LLM_GATEWAY_ENCRYPTION_KEYS"


def stored_keys(directory: Path, keys: str) -> list[str]:
    """Return the vendors' keys, decrypted with these encryption keys."""
    database = Database.open(f"sqlite:///{directory / 'data' / 'gateway.db'}")
    try:
        store = ProviderStore(database, SecretBox(parse_keys(keys)))
        return [store.unseal(provider.id, sealed) for provider, sealed in store.load()]
    finally:
        database.close()


def test_migrate_creates_the_tables_and_can_be_repeated(capsys: Capsys) -> None:
    for _ in range(2):
        assert call(capsys, "migrate") == (0, "The database is up to date.\n", "")
    assert Path("data/gateway.db").stat().st_mode & 0o777 == 0o600
    assert call(capsys, "migrate", "--json").json == {"version": HEAD}


def test_a_damaged_database_is_reported(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("data").mkdir()
    Path("data/gateway.db").write_bytes(b"this is no database" * 1000)
    monkeypatch.setenv(SETTING, NEW)
    for arguments in (["migrate"], ["rekey"], ["usage", "replay"], ["reprice", "--since", "2026-01-01"]):
        ended = call(capsys, *arguments)
        assert ended.code == 78
        assert "database" in ended.sentence


def test_rekey_works_beside_a_running_gateway(tmp_path: Path, set_up: SetUp) -> None:
    def rekey(keys: str) -> Ran:
        return execute("rekey", **{SETTING: keys})

    url = set_up.vendor.base_url
    with GatewayProcess(tmp_path, encryption_keys=OLD) as gateway:
        gateway.provider("acme", url, api_key="sk-1")
        gateway.provider("zenith", url, api_key="sk-2")
    with GatewayProcess(tmp_path, encryption_keys=f"{NEW},{OLD}") as gateway:
        assert gateway.ask().status == 200
        refused = rekey(NEW)
        assert (refused.code, SETTING in refused.sentence) == (78, True)
        assert stored_keys(tmp_path, OLD) == ["sk-1", "sk-2"], "all or nothing"
        assert rekey(f"{NEW},{OLD}") == (0, "2 provider keys were encrypted anew with the first encryption key.\n", "")
        assert execute("rekey", "--json", **{SETTING: NEW}).json == {"rekeyed": 0, "rekeyed_alert_targets": 0}
        assert gateway.call("PATCH", gateway.provider("third", url), {"priority": 1}).status == 200
        assert gateway.ask().status == 200, "after the gateway read them again"
    assert stored_keys(tmp_path, NEW) == ["sk-1", "sk-2", "sk-test"]


def test_rekey_reads_keys_sealed_with_the_generated_key(tmp_path: Path, set_up: SetUp) -> None:
    with GatewayProcess(tmp_path) as gateway:
        gateway.provider("acme", set_up.vendor.base_url, api_key="sk-1")
    assert execute("rekey").out == "Every provider key is encrypted with the first encryption key already.\n"
    old = Path("data/encryption.key").read_text().strip()
    assert execute("rekey", **{SETTING: f"{NEW},{old}"}).code == 0
    assert stored_keys(tmp_path, NEW) == ["sk-1"]


def test_rekey_and_reprice_create_no_database_and_no_key(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = call(capsys, "rekey")
    assert (ended.code, SETTING in ended.sentence) == (78, True)
    monkeypatch.setenv(SETTING, NEW)
    for arguments in (["rekey"], ["reprice", "--since", "2026-01-01"]):
        ended = call(capsys, *arguments)
        assert (ended.code, "There is no database" in ended.sentence) == (78, True)
    assert not Path("data").exists()


def test_rekey_of_an_empty_database_requires_migrate(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, NEW)
    Path("data").mkdir()
    Path("data/gateway.db").touch()
    ended = call(capsys, "rekey")
    assert (ended.code, "llm-gateway migrate" in ended.sentence) == (78, True)
