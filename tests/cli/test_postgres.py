"""Commands that work on the database itself, on a real Postgres."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from llm_gateway.store.database import Database
from llm_gateway.store.migrations import HEAD
from llm_gateway.store.providers import ProviderDraft, ProviderStore
from llm_gateway.store.secrets import SecretBox
from tests.cli.command import call
from tests.databases import PostgresDatabases
from tests.e2e.process import free_port

Capsys = pytest.CaptureFixture[str]
OLD, NEW = "ab" * 32, "cd" * 32


@pytest.fixture
def url(postgres: PostgresDatabases, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("LLM_GATEWAY_PORT", str(free_port()))
    with postgres.empty() as url:
        monkeypatch.setenv("LLM_GATEWAY_DATABASE_URL", url)
        yield url


def test_check_migrate_and_rekey_work_on_postgres(url: str, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"PostgreSQL has no tables yet; serve brings it to {HEAD}" in call(capsys, "check").out
    assert call(capsys, "migrate", "--json").json == {"version": HEAD}
    assert call(capsys, "migrate").out == "The database is up to date.\n"
    assert f"PostgreSQL is at version {HEAD}" in call(capsys, "check").out
    database = Database.open(url)
    draft = ProviderDraft(name="acme", display_name="", kind="openai", api_key="sk-canary", models=("m",))
    ProviderStore(database, SecretBox([bytes.fromhex(OLD)])).create(draft)
    database.close()
    monkeypatch.setenv("LLM_GATEWAY_ENCRYPTION_KEYS", f"{NEW},{OLD}")
    assert "all 1 stored provider keys open, 1 of them with an older key" in call(capsys, "check").out
    assert call(capsys, "rekey", "--json").json == {"rekeyed": 1, "rekeyed_alert_targets": 0}
    assert call(capsys, "reprice", "--since", "2026-01-01", "--json").code == 0


def test_a_database_or_server_that_does_not_exist_is_named(
    url: str, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    for broken, said in (
        (sa.make_url(url).set(database="nowhere"), 'database "nowhere" does not exist'),
        (sa.make_url(url).set(query={"host": "/nowhere"}), "No such file or directory"),
    ):
        monkeypatch.setenv("LLM_GATEWAY_DATABASE_URL", broken.render_as_string())
        ran = call(capsys, "check")
        assert ran.code == 1
        [line] = [line for line in ran.out.splitlines() if line.startswith("database\t")]
        assert "does not answer" in line
        assert said in line
