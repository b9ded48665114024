from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from llm_gateway.journal.segment_writer import RETRY_S, SegmentWriter
from llm_gateway.journal.segments import FileSystem, WriterDir
from tests.journal.disk import ALWAYS
from tests.journal.samples import FailingFileSystem, Heard, until

SIZE = 1000
Begin = Callable[..., SegmentWriter]


class Durability(FailingFileSystem):
    """A file system that notes the `durable` argument of each segment."""

    def __init__(self) -> None:
        super().__init__()
        self.durable: list[bool] = []

    def create(self, path: Path, size: int, *, durable: bool) -> int:
        self.durable.append(durable)
        return super().create(path, size, durable=durable)


@pytest.fixture
def files() -> Durability:
    return Durability()


@pytest.fixture
def spares() -> list[int]:
    """Return a list of the number of segments each time a spare was allocated."""
    return []


@pytest.fixture
async def begin(tmp_path: Path, files: Durability, heard: Heard, spares: list[int]) -> AsyncIterator[Begin]:
    writers: list[SegmentWriter] = []

    def begin_(*, durable: bool = False) -> SegmentWriter:
        directory = WriterDir.make(tmp_path / "journal" / "writer")
        writers.append(
            SegmentWriter(
                directory, SIZE, files, durable=durable, log=heard, on_spare=lambda: spares.append(len(files.created))
            )
        )
        return writers[-1]

    yield begin_
    files.fails.clear()
    for writer in writers:
        await writer.close()
    assert files.open_fds == set()


@pytest.mark.parametrize("durable", [True, False])
async def test_a_spare_is_made_before_it_is_needed(
    begin: Begin, files: Durability, spares: list[int], durable: bool
) -> None:
    writer = begin(durable=durable)
    await until(lambda: spares == [2])

    assert files.created == ["000001.seg", "000002.seg"]
    assert files.durable == [durable, durable]
    assert (writer.number, writer.offset, writer.room, writer.has_failed) == (1, 0, SIZE, False)


async def test_rotating_continues_in_the_spare_segment(begin: Begin, files: Durability, spares: list[int]) -> None:
    writer = begin()
    await until(lambda: spares)
    writer.write(b"abc")
    writer.write(b"de")
    assert (writer.offset, writer.room) == (5, SIZE - 5)
    first = writer.fd

    assert writer.rotate() == first

    files.close(first)
    assert writer.fd != first
    assert (writer.number, writer.offset, writer.room) == (2, 0, SIZE)
    writer.write(b"f")
    paths = [path.read_bytes()[:6] for path in sorted(writer._directory.path.glob("*.seg"))]
    assert paths[:2] == [b"abcde\0", b"f\0\0\0\0\0"]
    await until(lambda: spares == [2, 3])


async def test_rotating_without_a_spare_fails(begin: Begin, files: Durability, heard: Heard, spares: list[int]) -> None:
    writer = begin()
    with pytest.raises(OSError, match="no space for another segment"):
        writer.rotate()
    assert writer.number == 1
    await until(lambda: spares)
    files.fails["create"] = ALWAYS
    files.close(writer.rotate())
    await until(lambda: writer.has_failed)
    with pytest.raises(OSError, match="no space for another segment"):
        writer.rotate()


async def test_allocating_a_spare_is_retried_until_there_is_space(
    begin: Begin, files: Durability, heard: Heard, spares: list[int]
) -> None:
    writer = begin()
    await until(lambda: spares)
    for _ in range(2):
        files.fails["create"] = 2
        files.close(writer.rotate())
        await until(lambda: writer.has_failed)
        count = len(spares)
        await until(lambda: len(spares) > count)  # noqa: B023 - called within this round
        assert files.fails["create"] == 0
        assert not writer.has_failed

    fields = {"level": "warning", "reason": "[Errno 28] No space left on device"}
    assert heard.events == 2 * [("no space for the usage journal's next segment", fields)]


async def test_closing_keeps_written_segments_and_deletes_the_spare(
    tmp_path: Path, files: Durability, heard: Heard, spares: list[int]
) -> None:
    directory = WriterDir.make(tmp_path / "journal" / "writer")
    writer = SegmentWriter(directory, SIZE, files, durable=False, log=heard, on_spare=lambda: spares.append(1))
    await until(lambda: spares)
    writer.write(b"abc")

    await writer.close()

    assert directory.segments() == [1]
    assert files.open_fds == set()


class Impatient(SegmentWriter):
    idle_s = 0.01


async def test_free_segments_are_deleted_when_no_spare_was_needed_for_a_while(
    tmp_path: Path, files: Durability, heard: Heard, spares: list[int]
) -> None:
    directory = WriterDir.make(tmp_path / "journal" / "writer")
    directory.free.path.mkdir()
    writer = Impatient(directory, SIZE, files, durable=False, log=heard, on_spare=lambda: spares.append(1))
    await until(lambda: spares)
    (directory.free.path / "000007.seg").touch()

    await until(lambda: directory.free.segments() == [])

    await writer.close()
    assert heard.events == []


async def test_no_spare_is_allocated_after_closing(tmp_path: Path, files: Durability, heard: Heard) -> None:
    """Whether allocating failed before `close` or fails during it."""
    for number, is_waited_for in enumerate((True, False)):
        files.fails.clear()
        directory = WriterDir.make(tmp_path / "journal" / f"writer-{number}")
        writer = SegmentWriter(
            directory, SIZE, FailsSecond(), durable=False, log=heard, on_spare=files.syncs_allowed.set
        )
        if is_waited_for:
            await until(lambda: writer.has_failed)  # noqa: B023 - called within this round
        await writer.close()
        made = len(directory.segments())
        await asyncio.sleep(RETRY_S + 0.1)
        assert len(directory.segments()) == made == 1


class FailsSecond(FileSystem):
    """A file system without space for the second segment at the first try."""

    def __init__(self) -> None:
        self._tries = 0

    def create(self, path: Path, size: int, *, durable: bool) -> int:
        self._tries += 1
        if self._tries == 2:
            raise OSError("no space")
        return super().create(path, size, durable=durable)
