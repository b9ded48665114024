"""The journal's format is promised (docs/VERSIONING.md): what a released version left is read by this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_gateway.domain.usage import Usage
from llm_gateway.journal.record_delivery import quarantine_file
from llm_gateway.journal.replay import replay
from tests.journal.samples import Database, Heard, left_behind


@pytest.mark.parametrize("version", ["0.1.0"])
def test_records_that_an_older_version_left_are_moved_to_the_database(tmp_path: Path, version: str) -> None:
    """The files were written by gateways of these versions: an answered request, and the intent of another one."""
    left_behind(tmp_path, {1: Path(__file__).with_name(f"journal-{version}.seg").read_bytes()})
    database = Database()

    report = replay(tmp_path, database, log=Heard())

    assert (report.records, report.abandoned) == (2, 1)
    answered, cut_off = sorted(database.stored.values(), key=lambda record: record.at_ms)
    assert (answered.user_id, answered.service, answered.provider) == ("alice", "shop", "trial")
    assert (answered.outcome, answered.usage) == ("ok", Usage(input_tokens=3, output_tokens=3))
    assert (cut_off.outcome, cut_off.usage) == ("cancelled", Usage(input_tokens=9, output_tokens=1000))
    assert not quarantine_file(tmp_path).exists()
