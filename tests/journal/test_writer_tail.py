from __future__ import annotations

from collections.abc import Iterator

import pytest

from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.segments import WriterDir
from tests.journal.samples import Database, Heard, frame, intent, left_behind, open_files, settled, settled_frames
from tests.journal.shipping import Journal, LoneTail

ENDED = "a process ended without closing its usage journal: its records are stored"


@pytest.fixture
def tail(journal: Journal, database: Database, heard: Heard) -> Iterator[LoneTail]:
    tail = LoneTail(journal.directory.path, database, heard)
    yield tail
    tail.close()


def put(journal: Journal, content: bytes, *, at: int) -> None:
    """Write into the segment without publishing a position."""
    with journal.directory.segment(1).open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_nothing_beyond_the_published_position_is_read_while_the_writer_lives(
    journal: Journal, database: Database, heard: Heard, tail: LoneTail
) -> None:
    journal.append(settled_frames(range(2)))
    end = journal.written.offset
    put(journal, settled_frames(range(2, 4)) + b"half an entry", at=end)

    assert not tail.step()
    assert not tail.step()

    assert database.numbers() == [0, 1]
    assert heard.events == []
    assert tail.lag() == (0, 0.0)


def test_once_the_writer_is_gone_its_journal_is_read_to_the_end(
    journal: Journal, database: Database, heard: Heard, tail: LoneTail
) -> None:
    journal.append(settled_frames(range(2)))
    tail.step()
    put(journal, settled_frames(range(2, 4)) + frame("I", 9, intent(9)) + b"half an", at=journal.written.offset)

    journal.crash()
    assert not tail.step()

    assert tail.is_finished
    assert database.numbers() == [0, 1, 2, 3, 9]
    assert not journal.directory.path.exists()
    assert heard.names() == ["the usage journal is damaged", ENDED]
    assert heard.events[0][1]["bytes"] == 7
    assert heard.events[1][1] == {"level": "warning", "journal": "writer", "cut_off": 1}


def test_a_flipped_bit_before_the_published_position_is_damage(
    journal: Journal, database: Database, heard: Heard, tail: LoneTail
) -> None:
    journal.append(settled_frames(range(2)))
    put(journal, b"X", at=journal.written.offset - 3)

    tail.step()

    assert database.numbers() == [0]
    assert heard.names() == ["the usage journal is damaged"]
    assert journal.directory.path.with_name("writer-000001.seg.damaged").exists()


def test_a_closed_writer_is_taken_over_without_a_warning(
    journal: Journal, database: Database, heard: Heard, tail: LoneTail
) -> None:
    journal.append(settled_frames(range(2)))
    journal.close()

    assert not tail.step()

    assert (tail.is_finished, tail.is_complete()) == (True, True)
    assert database.numbers() == [0, 1]
    assert heard.events == []


def test_taking_over_goes_on_once_the_database_answers(
    journal: Journal, database: Database, heard: Heard, tail: LoneTail
) -> None:
    journal.append(settled_frames(range(2)) + frame("I", 9, intent(9)))
    journal.crash()
    database.before = [StoreUnavailable("gone")]
    database.after = [ValueError("a defect")]
    with pytest.raises(StoreUnavailable):
        tail.step()
    with pytest.raises(ValueError, match="a defect"):
        tail.step()
    with pytest.raises(BlockingIOError):  # the directory stays locked meanwhile
        WriterDir(journal.directory.path)
    tail.restart()
    database.after = [StoreUnavailable("gone")]
    with pytest.raises(StoreUnavailable):
        tail.step()
    assert journal.directory.path.exists()

    assert not tail.step()

    assert tail.is_finished
    assert database.numbers() == [0, 1, 9]
    assert database.stored[frame("I", 9, b"")[14:50].decode()].error_code == "gateway_crashed"


def test_a_backlog_of_a_writer_that_is_gone_is_shipped_batch_by_batch(
    journal: Journal, database: Database, tail: LoneTail
) -> None:
    for number in range(9):
        journal.append(b"".join(frame("S", n, settled(n)) for n in range(number * 500, number * 500 + 500)))
        journal.rotate()
    journal.crash()

    assert tail.step()
    assert not tail.is_finished
    assert not tail.has_shipped(1)
    assert tail.step()
    assert not tail.step()

    assert tail.has_shipped(1)
    assert len(database.stored) == 4500


def test_shipped_entries_are_counted_as_the_writer_published_them(
    journal: Journal, database: Database, tail: LoneTail
) -> None:
    journal.append(settled_frames(range(2)))
    journal.accept(2)
    assert (tail.appended(), tail.has_shipped(0), tail.has_shipped(1)) == (6, True, False)

    tail.step()

    assert [tail.has_shipped(entries) for entries in (4, 5, 6)] == [True, False, False]
    assert not tail.is_complete()
    journal.accept(-2)  # their requests were refused instead
    assert tail.has_shipped(6)
    tail.step()
    assert tail.is_complete()


def test_a_journal_is_incomplete_while_its_records_cannot_be_stored(
    journal: Journal, database: Database, tail: LoneTail
) -> None:
    assert not tail.is_complete()
    tail.step()
    assert tail.is_complete()
    journal.append(settled_frames(range(2)))
    database.before = [StoreUnavailable("gone"), StoreUnavailable("gone")]
    with pytest.raises(StoreUnavailable):
        tail.step()
    assert not tail.is_complete()
    journal.close()
    with pytest.raises(StoreUnavailable):
        tail.step()
    assert not tail.is_complete()

    tail.step()

    assert tail.is_complete()


def test_a_directory_of_a_gone_writer_needs_no_page(database: Database, heard: Heard, journal: Journal) -> None:
    path = left_behind(journal.root.parent, {1: settled_frames(range(3))}, writer="old")
    tail = LoneTail(path, database, heard)

    assert not tail.step()

    assert (tail.is_finished, tail.is_complete(), path.exists()) == (True, True, False)
    assert database.numbers() == [0, 1, 2]
    assert heard.events == []


def test_closing_leaves_no_file_open(journal: Journal, database: Database, heard: Heard) -> None:
    descriptors = open_files()
    tail = LoneTail(journal.directory.path, database, heard)
    journal.append(settled_frames(range(2)))
    tail.step()
    tail.close()
    tail.close()

    assert open_files() == descriptors


def test_no_more_is_read_than_there_is_room_for(journal: Journal, tail: LoneTail) -> None:
    for number in range(5):
        journal.append(b"".join(frame("S", n, settled(n)) for n in range(number * 500, number * 500 + 500)))
        journal.rotate()
    read = tail.read(1000)

    assert 1000 <= len(read) < 2000
    assert tail.advance()
    assert len(read) + len(tail.read(10_000)) == 2500
    assert not tail.advance()
