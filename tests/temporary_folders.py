"""Temporary folders of a test run: in memory, where the system has enough of it.

A fifth of the suite's CPU time went into files on a disk. Runs at full length (`--long`) keep their files on the disk:
they measure it. The folders of tests that passed are deleted at once (`tmp_path_retention_policy`).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = "PYTEST_DEBUG_TEMPROOT"
"""Variable that names the root of pytest's temporary folders (docs.pytest.org, "Environment Variables")."""
IN_MEMORY = Path("/dev/shm")
"""Linux's file system in memory, shm_overview(7)."""
ROOM = 2 * 2**30
"""Bytes that must be free there, and available in memory; a run of the whole suite takes less than half of it."""


def keep_in_memory(config: pytest.Config) -> None:
    """Put the run's temporary folders into memory, unless they are put elsewhere, or the run measures the disk."""
    if config.getoption("--long") or config.option.basetemp or ROOT in os.environ or "TMPDIR" in os.environ:
        return
    if available_bytes() >= ROOM:
        os.environ[ROOT] = str(IN_MEMORY)


def available_bytes(folder: Path = IN_MEMORY, memory: Path = Path("/proc/meminfo")) -> int:
    """Return how many bytes of files the folder in memory can take; 0 if the system has none."""
    try:
        lines = dict(line.split(":") for line in memory.read_text().splitlines())
        return min(shutil.disk_usage(folder).free, int(lines["MemAvailable"].removesuffix("kB")) * 1024)
    except (OSError, KeyError):
        return 0


def open_to_others(folder: Path) -> None:
    """Let other users enter a temporary folder: it and those above it, which keep all other bits of their modes."""
    for each in (folder, *folder.parents):
        each.chmod(each.stat().st_mode | 0o055)
        if each.name.startswith("pytest-of-"):
            return
