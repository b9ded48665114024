"""Lock of the data directory, and messages about a directory that cannot be used."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llm_gateway.data_dir import DataDir
from llm_gateway.errors import ConfigurationError


def test_a_data_directory_is_made_with_mode_0700_and_locked(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    first = DataDir(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    with pytest.raises(ConfigurationError, match=r"Another gateway uses the data directory .*stop it"):
        DataDir(path)
    first.close()
    DataDir(path).close()


def test_draining_children_are_waited_for_and_a_running_gateway_is_not(tmp_path: Path) -> None:
    waits: list[str] = []
    first = DataDir(tmp_path)
    inherited = os.dup(first.shared_lock)
    with pytest.raises(ConfigurationError, match="Another gateway"):
        DataDir(tmp_path, wait_s=60, on_wait=lambda: waits.append("for a running gateway"))
    first.close()
    with pytest.raises(ConfigurationError, match="Another gateway"):
        DataDir(tmp_path, wait_s=0.01, on_wait=lambda: waits.append("too short"))
    DataDir(tmp_path, wait_s=60, on_wait=lambda: os.close(inherited)).close()
    assert waits == ["too short"]
    assert (tmp_path / "supervisor.lock").read_text() == f"{os.getpid()}\n"


def test_a_limit_of_file_sizes_is_reported(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from llm_gateway.data_dir import DataDir; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); DataDir(sys.argv[1])"
    )
    ran = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert f"The data directory {tmp_path} cannot be written (File too large): free space, or set LLM_" in ran.stderr


@pytest.mark.parametrize("name", ["file", "file/below", "nul\0", "n" * 300])
def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot be used \(.+\): set LLM_GATEWAY_DATA_DIR to a writable dir"):
        DataDir(tmp_path / name)
