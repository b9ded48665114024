"""Commands `usage quarantined` and `usage reimport`."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_gateway.journal.record_delivery import Quarantine, quarantine_file
from llm_gateway.store.database import Database
from llm_gateway.store.usage import UsageStore
from tests.cli.command import call
from tests.journal.samples import Heard
from tests.store.histories import NOW_MS, record

Capsys = pytest.CaptureFixture[str]


def test_refused_records_are_listed_and_move_to_the_database(capsys: Capsys) -> None:
    elsewhere = call(capsys, "usage", "quarantined")
    assert (elsewhere.code, "There is no journal in" in elsewhere.sentence) == (78, True), "not: nothing was refused"
    assert "There is no database" in call(capsys, "usage", "reimport").sentence
    assert call(capsys, "migrate").code == 0
    file = quarantine_file(Path("data"))
    file.parent.mkdir()
    assert call(capsys, "usage", "quarantined") == (0, "request_id\tat\tuser_id\tservice\treason\n", "")
    refused = record(NOW_MS, user_id="ann\x1b[2J")
    Quarantine(file, Heard()).add(refused.id, "a value is out of range", record=refused)
    Quarantine(file, Heard()).add("x", "not JSON", payload="{")

    [_, first, second] = call(capsys, "usage", "quarantined").rows
    assert first == [refused.id, "2024-10-04T15:00:01.234+00:00", "ann\\u001b[2J", "s", "a value is out of range"]
    assert second == ["x", "", "", "", "not JSON"]
    assert call(capsys, "usage", "reimport", "--json").json == {"stored": 1, "refused": 0, "unreadable": 1}
    assert [row["request_id"] for row in call(capsys, "usage", "quarantined", "--json").json] == ["x"]
    assert call(capsys, "usage", "reimport").out.startswith(
        "0 usage records were stored, 0 were refused again.\n1 entries"
    )
    database = Database.open("sqlite:///data/gateway.db")
    assert UsageStore(database).summary(1, NOW_MS).requests == 1
    database.close()
