"""Commands that work on the database itself, on a real Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from llm_gateway.domain.key_secret import Pepper
from llm_gateway.store.database import Database
from llm_gateway.store.hosts import HostClaim, HostTable, SecretNames
from llm_gateway.store.lease_ledger import LeaseLedger
from llm_gateway.store.migrations import HEAD
from llm_gateway.store.peppers import names_of
from llm_gateway.store.providers import ProviderDraft, ProviderStore
from llm_gateway.store.secrets import SecretBox
from tests.cli.command import call
from tests.databases import PostgresDatabases
from tests.e2e.process import free_port

Capsys = pytest.CaptureFixture[str]
OLD, NEW = "ab" * 32, "cd" * 32
PEPPER = "0123456789abcdef" * 2
GONE = "01a2232b-fa4c-70e4-9d9e-0cb1e932eaac"


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


def test_check_reports_keys_that_other_hosts_do_not_have(
    postgres: PostgresDatabases, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_GATEWAY_PORT", str(free_port()))
    monkeypatch.setenv("LLM_GATEWAY_ENCRYPTION_KEYS", NEW)
    monkeypatch.setenv("LLM_GATEWAY_KEY_PEPPERS", f"1:{PEPPER}")
    with postgres.migrated() as url:
        monkeypatch.setenv("LLM_GATEWAY_DATABASE_URL", url)
        assert "other hosts\tok\tnone is running" in call(capsys, "check").out
        database = Database.open(url)
        names = SecretNames(SecretBox([bytes.fromhex(NEW)]).names, names_of([Pepper(1, PEPPER.encode())]))
        claim = HostClaim(id="other", name="b", version="1", tables=HEAD, run="r", place="p", secrets=names)
        HostTable(database).claim(claim)
        database.close()
        assert "other hosts\tok\t1 running, with keys that fit" in call(capsys, "check").out
        for setting, text in (("ENCRYPTION_KEYS", OLD), ("KEY_PEPPERS", f"2:{PEPPER}")):
            with monkeypatch.context() as changed:
                changed.setenv(f"LLM_GATEWAY_{setting}", text)
                ran = call(capsys, "check")
            assert ran.code == 1
            [line] = [line for line in ran.out.splitlines() if "\tfailed\t" in line]
            assert line.startswith("other hosts\tfailed\tThe host b on the same database uses another ")
            assert f"LLM_GATEWAY_{setting}" in line
        Path("data").mkdir()
        Path("data/host.id").write_bytes(b"\xff")
        assert "host.id holds no id: restore it" in call(capsys, "check").out
        Path("data/host.id").unlink()
        monkeypatch.delenv("LLM_GATEWAY_KEY_PEPPERS")
        assert "uses another pepper" in call(capsys, "check").out, "one would be generated"


def test_leases_of_a_host_that_is_gone_are_released(
    postgres: PostgresDatabases, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres.migrated() as url:
        monkeypatch.setenv("LLM_GATEWAY_DATABASE_URL", url)
        assert call(capsys, "leases", "list", "--json").json == []
        database = Database.open(url)
        ledgers = [LeaseLedger(database, host) for host in (GONE, "living")]
        for ledger in ledgers:
            ledger.join(is_new=True, is_leasing=False)
        ledgers[0].share([("account", 7, 1)])
        hosts = HostTable(database)
        for host, name in ((GONE, "machine-7"), ("living", "machine-1")):
            hosts.claim(HostClaim(id=host, name=name, version="1", tables=HEAD, run="r", place="p"))
        with database.write() as connection:
            connection.execute(sa.text("UPDATE hosts SET beat_at_ms = 1 WHERE name = 'machine-7'"))
        database.close()
        rows = call(capsys, "leases", "list").rows
        assert [row[:4] for row in rows[1:]] == [
            ["machine-7", "false", "leases", "1"],
            ["machine-1", "true", "leases", "0"],
        ]
        assert "was there a moment ago" in call(capsys, "leases", "release", "living").sentence
        assert "No host that uses budgets is called 'x'" in call(capsys, "leases", "release", "x").sentence
        freed = call(capsys, "leases", "release", "machine-7", "--yes")
        assert freed.out == "Released machine-7: 1 accounts have more room for the other hosts now.\n"
        assert [row[0] for row in call(capsys, "leases", "list").rows[1:]] == ["machine-1"]


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
