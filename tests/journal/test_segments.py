from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from llm_gateway.journal.free_segments import FreeSegments
from llm_gateway.journal.record_delivery import QuarantineCount, taken_files
from llm_gateway.journal.segments import (
    START,
    FileSystem,
    JournalDir,
    Position,
    WriterDir,
    disk_bytes,
    find_hidden,
    find_writers,
    log_nothing,
)
from tests.journal.samples import open_files


@pytest.fixture
def directory(tmp_path: Path) -> WriterDir:
    return WriterDir.make(tmp_path / "journal" / "writer")


def test_a_directory_is_made_for_its_owner_only(directory: WriterDir) -> None:
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert (directory.path / "writer.lock").stat().st_mode & 0o777 == 0o600


def test_a_directory_is_locked_by_one_holder_at_a_time(directory: WriterDir) -> None:
    with pytest.raises(BlockingIOError):
        WriterDir(directory.path)

    directory.close()

    WriterDir(directory.path).close()


def test_failing_to_lock_a_directory_leaves_no_file_open(directory: WriterDir) -> None:
    descriptors = open_files()
    with pytest.raises(BlockingIOError):
        WriterDir(directory.path)

    assert open_files() == descriptors


def test_making_a_directory_makes_its_parents_and_keeps_only_the_lock_open(tmp_path: Path) -> None:
    descriptors = open_files()
    directory = WriterDir.make(tmp_path / "data" / "journal" / "writer")
    assert open_files() == descriptors + 1

    directory.close()
    assert open_files() == descriptors


def test_a_directory_appears_at_its_path_locked_and_filled(tmp_path: Path) -> None:
    root, seen = tmp_path / "journal", []

    def prepare(folder: Path) -> None:
        assert folder.parent == root
        assert find_writers(root) == []
        assert find_hidden(root) == [folder]
        with pytest.raises(BlockingIOError):
            WriterDir(folder)
        (folder / "file").touch()
        seen.append(folder.name)

    directory = WriterDir.make(root / "writer", prepare)

    assert seen == [".new-writer"]
    assert find_writers(root) == [directory.path] == [root / "writer"]
    assert find_hidden(root) == []
    assert (root / "writer" / "file").exists()
    with pytest.raises(BlockingIOError):
        WriterDir(root / "writer")


def test_a_directory_that_cannot_be_filled_is_deleted(tmp_path: Path) -> None:
    def prepare(folder: Path) -> None:
        (folder / "file").touch()
        raise OSError("no space")

    descriptors = open_files()
    with pytest.raises(OSError, match="no space"):
        WriterDir.make(tmp_path / "journal" / "writer", prepare)

    assert list((tmp_path / "journal").iterdir()) == []
    assert open_files() == descriptors


def test_writers_are_the_directories_without_a_dot(tmp_path: Path) -> None:
    assert find_writers(tmp_path / "journal") == []
    for name in ("b", "a", ".new-c", ".other"):
        (tmp_path / "journal" / name).mkdir(parents=True)
    (tmp_path / "journal" / "quarantine.jsonl").touch()

    assert [path.name for path in find_writers(tmp_path / "journal")] == ["a", "b"]
    assert [path.name for path in find_hidden(tmp_path / "journal")] == [".new-c"]
    assert find_writers(tmp_path / "journal" / "quarantine.jsonl") == []


def test_another_process_cannot_lock_the_directory(directory: WriterDir) -> None:
    code = f"import pathlib, llm_gateway.journal.segments as s; s.WriterDir(pathlib.Path({str(directory.path)!r}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "BlockingIOError" in run.stderr


def test_segments_are_listed_in_order(directory: WriterDir) -> None:
    for name in ("000010.seg", "000002.seg", "1000000.seg", "x.seg", "000001.txt"):
        (directory.path / name).touch()

    assert directory.segments() == [2, 10, 1000000]
    assert directory.segment(2) == directory.path / "000002.seg"


def test_a_folder_that_cannot_be_listed_does_not_look_empty(tmp_path: Path) -> None:
    missing, file = tmp_path / "missing", tmp_path / "file"
    file.touch()
    (tmp_path / "free").touch()
    assert (JournalDir(missing).segments(), FreeSegments(missing).segments()) == ([], [])
    assert taken_files(missing / "quarantine.jsonl") == []

    for listed in (JournalDir(file).segments, FreeSegments(tmp_path).segments, lambda: taken_files(file / "q.jsonl")):
        with pytest.raises(NotADirectoryError):
            listed()
    FreeSegments(tmp_path).clear()  # as far as possible
    assert QuarantineCount(file / "q.jsonl")() == 0


def test_a_stored_checkpoint_is_read_back(directory: WriterDir) -> None:
    assert directory.checkpoint() == START == Position(1, 0)

    directory.keep_checkpoint(Position(3, 17))

    assert directory.checkpoint() == Position(3, 17)
    assert (directory.path / "checkpoint").read_bytes() == b'{"segment":3,"offset":17}'
    assert sorted(file.name for file in directory.path.iterdir()) == ["checkpoint", "writer.lock"]


@pytest.mark.parametrize("content", ["", "{", "[1,2]", '{"segment":0,"offset":0}', '{"segment":1,"offset":-1}'])
def test_an_unreadable_checkpoint_means_the_start_of_the_journal(directory: WriterDir, content: str) -> None:
    (directory.path / "checkpoint").write_text(content)

    assert directory.checkpoint() == START


def test_removing_a_directory_deletes_all_its_files(directory: WriterDir) -> None:
    directory.segment(1).touch()
    descriptors = open_files()

    directory.remove()

    assert not directory.path.exists()
    assert open_files() == descriptors - 1


def test_a_directory_that_cannot_be_removed_is_unlocked(directory: WriterDir) -> None:
    (directory.path / "folder").mkdir()

    with pytest.raises(OSError, match="folder"):
        directory.remove()

    WriterDir(directory.path).close()


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("size", [5000, 2 * 1024 * 1024 + 1])
def test_a_new_segment_is_zeros_with_its_space_allocated(tmp_path: Path, size: int, durable: bool) -> None:
    fd = FileSystem().create(tmp_path / "file", size, durable=durable)

    try:
        assert os.fstat(fd).st_blocks * 512 >= size
        assert (tmp_path / "file").read_bytes() == bytes(size)
    finally:
        os.close(fd)


def written_bytes() -> int:
    """Return the number of bytes this process has written so far, to files and elsewhere (proc(5): wchar)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not say what was written")
@pytest.mark.parametrize("size", [5000, 2 * 1024 * 1024 + 1])
def test_the_zeros_of_a_durable_segment_are_written_once(tmp_path: Path, size: int) -> None:
    for durable, expected in ((True, size), (False, 0)):
        before = written_bytes()
        os.close(FileSystem().create(tmp_path / "file", size, durable=durable))
        assert written_bytes() - before == expected


def test_closing_closes_the_file_descriptor(tmp_path: Path) -> None:
    descriptors = open_files()
    fd = FileSystem().create(tmp_path / "file", 10, durable=False)
    assert open_files() == descriptors + 1

    FileSystem().close(fd)

    assert open_files() == descriptors


def test_a_segment_without_space_leaves_no_file_behind(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    descriptors = open_files()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            FileSystem().create(tmp_path / "file", 2000, durable=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert list(tmp_path.iterdir()) == []
    assert open_files() == descriptors


def test_the_disk_space_of_the_journal_counts_free_segments_too(tmp_path: Path) -> None:
    root = tmp_path / "journal"
    assert disk_bytes(root) == 0
    directory = WriterDir.make(root / "writer")
    directory.free.path.mkdir()
    for path in (directory.segment(3), directory.free.path / "000001.seg", root / "writer-000001.seg.damaged"):
        os.close(FileSystem().create(path, 40_960, durable=False))

    assert disk_bytes(root) == 3 * 40_960
    directory.close()


def test_log_nothing_takes_any_event_and_its_fields() -> None:
    log_nothing("anything", level="error", more=1)
