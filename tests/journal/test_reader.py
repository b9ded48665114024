from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.journal.frames import encode_frame
from llm_gateway.journal.position_page import PAGE_NAME, PageWriter, create_page, map_page
from llm_gateway.journal.reader import SegmentReader
from llm_gateway.journal.segments import JournalDir, Position, WriterDir
from tests.journal.samples import frame, left_behind, locked, open_files, request_id, resealed


class Reading:
    """A segment reader and the damage that it reported."""

    def __init__(self, directory: WriterDir, chunk_bytes: int = 200) -> None:
        self.damage: list[tuple[str, int, int]] = []
        self.reader = SegmentReader(
            directory, lambda file, at, size: self.damage.append((file.name, at, size)), chunk_bytes=chunk_bytes
        )

    def numbers(self, limit: Position | None = None) -> list[int]:
        """Return the request numbers of all entries up to the limit."""
        found = []
        while entries := self.reader.read(limit):
            found += [int(entry.request_id[-12:]) for entry in entries]
        return found


def frames(*numbers: int, payload: bytes = b"{}") -> bytes:
    return b"".join(frame("S", number, payload) for number in numbers)


SIZE = len(frames(1))


def test_segments_are_read_in_order_to_their_ends(tmp_path: Path) -> None:
    directory = locked(tmp_path, {1: frames(1, 2, 3, 4, 5, 6, 7), 2: frames(8), 4: frames(9), 5: b""})
    reading = Reading(directory)

    assert reading.numbers() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert reading.damage == []
    assert reading.reader.position == Position(5, 1000)
    assert reading.numbers() == []


def test_entries_carry_their_byte_range_in_the_segment(tmp_path: Path) -> None:
    reading = Reading(locked(tmp_path, {1: frames(1, 2, 3, 4)}), chunk_bytes=SIZE * 2 + 5)

    first = reading.reader.read(None)
    assert [(entry.start, entry.end) for entry in first] == [(0, SIZE), (SIZE, 2 * SIZE)]
    assert reading.reader.position == Position(1, 2 * SIZE)

    second = reading.reader.read(None)
    assert [(entry.start, entry.end) for entry in second] == [(2 * SIZE, 3 * SIZE), (3 * SIZE, 4 * SIZE)]


def test_segments_of_a_running_writer_are_read_up_to_its_position(tmp_path: Path) -> None:
    reading = Reading(locked(tmp_path, {1: frames(1, 2), 2: frames(3, 4), 3: b""}))

    assert reading.numbers(Position(1, 0)) == []
    assert reading.numbers(Position(1, SIZE)) == [1]
    assert reading.reader.position == Position(1, SIZE)
    assert reading.numbers(Position(2, 0)) == [2]
    assert reading.reader.position == Position(2, 0)
    assert reading.numbers(Position(2, 2 * SIZE)) == [3, 4]
    assert reading.reader.position == Position(2, 2 * SIZE)


def test_reading_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    directory = locked(tmp_path, {2: frames(1, 2), 5: frames(3)})
    directory.keep_checkpoint(Position(2, SIZE))
    assert Reading(directory).numbers() == [2, 3]

    directory.keep_checkpoint(Position(3, SIZE))
    assert Reading(directory).reader.position == Position(5, 0)
    assert Reading(directory).numbers() == [3]


def test_an_entry_longer_than_a_chunk_is_read(tmp_path: Path) -> None:
    content = frames(1) + frames(2, payload=b"x" * 5000) + frames(3)

    assert Reading(locked(tmp_path, {1: content}), chunk_bytes=64).numbers() == [1, 2, 3]


def test_no_more_than_32_kib_is_read_at_a_time(tmp_path: Path) -> None:
    directory = locked(tmp_path, {1: frames(*range(2000))})
    reader = SegmentReader(directory, lambda *_: None)

    assert reader.read(None)[-1].end == 32 * 1024 // SIZE * SIZE
    assert reader.position == Position(1, 32 * 1024 // SIZE * SIZE)
    reader.close()


def test_an_empty_directory_has_no_entries(tmp_path: Path) -> None:
    assert Reading(locked(tmp_path, {})).numbers() == []
    assert Reading(locked(tmp_path / "other", {})).numbers(Position(1, 100)) == []


def test_a_segment_shorter_than_the_writers_position_is_read_to_its_end(tmp_path: Path) -> None:
    reading = Reading(locked(tmp_path, {1: frames(1)}, zeros=0))

    assert reading.numbers(Position(1, 5000)) == [1]


def test_damage_is_reported_with_its_place(tmp_path: Path) -> None:
    good = frames(1)
    reading = Reading(locked(tmp_path, {1: good + b"broken\n" + frames(2) + b"J2 torn"}))

    assert reading.numbers() == [1, 2]
    assert reading.damage == [("000001.seg", SIZE, 7), ("000001.seg", 2 * SIZE + 7, 7)]


def test_a_fully_damaged_segment_does_not_stop_the_reader(tmp_path: Path) -> None:
    reading = Reading(locked(tmp_path, {1: b"x\n" * 300, 2: frames(1)}))

    assert reading.numbers() == [1]
    assert sum(size for _, _, size in reading.damage) == 600


@pytest.mark.parametrize("after", [b"", b"x"])
def test_reserved_space_is_passed_over_and_what_follows_it_is_damage(tmp_path: Path, after: bytes) -> None:
    reading = Reading(locked(tmp_path, {1: frames(1) + bytes(200_000) + after, 2: frames(2)}, zeros=0))

    assert reading.numbers() == [1, 2]
    assert bool(reading.damage) is bool(after)


def test_an_entry_behind_reserved_space_is_read(tmp_path: Path) -> None:
    reading = Reading(locked(tmp_path, {1: frames(1) + bytes(200_000) + frames(2)}, zeros=0))

    assert reading.numbers() == [1, 2]


def test_closing_the_reader_closes_its_segment(tmp_path: Path) -> None:
    reading = Reading(locked(tmp_path, {1: frames(1), 2: frames(2)}))
    descriptors = open_files()
    reading.numbers()
    assert open_files() == descriptors + 1

    reading.reader.close()
    reading.reader.close()

    assert open_files() == descriptors


@given(st.lists(st.integers(0, 300), min_size=1, max_size=12), st.integers(1, 400), st.data())
def test_a_flipped_bit_costs_one_entry_with_any_chunk_size(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], chunk_bytes: int, data: st.DataObject
) -> None:
    lines = [encode_frame("S", request_id(number), b"x" * size) for number, size in enumerate(sizes)]
    content = bytearray(b"".join(lines))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    hit = next(n for n in range(len(lines)) if at < len(b"".join(lines[: n + 1])))
    directory = locked(tmp_path_factory.mktemp("data"), {1: bytes(content)})
    reading = Reading(directory, chunk_bytes)

    assert reading.numbers() == [number for number in range(len(sizes)) if number != hit]
    assert sum(size for _, _, size in reading.damage) == len(lines[hit])
    reading.reader.close()
    directory.close()


class BeginningDir(JournalDir):
    """The directory of a writer that creates its first segment, and the spare one, right after it was listed."""

    def segments(self) -> list[int]:
        found = super().segments()
        for number in (1, 2):
            self.segment(number).write_bytes(resealed(frames(number), number))
        return found


def test_the_first_segment_of_a_writer_that_has_just_begun_is_not_skipped(tmp_path: Path) -> None:
    reader = SegmentReader(BeginningDir(tmp_path), lambda file, at, size: None)

    assert [entry.request_id for entry in reader.read(Position(1, SIZE))] == [request_id(1)]


lives = st.lists(st.lists(st.integers(0, 200), min_size=1, max_size=8), min_size=1, max_size=4)


@given(lives, st.integers(0, 120), st.integers(30, 400), st.booleans())
def test_only_entries_of_the_last_life_of_a_file_are_read(
    tmp_path_factory: pytest.TempPathFactory, lives: list[list[int]], cut: int, chunk_bytes: int, has_page: bool
) -> None:
    """Each life writes entries of any size over the one before; the last is killed while it writes one more."""
    content, number, new = bytearray(2500), 0, b""
    for number, sizes in enumerate(lives, 1):
        new = b"".join(encode_frame("S", request_id(n), b"x" * size, number) for n, size in enumerate(sizes))
        content[: len(new)] = new
    torn = encode_frame("S", request_id(99), b"y" * 70, number)[:cut]
    before = bytes(content)
    content[len(new) : len(new) + len(torn)] = torn
    folder = left_behind(tmp_path_factory.mktemp("data"), {})
    (folder / "free").mkdir()
    (folder / f"{number:06d}.seg").write_bytes(content)
    if has_page:
        create_page(folder, len(content))
        PageWriter(folder / PAGE_NAME, map_page(folder / PAGE_NAME, writable=True)).publish(number, len(new), 0, 0)
    reading = Reading(WriterDir(folder), chunk_bytes)

    assert reading.numbers() == list(range(len(lives[-1])))

    is_told = len(torn) > 3 or (len(torn) == 3 and content != before)
    assert [place for _, place, _ in reading.damage] == ([len(new)] if is_told else [])
    reading.reader.close()


def test_an_entry_that_is_cut_off_within_its_checksum_is_told_in_a_file_that_was_written_before(tmp_path: Path) -> None:
    """The first digits of a checksum, such as those of 130e18b7, may be the number of an earlier segment."""
    whole = encode_frame("S", request_id(1), b"{}", 400)
    torn = [b"J2 130e18b7 S 0000"[:cut] for cut in range(4, 15)]
    for number, cut_off in enumerate(torn):
        folder = left_behind(tmp_path / str(number), {400: whole + cut_off + bytes(1000)})
        (folder / "free").mkdir()
        reading = Reading(WriterDir(folder), 100)

        assert reading.numbers() == [1], cut_off
        assert reading.damage[0][1:] == (len(whole), len(cut_off)), cut_off
        reading.reader.close()
