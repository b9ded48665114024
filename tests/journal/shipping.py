"""Stand-in for the journal writer, for tests of the shipper without an event loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from llm_gateway.journal.position_page import PAGE_NAME, PageWriter, WrittenPosition, create_page, map_page
from llm_gateway.journal.record_delivery import BATCH_RECORDS, Quarantine, RecordDelivery, quarantine_file
from llm_gateway.journal.segments import WriterDir
from llm_gateway.journal.writer_tail import WriterTail
from tests.journal.samples import Database, Heard, resealed

SEGMENT_BYTES = 1_000_000


class Journal:
    """The locked directory of a living writer, filled and published by hand."""

    def __init__(self, path: Path) -> None:
        self.directory = WriterDir.make(path, partial(create_page, segment_bytes=SEGMENT_BYTES))
        self.root = path.parent
        page = self.directory.path / PAGE_NAME
        self._page = PageWriter(page, map_page(page, writable=True))
        self._written = WrittenPosition(1, 0, 0)
        self.appended = 0
        self.directory.segment(1).write_bytes(bytes(SEGMENT_BYTES))

    @property
    def written(self) -> WrittenPosition:
        return self._written

    @written.setter
    def written(self, written: WrittenPosition) -> None:
        self._written = written
        self._page.publish(*written, max(written.entries, self.appended))

    def append(self, content: bytes) -> None:
        segment, offset, entries = self.written
        with self.directory.segment(segment).open("r+b") as file:
            file.seek(offset)
            file.write(resealed(content, segment))
        self.appended = entries + content.count(b"\n")
        self.written = WrittenPosition(segment, offset + len(content), self.appended)

    def rotate(self) -> None:
        number = self.written.segment + 1
        self.directory.segment(number).write_bytes(bytes(SEGMENT_BYTES))
        self.written = self.written._replace(segment=number, offset=0)

    def accept(self, entries: int) -> None:
        """Publish entries that are accepted and not written."""
        self.appended += entries
        self._page.publish_counts(self.written.entries, self.appended)

    def close(self) -> None:
        """Close as a writer does."""
        self._page.close()
        self.directory.close()

    def crash(self) -> None:
        """Release the lock as the system does when a process is killed."""
        self.directory.close()


class LoneTail(WriterTail):
    """A writer's tail whose batches are stored alone, as the shipper stores them if there is no other writer."""

    def __init__(self, path: Path, database: Database, heard: Heard) -> None:
        quarantine = Quarantine(quarantine_file(path.parents[1]), heard)
        super().__init__(path, quarantine, log=heard, pause=lambda: None)
        self._delivery = RecordDelivery(database, quarantine)
        self._is_read = False

    def step(self) -> bool:
        """Ship the next batch. Returns True if there may be more."""
        if self._is_read:
            self._delivery.run()
            self.advance()
        self._delivery.add(self.read(BATCH_RECORDS))
        self._is_read = True
        self._delivery.run()
        is_more = self.advance()
        self._is_read = False
        return is_more

    def restart(self) -> None:
        super().restart()
        self._delivery.clear()
        self._is_read = False


def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
