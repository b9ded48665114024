"""Commands `hosts …` against a running gateway."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.cli.command import SetUp, call

Capsys = pytest.CaptureFixture[str]
IDS = [f"01890000-0000-7000-8000-00000000000{number}" for number in range(3)]


def test_hosts_that_are_gone_are_listed_and_removed(capsys: Capsys, set_up: SetUp) -> None:
    with closing(sqlite3.connect(set_up.gateway.directory / "data" / "gateway.db")) as database, database:
        for host_id, name in zip(IDS, ("one", "two", "two"), strict=True):
            database.execute("INSERT INTO hosts VALUES (?, ?, '1', '0016', 'r', 'p', '{}', 1, 1)", (host_id, name))
    hosts = call(capsys, "hosts", "list", "--json").json
    assert [(host["id"], host["is_living"]) for host in hosts[:3]] == [(each, False) for each in IDS]
    own = hosts[3]
    assert (own["is_own"], own["is_living"]) == (True, True)
    assert len(call(capsys, "hosts", "list").rows) == 5
    assert call(capsys, "hosts", "remove", "one").out == "Removed one.\n"
    for which, words in (
        ("one", "There is no host that is gone and named one"),
        ("two", "2 hosts that are gone are named two: see llm-gateway hosts list, and give the id"),
        (own["id"], "was there a moment ago: stop it"),
    ):
        assert words in call(capsys, "hosts", "remove", which).sentence, which
    for each in IDS[1:]:
        assert call(capsys, "hosts", "remove", each, "--json").json["id"] == each
    assert [host["id"] for host in call(capsys, "hosts", "list", "--json").json] == [own["id"]]
