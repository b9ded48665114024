"""Commands `audit …`: entries and failed authentications of a running gateway, and the check of stored entries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_gateway.store.audit import AuditTrail
from llm_gateway.store.audit_head import HeadFile
from llm_gateway.store.database import Database
from tests.cli.command import SetUp, call
from tests.e2e.process import write_migrated

Capsys = pytest.CaptureFixture[str]


def test_changes_and_failed_authentications_are_listed(capsys: Capsys, set_up: SetUp) -> None:
    assert call(capsys, "teams", "add", "audited").code == 0
    assert call(capsys, "teams", "remove", "audited").code == 0
    header, *rows = call(capsys, "audit", "list", "--resource", "audited", "--actor", "dev").rows
    shown = [[row[header.index(name)] for name in ("action", "name", "actor", "address")] for row in rows]
    assert shown == [[f"team.{verb}", "audited", "dev", "127.0.0.1"] for verb in ("delete", "create")]
    [newest] = call(capsys, "audit", "list", "--action", "team.delete", "--limit", "1", "--json").json
    assert newest["before"] == {"name": "audited", "description": ""}
    assert call(capsys, "audit", "list", "--to", "2026-01-01").rows == [header]
    assert (call(capsys, "audit", "list", "--limit", "0").code, call(capsys, "audit", "list", "--from", "x").code) == (
        2,
        1,
    )

    assert set_up.gateway.call("GET", "/api/v1/teams", key="wrong").status == 401
    header, *rows = call(capsys, "audit", "failures").rows
    assert (header, [row[0] for row in rows]) == (["address", "count", "last_at"], ["127.0.0.1"])
    assert call(capsys, "audit", "failures", "--json").json["other"] == 0


@pytest.fixture
def database() -> Iterator[Database]:
    """Make the database of the settings in the test's directory, with five entries."""
    write_migrated(Path("data/gateway.db"))
    database = Database.open("sqlite:///data/gateway.db", fsync=False)
    trail = AuditTrail(database, Path("data"), fsync=False)
    for number in range(5):
        with trail.change("team.create") as change:
            change.about(None, f"team {number}")
    yield database
    database.close()


def test_verify_names_what_is_wrong_and_exits_with_1(capsys: Capsys, database: Database) -> None:
    head = HeadFile(Path("data")).read()
    entries = f"Chain {head.chain}: 5 entries, the last is 5 {head.hash}\n"
    assert call(capsys, "audit", "verify") == (0, entries, "")
    found = call(capsys, "audit", "verify", "--json").json
    assert found["chains"] == [{"chain": head.chain, "entries": 5, "number": 5, "hash": head.hash}]
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE audit_entries SET resource_name = 'x' WHERE number = 2")
        connection.exec_driver_sql("DELETE FROM audit_entries WHERE number = 4")
    ended = call(capsys, "audit", "verify")
    assert (ended.code, ended.err) == (
        1,
        "llm-gateway: The audit trail was changed after it was written: the lines above say where.\n",
    )
    assert f"Chain {head.chain}: Entry 2 (team.create) was changed, or" in ended.out
    assert f"Chain {head.chain}: Entry 4 is missing." in ended.out
    HeadFile(Path("data")).path.write_text("nonsense")
    assert "audit.head is damaged: move it away" in call(capsys, "audit", "verify").out


def test_verify_accepts_gaps_only_on_demand(capsys: Capsys, database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM audit_entries WHERE number > 1")
        connection.exec_driver_sql(
            "UPDATE audit_chains SET number = 1, hash = (SELECT hash FROM audit_entries WHERE number = 1)"
        )
    with AuditTrail(database, Path("data"), fsync=False).change("team.create") as change:
        change.about(None, "later")
    ended = call(capsys, "audit", "verify")
    assert (ended.code, "add --accept-gaps" in ended.err) == (1, True)
    assert "Entry 2: the gateway found its own entries up to 5 replaced or missing" in ended.out
    assert call(capsys, "audit", "verify", "--accept-gaps").code == 0


def test_verify_needs_a_database_and_makes_none(capsys: Capsys) -> None:
    ended = call(capsys, "audit", "verify")
    assert (ended.code, "There is no database" in ended.sentence) == (78, True)
    assert not Path("data").exists()
    Database.open("sqlite:///data/gateway.db", fsync=False).migrate()
    assert call(capsys, "audit", "verify") == (0, "There are no entries.\n", "")
    assert not Path("data/audit.head").exists()
