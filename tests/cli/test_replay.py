"""Command `usage replay`."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_gateway.data_dir import DataDir
from tests.cli.command import call


def test_replay_of_an_empty_journal_moves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "usage", "replay") == (0, "0 usage records were moved to the database.\n", "")
    assert call(capsys, "usage", "replay", "--json").json == {"records": 0}


def test_replay_beside_a_running_gateway_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    running = DataDir(Path("data"))
    ended = call(capsys, "usage", "replay")
    assert (ended.code, "Another gateway uses the data directory" in ended.sentence) == (78, True)
    running.close()
