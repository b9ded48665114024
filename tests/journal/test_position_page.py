from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llm_gateway.data_dir import is_locked
from llm_gateway.journal.position_page import (
    PAGE_BYTES,
    PAGE_NAME,
    PageReader,
    PageUnreadable,
    PageWriter,
    WrittenPosition,
    create_page,
    load,
    map_page,
)
from tests.journal.samples import open_files


@pytest.fixture
def page(tmp_path: Path) -> PageWriter:
    create_page(tmp_path, 100_000)
    return PageWriter(tmp_path / PAGE_NAME, map_page(tmp_path / PAGE_NAME, writable=True))


@pytest.fixture
def reader(tmp_path: Path, page: PageWriter) -> PageReader:
    return PageReader(tmp_path)


def words(folder: Path) -> tuple[int, ...]:
    return struct.unpack("=6Q", (folder / PAGE_NAME).read_bytes()[8:56])


def test_a_new_page_is_at_the_start_of_the_first_segment(tmp_path: Path, reader: PageReader) -> None:
    assert reader.read() == (WrittenPosition(1, 0, 0), 0, False)
    assert reader.segment_bytes == 100_000
    assert (tmp_path / PAGE_NAME).stat().st_mode & 0o777 == 0o600


def test_the_layout_of_version_2_is_fixed(tmp_path: Path, page: PageWriter) -> None:
    page.publish(3, 70_000, 41, 42)

    content = (tmp_path / PAGE_NAME).read_bytes()
    assert len(content) == 4096
    assert content[:8] == b"llmgwpos"
    assert words(tmp_path) == (2, 100_000, 3 * 2**32 + 70_000, 41, 42, 0)
    assert content[56:] == bytes(4040)


def test_a_reader_sees_what_is_published(page: PageWriter, reader: PageReader) -> None:
    page.publish(2, 2**32 - 1, 7, 9)
    assert reader.read() == (WrittenPosition(2, 2**32 - 1, 7), 9, False)

    page.publish_counts(5, 8)
    assert reader.read() == (WrittenPosition(2, 2**32 - 1, 5), 8, False)

    page.close()
    assert reader.read() == (WrittenPosition(2, 2**32 - 1, 5), 8, True)


def test_the_position_is_stored_before_the_number_of_entries(tmp_path: Path) -> None:
    """And the number of entries is loaded before the position: it is never larger than what the position has."""
    order: list[tuple[str, int]] = []

    class Watched:
        def __getitem__(self, number: int, /) -> int:
            order.append(("load", number))
            return 0

        def __setitem__(self, number: int, value: int, /) -> None:
            order.append(("store", number))

        def release(self) -> None: ...

    (tmp_path / PAGE_NAME).touch()
    PageWriter(tmp_path / PAGE_NAME, Watched()).publish(1, 2, 3, 3)
    assert order == [("store", 3), ("store", 4), ("store", 5)]

    load(Watched())
    loads = [number for kind, number in order if kind == "load"]
    assert loads.index(4) < loads.index(3)


def test_more_entries_are_never_written_than_accepted(page: PageWriter, reader: PageReader) -> None:
    page.publish(1, 10, 7, 5)

    assert reader.read().appended == 7


PUBLISHER = """
import sys
from pathlib import Path
from llm_gateway.journal.position_page import PageWriter, map_page

page = PageWriter(Path(sys.argv[1]), map_page(Path(sys.argv[1]), writable=True))
print("ready", flush=True)
for round in range(100_000):
    page.publish(1, 2**32 - 1, 2 * round, 2 * round)
    page.publish(2**32 - 1, 0, 2 * round + 1, 2 * round + 1)
page.close()
"""


def test_another_process_never_reads_half_a_position(tmp_path: Path, reader: PageReader) -> None:
    command = [sys.executable, "-c", PUBLISHER, str(tmp_path / PAGE_NAME)]
    seen: set[tuple[int, int]] = set()
    entries = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while not (published := reader.read()).is_closed:
            seen.add(published.written[:2])
            assert published.written.entries >= entries
            entries = published.written.entries

    assert process.returncode == 0
    assert seen - {(1, 0)} == {(1, 2**32 - 1), (2**32 - 1, 0)}


def test_counts_of_a_page_that_is_gone_are_not_published(tmp_path: Path, page: PageWriter, reader: PageReader) -> None:
    (tmp_path / PAGE_NAME).unlink()

    page.publish_counts(1, 2)
    page.close()

    assert reader.read() == (WrittenPosition(1, 0, 0), 0, False)


def test_readers_learn_that_counts_could_not_be_published(tmp_path: Path, page: PageWriter) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / PAGE_NAME).hardlink_to(tmp_path / PAGE_NAME)
    (tmp_path / PAGE_NAME).unlink()  # so that it cannot be written
    reader = PageReader(other)
    assert not reader.is_behind()

    for entries in (3, 5):
        page.publish_counts(entries - 1, entries)
        assert reader.is_behind()
        assert reader.read().appended < entries
        page.publish(1, 100 * entries, entries, entries)
        assert not reader.is_behind()
        assert reader.read().appended == entries

    page.publish_counts(5, 6)
    page.close()
    assert not reader.is_behind()


def test_a_reader_that_looks_for_the_lock_does_not_keep_the_writer_from_it(tmp_path: Path, page: PageWriter) -> None:
    (tmp_path / "page").hardlink_to(tmp_path / PAGE_NAME)
    (tmp_path / PAGE_NAME).unlink()
    with (tmp_path / "page").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.002, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        page.publish_counts(0, 1)
        assert is_locked(tmp_path / "page")


def test_a_file_system_without_locks_ends_no_writer(
    tmp_path: Path, page: PageWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / PAGE_NAME).rename(tmp_path / "page")
    page.publish_counts(0, 1)
    (tmp_path / "page").rename(tmp_path / PAGE_NAME)
    page.publish(1, 100, 1, 1)
    assert PageReader(tmp_path).read().appended == 1


def test_closing_leaves_no_file_open(tmp_path: Path) -> None:
    descriptors = open_files()
    create_page(tmp_path, 100)
    page = PageWriter(tmp_path / PAGE_NAME, map_page(tmp_path / PAGE_NAME, writable=True))
    reader = PageReader(tmp_path)

    for _ in range(2):
        page.close()
        reader.close()

    assert open_files() == descriptors


def test_a_page_is_created_once(tmp_path: Path, page: PageWriter) -> None:
    with pytest.raises(FileExistsError):
        create_page(tmp_path, 100)


def test_a_segment_of_4_gib_is_refused(tmp_path: Path) -> None:
    create_page(tmp_path, 2**32 - 1)
    (tmp_path / PAGE_NAME).unlink()

    with pytest.raises(ValueError, match="smaller than 4 GiB"):
        create_page(tmp_path, 2**32)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"llmgwpos" + struct.pack("=Q", 3) + bytes(4080), "it has version 3, and this gateway reads versions 1 and 2"),
        (bytes(4096), "it does not begin with the signature of a page"),
        (b"llmgwpos", "it has 8 bytes instead of 4096"),
        (b"", "it has 0 bytes instead of 4096"),
        (bytes(PAGE_BYTES + 1), "it has 4097 bytes instead of 4096"),
    ],
)
def test_a_page_that_cannot_be_read_says_why(tmp_path: Path, content: bytes, reason: str) -> None:
    descriptors = open_files()
    (tmp_path / PAGE_NAME).write_bytes(content)

    with pytest.raises(PageUnreadable, match=f"^{reason}$"):
        PageReader(tmp_path)

    assert open_files() == descriptors
