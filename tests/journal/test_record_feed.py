"""The record feed returns each record once, across ends of writers and of its own process, and holds back little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.journal.free_segments import SHORT_BYTES
from llm_gateway.journal.other_reader import MOST_HELD, NO_READER, SLACK, hold_from
from llm_gateway.journal.record_feed import RecordFeed, drop_feed, feed_in_use
from llm_gateway.journal.replay import replay
from llm_gateway.journal.segments import JournalDir, find_kept, find_writers
from llm_gateway.journal.shipper import Shipper
from tests.journal.samples import Database, Heard, frame, intent, left_behind, request_id, settled_frames
from tests.journal.shipping import Journal, until


def numbers(records: list[UsageRecord]) -> list[int]:
    return [int(record.id[-12:]) for record in records]


def read_all(feed: RecordFeed) -> list[int]:
    found: list[int] = []
    while records := feed.read(512):
        found += numbers(records)
        feed.confirm()
    feed.confirm()
    return found


@pytest.fixture
def feed(tmp_path: Path) -> Any:
    feed = RecordFeed(tmp_path)
    yield feed
    feed.close()


def test_each_record_is_returned_once_up_to_the_published_position(journal: Journal, feed: RecordFeed) -> None:
    journal.append(settled_frames(range(100)))
    assert read_all(feed) == list(range(100))
    assert read_all(feed) == []

    journal.rotate()
    journal.append(settled_frames(range(100, 105)))
    assert read_all(feed) == list(range(100, 105))
    assert feed.backlog_bytes == 0


def test_what_was_not_confirmed_is_returned_by_the_next_feed(journal: Journal, tmp_path: Path) -> None:
    journal.append(settled_frames(range(10)))
    first = RecordFeed(tmp_path)
    assert numbers(first.read(512)) == list(range(10))
    first.confirm()
    journal.append(settled_frames(range(10, 20)))
    assert numbers(first.read(512)) == list(range(10, 20))
    assert first.backlog_bytes == len(settled_frames(range(10, 20)))
    first.close()

    second = RecordFeed(tmp_path)
    assert numbers(second.read(512)) == list(range(10, 20))
    second.confirm()
    second.close()
    assert RecordFeed(tmp_path).read(512) == []


def test_a_request_open_at_a_restart_is_neither_lost_nor_are_those_after_it_returned_again(
    journal: Journal, tmp_path: Path
) -> None:
    journal.append(settled_frames(range(5)) + frame("I", 5, intent(5)) + settled_frames(range(6, 9)))
    first = RecordFeed(tmp_path)
    assert read_all(first) == [0, 1, 2, 3, 4, 6, 7, 8]
    first.close()

    second = RecordFeed(tmp_path)
    assert read_all(second) == []
    journal.append(settled_frames(range(9, 10)))
    assert read_all(second) == [9]
    journal.crash()
    replay(tmp_path, Database(), log=Heard(), other=second)

    [cut_off] = second.read(512)
    assert (cut_off.id, cut_off.error_code, cut_off.attempts[0].model) == (request_id(5), "gateway_crashed", "model-a")
    second.confirm()
    second.close()
    assert find_kept(tmp_path / "journal") == {}


def test_the_shipper_leaves_the_directory_of_a_writer_that_ended(
    journal: Journal, tmp_path: Path, feed: RecordFeed
) -> None:
    database = Database()
    shipper = Shipper(journal.root, database, log=Heard(), other=feed)
    journal.append(settled_frames(range(20)))
    assert numbers(feed.read(10)) == list(range(20))  # in the middle of a file that is renamed
    journal.append(settled_frames(range(20, 30)))
    journal.close()
    shipper.start()
    until(lambda: not find_writers(journal.root))

    assert len(database.stored) == 30
    assert list(find_kept(journal.root)) == ["writer"]
    assert feed.backlog_bytes > 0
    assert read_all(feed) == list(range(20, 30))
    assert find_kept(journal.root) == {}
    shipper.stop()


def test_a_replay_at_the_start_leaves_what_was_not_read(tmp_path: Path, feed: RecordFeed) -> None:
    left_behind(tmp_path, {1: settled_frames(range(3)), 2: settled_frames(range(3, 5)) + frame("I", 5, intent(5))})
    replay(tmp_path, Database(), log=Heard(), other=feed)
    assert read_all(feed) == [0, 1, 2, 3, 4, 5]
    assert [*(tmp_path / "journal").iterdir()] == []


def test_entries_that_a_writer_wrote_twice_are_returned_once(journal: Journal, feed: RecordFeed) -> None:
    journal.append(settled_frames(range(4)))
    journal.rotate()
    journal.append(settled_frames(range(2, 6)))
    assert read_all(feed) == [0, 1, 2, 3, 4, 5]


def test_the_shipper_keeps_segments_that_are_not_confirmed(journal: Journal, feed: RecordFeed) -> None:
    shipper = Shipper(journal.root, Database(), log=Heard(), other=feed)
    shipper.start()
    for number in range(3):
        journal.append(settled_frames(range(number, number + 1)))
        journal.rotate()
    assert shipper.flush(5)
    assert journal.directory.segments() == [1, 2, 3, 4]

    feed.read(512)
    assert shipper.flush(5)
    assert journal.directory.segments() == [1, 2, 3, 4]
    feed.confirm()
    until(lambda: journal.directory.segments() in ([4], [3, 4]))  # its last look may be before the rotation
    shipper.stop()


def test_what_lies_too_far_behind_is_lost_and_counted(journal: Journal, tmp_path: Path) -> None:
    feed = RecordFeed(tmp_path, most_held=2)
    journal.append(settled_frames(range(4)))
    assert numbers(feed.read(4)) == [0, 1, 2, 3]  # in memory, not confirmed: not lost
    for number in range(4, 9):
        journal.append(settled_frames(range(number, number + 1)))
        journal.rotate()

    assert feed.skip_excess() == 3
    assert feed.skip_excess() == 0
    assert (feed.lost_records, feed.first_needed("writer")) == (3, 4)
    assert read_all(feed) == [7, 8]
    feed.close()


def test_a_directory_stays_until_what_was_read_of_it_is_confirmed(journal: Journal, tmp_path: Path) -> None:
    left_behind(tmp_path, {1: settled_frames(range(100, 103))}, writer="ended")
    feed = RecordFeed(tmp_path, most_held=1)
    replay(tmp_path, Database(), log=Heard(), other=feed)
    assert numbers(feed.read(512)) == [100, 101, 102]
    for number in range(3):
        journal.append(settled_frames(range(number, number + 1)))
        journal.rotate()
    assert feed.skip_excess() == 2
    assert list(find_kept(journal.root)) == ["ended"]
    feed.close()

    second = RecordFeed(tmp_path)
    assert sorted(numbers(second.read(512))) == [2, 100, 101, 102]
    second.confirm()
    assert find_kept(journal.root) == {}
    second.close()


def test_on_a_full_disk_nothing_is_held_back(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = RecordFeed(tmp_path)
    journal.append(settled_frames(range(2)))
    journal.rotate()
    journal.append(settled_frames(range(2, 4)))
    assert feed.skip_excess() == 0
    monkeypatch.setattr("os.statvfs", lambda _path: type("Disk", (), {"f_bavail": 0, "f_frsize": 1})())
    assert feed.skip_excess() == 2
    assert read_all(feed) == [2, 3]
    feed.close()


def test_a_full_disk_gets_the_space_of_what_is_done(journal: Journal, tmp_path: Path) -> None:
    left_behind(tmp_path, {1: settled_frames(range(2))}, writer="done")
    feed = RecordFeed(tmp_path)
    replay(tmp_path, Database(), log=Heard(), other=feed)
    journal.append(settled_frames(range(2, 4)))
    assert sorted(numbers(feed.read(512))) == [0, 1, 2, 3]
    (tmp_path / "feed.new").symlink_to("/dev/full")

    with pytest.raises(OSError, match="space"):
        feed.confirm()
    assert find_kept(journal.root) == {}
    (tmp_path / "feed.new").unlink()
    assert read_all(feed) == []
    feed.close()
    assert RecordFeed(tmp_path).read(512) == []


def test_a_directory_that_cannot_be_deleted_is_not_read_again(tmp_path: Path, feed: RecordFeed) -> None:
    left_behind(tmp_path, {1: settled_frames(range(2))}, writer="stays")
    replay(tmp_path, Database(), log=Heard(), other=feed)
    kept = tmp_path / "journal" / ".kept-stays"
    (kept / "0").mkdir()  # in the way of deleting what comes after it
    assert numbers(feed.read(512)) == [0, 1]
    feed.confirm()
    assert find_kept(tmp_path / "journal") == {"stays": kept}
    assert (feed.read(512), RecordFeed(tmp_path).read(512)) == ([], [])
    (kept / "0").rmdir()
    feed.confirm()
    assert find_kept(tmp_path / "journal") == {}


def test_an_open_request_holds_back_no_more_than_that(journal: Journal, tmp_path: Path) -> None:
    feed = RecordFeed(tmp_path, most_held=2)
    journal.append(frame("I", 0, intent(0)))
    for number in range(1, 6):
        journal.append(settled_frames(range(number, number + 1)))
        journal.rotate()
    assert read_all(feed) == [1, 2, 3, 4, 5]
    assert feed.first_needed("writer") == 1

    assert feed.skip_excess() == 0
    assert feed.first_needed("writer") == 4
    journal.append(frame("S", 0, settled_frames(range(1)).split(b"\n")[1][51:]))
    assert read_all(feed) == [0]
    feed.close()


def test_of_writers_that_ended_the_oldest_are_lost(tmp_path: Path) -> None:
    for writer in range(4):
        left_behind(tmp_path, {1: settled_frames(range(writer, writer + 1))}, writer=f"w{writer}")
    feed = RecordFeed(tmp_path, most_held=2)
    replay(tmp_path, Database(), log=Heard(), other=feed)

    assert feed.skip_excess() == 2
    assert sorted(find_kept(tmp_path / "journal")) == ["w2", "w3"]
    assert sorted(read_all(feed)) == [2, 3]
    feed.close()


def test_the_shipper_holds_back_a_set_number_of_segments_and_none_on_a_full_disk(
    tmp_path: Path, feed: RecordFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = JournalDir(tmp_path / "journal" / "writer")
    (directory.path / "free").mkdir(parents=True)
    free = type("Disk", (), {"f_bavail": SHORT_BYTES, "f_frsize": 1})()
    monkeypatch.setattr("os.statvfs", lambda _path: free)

    assert hold_from(feed, directory, 3) == 1
    assert hold_from(feed, directory, 100) == 100 - MOST_HELD - SLACK
    assert hold_from(NO_READER, directory, 100) == 100
    free.f_bavail -= 1
    assert hold_from(feed, directory, 100) == 100


@pytest.mark.parametrize("content", [b"", b"{", b'{"w": 1}', b'{"w": {"done": [1]}}'])
def test_positions_that_cannot_be_read_are_as_none(journal: Journal, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "feed.positions").write_bytes(content)
    journal.append(settled_frames(range(2)))
    feed = RecordFeed(tmp_path)
    assert read_all(feed) == [0, 1]
    feed.close()


def test_a_replay_without_a_gateway_keeps_what_its_feed_needs(tmp_path: Path) -> None:
    assert feed_in_use(tmp_path) is NO_READER
    left_behind(tmp_path, {1: settled_frames(range(3))})
    (tmp_path / "feed.positions").write_bytes(b"{}")
    replay(tmp_path, Database(), log=Heard(), other=feed_in_use(tmp_path))
    feed = RecordFeed(tmp_path)
    assert read_all(feed) == [0, 1, 2]
    feed.close()


def test_what_is_kept_is_dropped_without_a_feed(tmp_path: Path, feed: RecordFeed) -> None:
    left_behind(tmp_path, {1: settled_frames(range(3))})
    replay(tmp_path, Database(), log=Heard(), other=feed)
    feed.confirm()
    assert drop_feed(tmp_path) == 1
    assert drop_feed(tmp_path) == 0
    assert [*tmp_path.rglob("*")] == [tmp_path / "journal"]


def broken_journal(tmp_path: Path, writer: str) -> Path:
    """Put a link to itself in the place of the first segment of a writer that ended. Returns its path."""
    segment = JournalDir(tmp_path / "journal" / f".kept-{writer}").segment(1)
    segment.rename(segment.with_suffix(".away"))
    segment.symlink_to(segment)
    return segment


def test_a_journal_that_cannot_be_read_costs_no_record_of_another(tmp_path: Path, feed: RecordFeed) -> None:
    for number, writer in enumerate("abc"):
        left_behind(tmp_path, {1: settled_frames(range(number, number + 1))}, writer=writer)
    replay(tmp_path, Database(), log=Heard(), other=feed)
    broken = broken_journal(tmp_path, "b")

    assert sorted(numbers(feed.read(512))) == [0, 2]
    feed.confirm()
    assert list(find_kept(tmp_path / "journal")) == ["b"]
    with pytest.raises(OSError, match="symbolic links"):
        feed.read(512)
    broken.with_suffix(".away").rename(broken)
    assert read_all(feed) == [1]


def test_a_journal_that_cannot_be_read_keeps_no_other_from_being_passed_over(tmp_path: Path) -> None:
    for number, writer in enumerate("abcd"):
        left_behind(tmp_path, {1: settled_frames(range(number, number + 1))}, writer=writer)
    feed = RecordFeed(tmp_path, most_held=2)
    replay(tmp_path, Database(), log=Heard(), other=feed)
    broken = broken_journal(tmp_path, "a")

    with pytest.raises(OSError, match="symbolic links"):
        feed.skip_excess()
    assert (feed.lost_records, sorted(find_kept(tmp_path / "journal"))) == (1, ["a", "c", "d"])
    broken.with_suffix(".away").rename(broken)
    assert feed.skip_excess() == 1
    assert sorted(read_all(feed)) == [2, 3]
    feed.close()


def test_many_writers_are_read_in_turn(tmp_path: Path, feed: RecordFeed) -> None:
    for writer in range(3):
        content = settled_frames(range(1000 * writer, 1000 * writer + 200))
        left_behind(tmp_path, {1: content}, writer=f"w{writer}")
    replay(tmp_path, Database(), log=Heard(), other=feed)

    assert {number // 1000 for number in numbers(feed.read(150))} == {0, 1, 2}
