"""Lock of the data directory, and messages about a directory that cannot be used."""

from __future__ import annotations

import stat
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


@pytest.mark.parametrize("name", ["file", "file/below", "nul\0", "n" * 300])
def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot be used \(.+\): set LLM_GATEWAY_DATA_DIR to a writable dir"):
        DataDir(tmp_path / name)
