"""Lock of the data directory, and messages about a directory that cannot be used."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llm_gateway.data_dir import DataDir, is_locked
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
        DataDir(tmp_path, wait_s=0.5, on_wait=lambda: waits.append("too short"))
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


def test_a_directory_whose_lock_files_were_deleted_is_still_locked(tmp_path: Path) -> None:
    first = DataDir(tmp_path)
    assert is_locked(tmp_path)
    for file in tmp_path.glob("*.lock"):
        file.unlink()
    with pytest.raises(ConfigurationError, match="Another gateway uses the data directory"):
        DataDir(tmp_path)
    for descriptor in first.locks:
        assert not os.get_inheritable(descriptor)
    first.close()
    assert not is_locked(tmp_path)
    DataDir(tmp_path).close()


def test_a_supervisor_whose_code_before_locked_only_files_locks_the_directory(tmp_path: Path) -> None:
    own, shared = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("supervisor.lock", "gateway.lock"))
    fcntl.flock(own, fcntl.LOCK_EX)
    with pytest.raises(ConfigurationError, match="Another gateway"):  # the running gateway has the code before
        DataDir(tmp_path)
    assert not is_locked(tmp_path)
    taken_over = DataDir.inherited(str(tmp_path), [own, shared], None)
    assert is_locked(tmp_path)
    assert taken_over.directory_lock is not None
    again = DataDir.inherited(str(tmp_path), taken_over.locks, taken_over.directory_lock)
    assert again.directory_lock == taken_over.directory_lock
    again.close()
    assert not is_locked(tmp_path)


def test_a_look_at_the_lock_does_not_keep_a_gateway_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr("time.sleep", lambda _: os.close(looking))
    with_lock = DataDir(tmp_path)
    assert with_lock.directory_lock is not None
    with_lock.close()


def test_a_file_system_that_locks_only_files_is_used_without_the_lock_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_files(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(descriptor, operation)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", of_files)
    data_dir = DataDir(tmp_path)
    assert data_dir.directory_lock is None
    assert not is_locked(tmp_path)
    with pytest.raises(ConfigurationError, match="Another gateway"):
        DataDir(tmp_path)
    data_dir.close()
