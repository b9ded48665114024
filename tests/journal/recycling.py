"""A writer and the transfer of its directory in one event loop, for tests of segments that are written again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llm_gateway.journal.directory_transfer import DirectoryTransfer
from llm_gateway.journal.segments import FileSystem, JournalDir, Position
from llm_gateway.journal.writer import Fsync, JournalWriter
from tests.journal.samples import Database, Heard, frame, intent, request_id, settled, until, written

REQUEST_BYTES = len(frame("I", 1, intent(1)) + frame("S", 1, settled(1)))
SEGMENT_BYTES = 3 * REQUEST_BYTES + 100
"""Three requests fit into a segment, and the last 100 bytes stay free."""


class Pair:
    """A writer, and a transfer that follows it on command."""

    def __init__(self, data_dir: Path, files: FileSystem | None = None, *, fsync: Fsync = "off") -> None:
        self.heard = Heard()
        self.database = Database()
        self.writer = JournalWriter.open(
            data_dir, fsync=fsync, segment_bytes=SEGMENT_BYTES, reserve_bytes=0, files=files, log=self.heard
        )
        self.directory = JournalDir(self.writer.directory.path)
        self.transfer = DirectoryTransfer(self.directory, self.database, log=self.heard)
        self.asked = 0

    async def spare(self) -> None:
        """Wait until the writer has a spare segment."""
        await until(lambda: self.writer._segments._spare is not None)

    async def ask(self, requests: int = 1) -> None:
        """Write whole requests."""
        for _ in range(requests):
            await self.spare()
            await self.writer.intent(request_id(self.asked), intent(self.asked))
            await self.spare()
            self.writer.settle(request_id(self.asked), settled(self.asked))
            await self.writer.durable()
            self.asked += 1

    def ship(self) -> None:
        """Transfer what is published."""
        segment, offset, _ = written(self.writer)
        while self.transfer.step(Position(segment, offset))[1]:
            pass

    async def run(self, requests: int, then: Callable[[], None] = lambda: None) -> None:
        """Write and ship requests one by one."""
        for _ in range(requests):
            await self.ask()
            self.ship()
            then()

    def free(self) -> list[str]:
        """Return the names of the free segments."""
        return [path.name for path in self.directory.free.segments()]

    async def close(self) -> None:
        self.transfer.close()
        await self.writer.sync_and_close()
