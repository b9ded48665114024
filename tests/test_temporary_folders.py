"""Temporary folders of a test run: where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.temporary_folders import IN_MEMORY, ROOT, available_bytes, open_to_others


def test_folders_are_in_memory_in_runs_that_found_room_there(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    is_chosen = os.environ.get(ROOT) == str(IN_MEMORY) and not request.config.getoption("--long")
    assert tmp_path.is_relative_to(IN_MEMORY) == is_chosen


def test_room_is_what_both_the_file_system_and_the_memory_have(tmp_path: Path) -> None:
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal:       8000000 kB\nMemAvailable:         7 kB\n")
    assert available_bytes(tmp_path, memory) == 7 * 1024
    assert available_bytes(tmp_path / "no such folder", memory) == 0
    memory.write_text("MemTotal: 8000000 kB\n")
    assert available_bytes(tmp_path, memory) == 0
    assert available_bytes(tmp_path, tmp_path / "no such file") == 0


def test_a_folder_that_is_opened_to_others_leaves_those_above_the_run_as_they_are(tmp_path: Path) -> None:
    root = tmp_path / "root"
    folder = root / "pytest-of-me" / "test"
    folder.mkdir(parents=True)
    for each, mode in ((root, 0o700), (folder.parent, 0o1700), (folder, 0o700)):
        each.chmod(mode)
    open_to_others(folder)
    assert [each.stat().st_mode & 0o7777 for each in (root, folder.parent, folder)] == [0o700, 0o1755, 0o755]
