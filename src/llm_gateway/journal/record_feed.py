"""Feed of finished records, read from the journals of all writers beside the shipper, with positions of its own.

    record_feed = RecordFeed(data_dir)          the shipper and the replay get it as their `OtherReader`
    records = record_feed.read(512)             at any speed: segments wait for it
    record_feed.confirm()                       these records are not returned again, also by the next process

The positions are in the file `feed.positions` of the data directory. What lies between the last `confirm` and the end
of a process is returned once more. A directory whose writer has ended is renamed, in place of being deleted:

<data_dir>/journal/<writer>          followed up to the position that the writer publishes
                  /.kept-<writer>    read to its end, then deleted

A feed that lags holds back at most MOST_HELD segments of each living writer, and MOST_HELD of all that have ended; none
if the disk is short of space. What lies before is lost, and counted: `lost_records`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.journal.feed_tail import Bookmark, FeedTail
from llm_gateway.journal.free_segments import is_disk_short
from llm_gateway.journal.other_reader import MOST_HELD, NO_READER, OtherReader
from llm_gateway.journal.segments import KEPT, LockableDir, find_kept, find_writers

POSITIONS = "feed.positions"
"""Name of the file with the positions, in the data directory."""


class RecordFeed(OtherReader):
    """Feed of finished records. `first_needed` and `take_over` are for the shipper's thread, the rest for another."""

    def __init__(self, data_dir: Path, *, most_held: int = MOST_HELD, pause: Callable[[], None] = lambda: None) -> None:
        """Read the positions; without a readable file, every journal is read from its start.

        `pause` is called after each chunk that was read.
        """
        self._root = data_dir / "journal"
        self._file = data_dir / POSITIONS
        self._most_held = most_held
        self._pause = pause
        self._turn = threading.Lock()
        self._tails: dict[str, FeedTail] = {}
        self._stored = _read_positions(self._file)
        self.lost_records = 0
        self.backlog_bytes = 0
        """Size of what is in the journals and not confirmed, at the last call of any method below."""

    def first_needed(self, writer: str) -> int:
        """Return the number of the first segment that is not confirmed; 1 of a writer that is not followed yet."""
        tail = self._tails.get(writer)
        bookmark = tail.bookmark if tail is not None else self._stored.get(writer, Bookmark())
        return bookmark.restart[0]

    def take_over(self, directory: LockableDir) -> None:
        """Rename the directory, which is then read to its end.

        Raises:
            OSError: it cannot be renamed.
        """
        name = directory.path.name
        kept = directory.path.with_name(KEPT + name)
        with self._turn:
            directory.free.clear()
            try:
                directory.path.rename(kept)
            finally:
                directory.close()
            if (tail := self._tails.get(name)) is not None:
                tail.directory.path = kept
                tail.is_ended = True

    def read(self, most: int) -> list[UsageRecord]:
        """Return the next records, `most` and those of a chunk beyond it; an empty list if there are none for now.

        Raises:
            OSError: a journal cannot be read, and the others have no more records.
        """
        self._follow()
        records: list[UsageRecord] = []
        failed: list[OSError] = []
        rest = [tail for tail in self._tails.values() if not tail.is_finished]
        while rest and len(records) < most:
            for tail in [*rest]:
                with self._turn:
                    before, found = tail.position, []
                    with _noted(failed):
                        found = tail.read()
                    if tail.is_finished or (not found and tail.position == before):
                        rest.remove(tail)
                records += found
        self._measure()
        if failed and not records:  # `confirm` confirms what was found, so it must be returned
            raise failed[0]
        return records

    def confirm(self) -> None:
        """Store that the records returned so far were handled, and delete what is not needed any more.

        Raises:
            OSError: the positions cannot be written.
        """
        with self._turn:
            for tail in self._tails.values():
                tail.confirm()
        self._store()
        self._measure()

    def skip_excess(self) -> int:
        """Pass over what is more than may be held back. Returns the number of records that are lost by it.

        Raises:
            OSError: a journal cannot be read, or the positions cannot be written. All that can be is passed over.
        """
        self._follow()
        most = 0 if self._tails and is_disk_short(self._root) else self._most_held
        before = {name: tail.bookmark for name, tail in self._tails.items()}
        lost, failed = self._skip(most)
        self.lost_records += lost
        if lost or before != {name: tail.bookmark for name, tail in self._tails.items()}:
            self._store()
        self._measure()
        if failed:
            raise failed[0]
        return lost

    def close(self) -> None:
        """Close all files."""
        with self._turn:
            for tail in self._tails.values():
                tail.close()
            self._tails.clear()

    def _skip(self, most: int) -> tuple[int, list[OSError]]:
        """Pass over what is more than `most` segments. Returns the number of records lost by it, and what failed."""
        failed: list[OSError] = []
        with self._turn:
            before = sum(tail.lost_records for tail in self._tails.values())
            sizes: list[tuple[FeedTail, int]] = []
            for _, tail in sorted(self._tails.items()):
                with _noted(failed):
                    tail.skip_excess(most)
                    if tail.is_ended and not tail.is_finished:
                        sizes.append((tail, tail.segments()))
            excess = sum(size for _, size in sizes) - most
            for tail, size in sizes:
                if excess > 0:
                    excess -= size
                    with _noted(failed):
                        tail.skip_rest()
            return sum(tail.lost_records for tail in self._tails.values()) - before, failed

    def _follow(self) -> None:
        """Follow writers that are new, and those that ended unseen."""
        with self._turn:
            paths = {path.name: (path, False) for path in find_writers(self._root)}
            paths |= {name: (path, True) for name, path in find_kept(self._root).items()}
            for name in paths.keys() - self._tails.keys():
                path, is_ended = paths[name]
                bookmark = self._stored.get(name, Bookmark())
                self._tails[name] = FeedTail(path, bookmark, is_ended=is_ended, pause=self._pause)
            for name in self._tails.keys() - paths.keys():  # deleted by somebody else
                self._tails.pop(name).close()

    def _measure(self) -> None:
        with self._turn, suppress(OSError):  # it cannot be measured for now
            self.backlog_bytes = sum(tail.unread_bytes() for tail in self._tails.values())

    def _store(self) -> None:
        """Delete the directories of which everything is confirmed, then write the positions.

        The disk may be full: deleting makes the space. Names of deleted directories in the file do no harm, since no
        other writer gets them (`new_id`). The position in a directory that cannot be deleted is kept.

        Raises:
            OSError: the positions cannot be written.
        """
        with self._turn:
            for name, tail in [*self._tails.items()]:
                if tail.is_done:
                    tail.close()
                    with suppress(OSError):  # the next call tries again
                        LockableDir(tail.directory.path).remove()
                        del self._tails[name]
            found = {name: tail.bookmark for name, tail in self._tails.items()}
            if found != self._stored:
                temporary = self._file.with_suffix(".new")
                temporary.touch(mode=0o600)
                temporary.write_bytes(msgspec.json.encode(found))
                temporary.replace(self._file)
                self._stored = found


@contextmanager
def _noted(failed: list[OSError]) -> Iterator[None]:
    """Note an error of one journal, so that it does not keep the others from being read."""
    try:
        yield
    except OSError as error:
        failed.append(error)


def _read_positions(file: Path) -> dict[str, Bookmark]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Bookmark])
    except (OSError, msgspec.DecodeError):
        return {}


def feed_in_use(data_dir: Path) -> OtherReader:
    """Return the record feed if the last gateway on this data directory had one."""
    return RecordFeed(data_dir) if (data_dir / POSITIONS).exists() else NO_READER


def drop_feed(data_dir: Path) -> int:
    """Delete the positions and all directories that were kept for a feed. Returns the number of directories.

    Raises:
        OSError: one of them cannot be deleted.
    """
    kept = find_kept(data_dir / "journal").values()
    for path in kept:
        LockableDir(path).remove()
    (data_dir / POSITIONS).unlink(missing_ok=True)
    return len(kept)
