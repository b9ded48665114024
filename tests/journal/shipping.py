"""Stand-in for the journal writer, for tests of the shipper without an event loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.journal.segments import WriterDir, WrittenPosition
from llm_gateway.journal.writer import JournalWriter


class Journal(JournalWriter):
    """The attributes of a writer that a shipper reads, set by hand."""

    def __init__(self, path: Path) -> None:
        self.directory = WriterDir.make(path)
        self.segment_bytes = 1_000_000
        self.recent: dict[str, UsageRecord] = {}
        self.written = WrittenPosition(1, 0, 0)
        self.appended = 0
        self.is_closed = False
        self.directory.segment(1).write_bytes(bytes(1_000_000))

    def append(self, content: bytes) -> None:
        segment, offset, entries = self.written
        with self.directory.segment(segment).open("r+b") as file:
            file.seek(offset)
            file.write(content)
        self.appended = entries + content.count(b"\n")
        self.written = WrittenPosition(segment, offset + len(content), self.appended)

    def rotate(self) -> None:
        number = self.written.segment + 1
        self.directory.segment(number).write_bytes(bytes(1_000_000))
        self.written = self.written._replace(segment=number, offset=0)


def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
