"""Segments that are written again: what is stale is never read, and a crash at any step loses nothing."""

from __future__ import annotations

import os
import shutil
import threading
from collections import namedtuple
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.free_segments import MOST, SHORT_BYTES, FreeSegments
from llm_gateway.journal.replay import replay
from llm_gateway.journal.segments import FileSystem, WriterDir
from tests.journal.recycling import REQUEST_BYTES, SEGMENT_BYTES, Pair
from tests.journal.samples import Database, FailingFileSystem, Heard, intent, request_id, settled

Open = Callable[..., Pair]


@pytest.fixture
async def open_pair(tmp_path: Path) -> AsyncIterator[Open]:
    pairs: list[Pair] = []

    def open_(files: FileSystem | None = None, **options: object) -> Pair:
        pairs.append(Pair(tmp_path, files, **options))  # type: ignore[arg-type]
        return pairs[-1]

    yield open_
    for pair in pairs:
        await pair.close()


def blocks(pair: Pair) -> dict[int, tuple[int, int]]:
    """Return size and disk space of each segment's file, free ones included, by its inode."""
    paths = [*pair.directory.path.glob("*.seg"), *pair.directory.free.segments()]
    return {state.st_ino: (state.st_size, state.st_blocks) for state in (path.stat() for path in paths)}


async def test_in_steady_state_no_segment_is_made_or_filled_and_no_file_changes_its_size(open_pair: Open) -> None:
    files = FailingFileSystem()
    pair = open_pair(files, fsync="always")
    await pair.run(12)
    made, before, first = len(files.created), blocks(pair), len(files.writes)

    await pair.run(60)
    await pair.spare()

    assert len(files.created) == made <= 4
    assert len(files.reused) >= 20
    assert blocks(pair) == before
    assert sum(map(len, files.writes[first:])) == 60 * REQUEST_BYTES + 20 * 100  # each segment's rest, as zeros
    assert pair.database.numbers() == list(range(72))
    assert pair.heard.events == []


@pytest.mark.parametrize("requests", range(1, 22))
async def test_stale_entries_of_every_earlier_life_are_passed_over_after_a_crash(
    tmp_path: Path, open_pair: Open, requests: int
) -> None:
    """From nothing stale to a file in its fourth life; the crash hits each place of a segment."""
    pair = open_pair()
    await pair.run(requests - 1)
    await pair.ask()
    database, heard = crash(pair, tmp_path / "crashed")

    assert sorted({*pair.database.numbers(), *database.numbers()}) == list(range(requests))
    assert heard.events == []


def crash(pair: Pair, to: Path, change: Callable[[Path], None] = lambda _folder: None) -> tuple[Database, Heard]:
    """Copy the journal as a crash would leave it, and replay the copy. Returns what was stored and logged."""
    folder = to / "journal" / "writer"
    shutil.copytree(pair.directory.path, folder)
    change(folder)
    database, heard = Database(), Heard()
    replay(to, database, log=heard)
    shutil.rmtree(to)
    return database, heard


@pytest.mark.parametrize("cut", [1, 2, 3, 12, 13, 60])
@pytest.mark.parametrize("requests", [13, 14, 15])
async def test_an_entry_that_was_cut_off_over_a_stale_one_is_reported_and_not_read(
    tmp_path: Path, open_pair: Open, requests: int, cut: int
) -> None:
    """The last settle is cut. 3 bytes are the same in the stale entry at this place; if there is none, they tell."""
    pair = open_pair()
    await pair.run(requests)
    segment, offset, _ = _position(pair)
    stale = pair.directory.segment(segment).read_bytes()
    await pair.ask()
    number, end, _ = _position(pair)
    assert (number, end) == (segment, offset + REQUEST_BYTES) if requests % 3 else (segment + 1, REQUEST_BYTES)
    if requests % 3 == 0:
        offset, stale = 0, b""

    def tear(folder: Path) -> None:
        """As if the settle's write had been cut off, and the page not been reached."""
        path = folder / f"{number:06d}.seg"
        content = path.read_bytes()
        start = content.index(b"J2 ", offset + 1)
        new = content[start:end]
        old = stale[start:end] or bytes(len(new))
        path.write_bytes(content[:start] + new[:cut] + old[len(new[:cut]) :] + (stale[end:] or content[end:]))
        page = bytearray((folder / "position").read_bytes())
        page[24:32] = (number << 32 | start).to_bytes(8, "little")
        (folder / "position").write_bytes(page)

    database, heard = crash(pair, tmp_path / "crashed", tear)

    assert database.stored[request_id(requests)].error_code == "gateway_crashed"
    assert {*pair.database.numbers(), *database.numbers()} == set(range(requests + 1))
    changes = cut > 3 or (cut == 3 and not stale[offset:].startswith(b"J2 "))
    assert heard.names() == (["the usage journal is damaged"] if changes else [])


def _position(pair: Pair) -> tuple[int, int, int]:
    segments = pair.writer._segments
    return segments.number, segments.offset, pair.writer.appended


@pytest.mark.parametrize("where", ["last", "rotated"])
@pytest.mark.parametrize("at", [0, 5, 40, -1])
async def test_damage_of_a_last_entry_is_not_taken_for_something_stale(
    tmp_path: Path, open_pair: Open, where: str, at: int
) -> None:
    """The last entry of the current segment, and of the one before it."""
    pair = open_pair()
    await pair.run(12)
    await pair.ask(4)  # three of them fill a segment
    number, end, _ = _position(pair)
    if where == "rotated":
        number, end = number - 1, 3 * REQUEST_BYTES

    def flip(folder: Path) -> None:
        path = folder / f"{number:06d}.seg"
        content = bytearray(path.read_bytes())
        start = content.rindex(b"J2 ", 0, end)
        content[start + at if at >= 0 else end + at] ^= 1
        path.write_bytes(content)

    database, heard = crash(pair, tmp_path / "crashed", flip)

    assert {*pair.database.numbers(), *database.numbers()} == set(range(16))
    assert heard.names() == ["the usage journal is damaged"]
    assert sum(record.error_code == "gateway_crashed" for record in database.stored.values()) == 1


class Crashing(FileSystem):
    """A file system that calls `step` before and after each change of a file, one change at a time."""

    def __init__(self) -> None:
        self.step: Callable[[], None] = lambda: None
        self.turn = threading.Lock()

    def create(self, path: Path, size: int, *, durable: bool) -> int:
        with self.turn:
            fd = super().create(path, size, durable=durable)
            self.step()
            return fd

    def reuse(self, free: Path, path: Path, size: int, *, is_synced: bool) -> int:
        with self.turn:
            self.step()
            fd = super().reuse(free, path, size, is_synced=is_synced)
            self.step()
            return fd

    def write(self, fd: int, data: bytes, offset: int) -> int:
        with self.turn:
            written = super().write(fd, data[: len(data) // 2], offset)
            self.step()
            written += super().write(fd, data[written:], offset + written)
            self.step()
            return written


async def test_a_crash_at_any_step_of_a_segment_loses_and_repeats_nothing(tmp_path: Path, open_pair: Open) -> None:
    """Before and after each rename, in the middle of each write, before and after each look of the shipper."""
    files, copies = Crashing(), tmp_path / "copies"
    pair = open_pair(files)
    taken: list[tuple[Path, set[int], int]] = []

    def copy() -> None:
        folder = copies / str(len(taken))
        taken.append((folder, set(pair.database.numbers()), pair.asked))
        shutil.copytree(pair.directory.path, folder / "journal" / "writer")

    files.step = copy
    for _ in range(18):
        await pair.ask()
        with files.turn:
            pair.ship()
            copy()
    files.step = lambda: None

    for folder, stored, asked in taken:
        database, heard = Database(), Heard()
        replay(folder, database, log=heard)
        ok = {int(key[-12:]) for key, record in database.stored.items() if record.outcome == "ok"}
        assert stored | ok >= set(range(asked)), folder
        assert stored | set(database.numbers()) <= set(range(asked + 1)), folder
        assert set(heard.names()) <= {"the usage journal is damaged"}, folder  # an entry that was half written
    assert len(taken) > 100


async def test_a_segment_is_not_free_while_its_reader_or_an_open_request_needs_it(open_pair: Open) -> None:
    pair = open_pair()
    await pair.writer.intent(request_id(900), intent(900))
    await pair.run(5)
    assert pair.free() == []
    assert 1 in pair.directory.segments()

    pair.database.is_down = StoreUnavailable("gone")
    await pair.ask(6)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            pair.ship()
    assert pair.free() == []

    pair.database.is_down = None
    pair.writer.settle(request_id(900), settled(900))
    await pair.writer.durable()
    pair.ship()
    assert len(pair.free()) == MOST
    assert pair.database.numbers() == [*range(11), 900]


async def test_the_free_segments_of_a_backlog_are_bounded(open_pair: Open) -> None:
    pair = open_pair()
    await pair.ask(30)
    assert len(pair.directory.segments()) >= 10

    pair.ship()

    assert pair.free() == ["000001.seg", "000002.seg"]
    assert len(pair.directory.segments()) == 2  # the current one and its spare


async def test_a_segment_that_is_kept_as_evidence_is_never_written_again(open_pair: Open) -> None:
    pair = open_pair()
    await pair.ask(4)
    with pair.directory.segment(1).open("r+b") as file:
        file.seek(300)
        file.write(b"\xff")
    spoilt = pair.directory.segment(1).read_bytes()
    pair.ship()
    await pair.run(20)

    [kept] = pair.directory.path.parent.glob("*.damaged")
    assert kept.read_bytes() == spoilt
    assert kept.stat().st_nlink == 1
    assert pair.heard.names() == ["the usage journal is damaged"]


async def test_a_segment_with_a_second_name_or_another_size_is_not_used_again(open_pair: Open, tmp_path: Path) -> None:
    files = FailingFileSystem()
    pair = open_pair(files)
    await pair.spare()
    for number, content in ((1, bytes(SEGMENT_BYTES)), (2, b"short")):
        (pair.directory.free.path / f"00000{number}.seg").write_bytes(content)
    (tmp_path / "copy").hardlink_to(pair.directory.free.path / "000001.seg")

    await pair.ask(4)
    await pair.spare()

    assert files.reused == []
    assert pair.free() == []
    assert (tmp_path / "copy").read_bytes() == bytes(SEGMENT_BYTES)


async def test_after_a_failed_sync_no_segment_from_before_is_used_again(open_pair: Open) -> None:
    files = FailingFileSystem()
    pair = open_pair(files, fsync="always")
    await pair.run(7)
    reused = len(files.reused)
    files.fails["sync"] = 1

    await pair.run(9)
    await pair.spare()

    failed = max(int(new[:6]) for _, new in files.reused[:reused])
    assert "the usage journal cannot be synced" in pair.heard.names()
    assert all(int(old[:6]) > failed for old, _ in files.reused[reused + 1 :])
    assert pair.database.numbers() == list(range(16))


async def test_a_free_segment_that_cannot_be_moved_is_replaced_by_a_new_one(open_pair: Open) -> None:
    files = FailingFileSystem()
    pair = open_pair(files)
    await pair.run(6)
    files.fails["reuse"] = -1

    await pair.run(6)

    assert pair.database.numbers() == list(range(12))
    files.fails.clear()


@pytest.mark.parametrize(("fsync", "is_synced"), [("always", True), ("interval", True), ("off", False)])
async def test_the_move_of_a_free_segment_is_durable_if_entries_are(
    open_pair: Open, fsync: str, is_synced: bool
) -> None:
    moves: list[bool] = []

    class Moves(FileSystem):
        def reuse(self, free: Path, path: Path, size: int, *, is_synced: bool) -> int:
            moves.append(is_synced)
            return super().reuse(free, path, size, is_synced=is_synced)

    pair = open_pair(Moves(), fsync=fsync)
    await pair.run(9)
    await pair.spare()

    assert set(moves) == {is_synced}


Disk = namedtuple("Disk", ["f_bavail", "f_frsize"])


def test_no_segment_is_kept_while_the_disk_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = FreeSegments(tmp_path)
    free.path.mkdir()
    for number in (1, 2, 3):
        (tmp_path / f"00000{number}.seg").touch()
    assert free.add(tmp_path / "000001.seg")

    monkeypatch.setattr(os, "statvfs", lambda _path: Disk(SHORT_BYTES // 4096 - 1, 4096))
    assert not free.add(tmp_path / "000002.seg")
    assert free.segments() == []

    monkeypatch.setattr(os, "statvfs", lambda _path: Disk(SHORT_BYTES // 4096, 4096))
    assert free.add(tmp_path / "000003.seg")


async def test_while_the_database_lacks_space_free_segments_are_deleted(
    open_pair: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = open_pair()
    await pair.ask(12)
    pair.ship()
    assert len(pair.free()) == MOST
    pair.database.is_down = StoreUnavailable("disk full")
    await pair.ask()
    await pair.spare()
    with pytest.raises(StoreUnavailable):
        pair.ship()
    assert pair.free()

    monkeypatch.setattr(os, "statvfs", lambda _path: Disk(0, 4096))
    with pytest.raises(StoreUnavailable):
        pair.ship()

    assert pair.free() == []
    pair.database.is_down = None


async def test_a_directory_is_removed_with_its_free_segments(tmp_path: Path, open_pair: Open) -> None:
    pair = open_pair()
    await pair.run(12)
    assert pair.free()
    await pair.close()
    heard = Heard()

    replay(tmp_path, pair.database, log=heard)

    assert not pair.directory.path.exists()
    assert heard.events == []


def test_a_writer_without_the_folder_uses_no_segment_again(tmp_path: Path) -> None:
    directory = WriterDir.make(tmp_path / "journal" / "writer")
    directory.segment(1).touch()

    assert not directory.free.exists()
    assert not directory.free.add(directory.segment(1))
    directory.close()
