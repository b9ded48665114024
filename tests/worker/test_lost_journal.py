"""A worker's journal that was deleted, moved away, or replaced by another directory."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from llm_gateway.journal.segments import WriterDir
from llm_gateway.worker import lost_journal
from llm_gateway.worker.lost_journal import is_replaced, wait_until_lost


@pytest.fixture
def journal(tmp_path: Path) -> WriterDir:
    return WriterDir.make(tmp_path / "journal" / "w")


async def is_lost(waiting: asyncio.Task[None], within_s: float = 0.3) -> bool:
    done, _ = await asyncio.wait([waiting], timeout=within_s)
    return bool(done)


async def test_a_journal_is_lost_once_another_directory_is_there_and_no_request_is_served(
    journal: WriterDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_journal, "LOOK_S", 0.01)
    in_flight = [1]
    waiting = asyncio.create_task(wait_until_lost(journal, lambda: in_flight[0], replaced_s=0.1))
    assert not await is_lost(waiting)
    shutil.rmtree(journal.path.parent)
    assert not await is_lost(waiting), "nobody has made the directory again"
    journal.path.parent.mkdir()
    assert not await is_lost(waiting), "a request is served"
    in_flight[0] = 0
    assert await is_lost(waiting, 5)


async def test_a_journal_that_comes_back_is_not_lost(
    journal: WriterDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_journal, "LOOK_S", 0.01)
    waiting = asyncio.create_task(wait_until_lost(journal, lambda: 0, replaced_s=0.2))
    for _ in range(3):  # as a mount that is away for a moment
        journal.path.parent.rename(tmp_path / "away")
        journal.path.parent.mkdir()
        assert is_replaced(journal)
        await asyncio.sleep(0.1)
        journal.path.parent.rmdir()
        (tmp_path / "away").rename(journal.path.parent)
        assert not is_replaced(journal)
        await asyncio.sleep(0.1)
    assert not await is_lost(waiting)
    waiting.cancel()


def test_another_file_system_in_its_place_does_not_make_a_journal_lost(journal: WriterDir, tmp_path: Path) -> None:
    journal.path.parent.rename(tmp_path / "away")
    assert not is_replaced(journal), "nothing is there"
    journal.path.parent.symlink_to("/proc", target_is_directory=True)
    assert not is_replaced(journal)
