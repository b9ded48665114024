"""Journal writers in processes of their own, shipped by this one: killed, closed, and with unreadable pages."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm_gateway.journal.position_page import PAGE_NAME
from llm_gateway.journal.segments import find_writers
from llm_gateway.journal.shipper import Shipper
from tests.journal.samples import Database, Heard, left_behind, settled_frames
from tests.journal.shipping import until

ROOT = Path(__file__).parents[2]
REQUESTS = 100_000
"""Numbers of requests are this far apart from one writer to the next."""
ENDED = "a process ended without closing its usage journal: its records are stored"
UNREAD = "the usage journal of a running process is not read: its records are stored once it has ended"

WRITER = """
import asyncio, os, signal, sys
from pathlib import Path
from llm_gateway.journal.position_page import PageWords
from llm_gateway.journal.segments import FileSystem
from llm_gateway.journal.writer import JournalWriter
from tests.journal.samples import intent, request_id, settled

data_dir, first, stores_left = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

class Mortal:
    '''Words of a page that kill the process in place of a certain store.'''

    def __init__(self, words):
        self.words, self.left = words, stores_left

    def __getitem__(self, number):
        return self.words[number]

    def __setitem__(self, number, value):
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        self.words[number] = value

    def release(self):
        self.words.release()

class MortalPage(FileSystem):
    def map_page(self, path):
        words = super().map_page(path)
        return words if stores_left < 0 else Mortal(words)

async def ask(writer, number):
    await writer.intent(request_id(number), intent(number))
    os.write(1, b"sent %d\\n" % number)
    writer.settle(request_id(number), settled(number))
    await writer.durable()
    os.write(1, b"settled %d\\n" % number)

async def main():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    writer = JournalWriter.open(data_dir, fsync="off", segment_bytes=400_000, files=MortalPage())
    os.write(1, b"ready\\n")
    number = first
    while (line := await reader.readline()).strip():
        for _ in range(int(line)):
            await ask(writer, number)
            number += 1
    if not line:  # go on until killed
        while True:
            await ask(writer, number)
            number += 1
    await writer.sync_and_close()

asyncio.run(main())
"""


class Writer:
    """A process with a journal writer; it asks requests on command, and prints what it sent and settled."""

    def __init__(self, data_dir: Path, number: int = 0, *, stores_left: int = -1) -> None:
        self.first = number * REQUESTS
        command = [sys.executable, "-c", WRITER, str(data_dir), str(self.first), str(stores_left)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, bufsize=1
        )
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.output, self.input = self.process.stdout, self.process.stdin
        self.sent: list[int] = []
        self.settled: list[int] = []
        assert self.output.readline() == "ready\n"

    def ask(self, requests: int) -> None:
        """Return once the requests are settled, as their clients see it."""
        self.input.write(f"{requests}\n")
        for _ in range(2 * requests):
            self.note(self.output.readline())

    def go_on(self) -> None:
        """Ask requests until the process is killed."""
        self.input.close()

    def note(self, line: str) -> None:
        what, _, number = line.partition(" ")
        if line.endswith("\n"):
            (self.sent if what == "sent" else self.settled).append(int(number))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.wait()
        assert self.process.returncode == -signal.SIGKILL

    def end(self) -> None:
        """Close the journal, and end the process."""
        self.input.write("\n")
        self.wait()
        assert self.process.returncode == 0

    def wait(self) -> None:
        for line in self.output:
            self.note(line)
        self.process.wait(10)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.output.close()
        if not self.input.closed:
            self.input.close()


Start = Callable[..., Writer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    writers: list[Writer] = []

    def start(number: int = 0, *, stores_left: int = -1) -> Writer:
        writers.append(Writer(tmp_path, number, stores_left=stores_left))
        return writers[-1]

    yield start
    for writer in writers:
        writer.close()


@pytest.fixture
def shipper(tmp_path: Path, database: Database, heard: Heard) -> Iterator[Shipper]:
    shipper = Shipper(tmp_path / "journal", database, log=heard)
    shipper.start()
    yield shipper
    shipper.stop(5)


def settled_in(database: Database) -> set[int]:
    return {int(key[-12:]) for key, record in database.stored.items() if record.outcome == "ok"}


def cut_off_in(database: Database) -> set[int]:
    return {int(key[-12:]) for key, record in database.stored.items() if record.error_code == "gateway_crashed"}


def test_a_flush_ships_what_another_process_has_settled(start: Start, database: Database, shipper: Shipper) -> None:
    assert shipper.flush(5)
    writers = [start(number) for number in range(2)]

    for _ in range(20):
        for writer in writers:
            writer.ask(1)
            assert shipper.flush(5)
            assert writer.settled[-1] in settled_in(database)

    assert shipper.behind() == (0, 0.0)


def test_the_records_of_another_process_are_shipped_across_segments(
    tmp_path: Path, start: Start, database: Database, heard: Heard, shipper: Shipper
) -> None:
    writer = start()
    for _ in range(10):
        writer.ask(50)
    until(lambda: settled_in(database) == set(range(500)))

    [path] = find_writers(tmp_path / "journal")
    until(lambda: len(list(path.glob("*.seg"))) <= 2)  # the current one and its spare

    writer.end()
    until(lambda: not path.exists())
    assert settled_in(database) == set(range(500))
    assert heard.events == []


@pytest.mark.parametrize("count", [2, 4])
def test_a_killed_writer_delays_none_of_the_others(
    tmp_path: Path, start: Start, database: Database, heard: Heard, shipper: Shipper, count: int
) -> None:
    killed, *others = writers = [start(number) for number in range(count)]
    for writer in writers:
        writer.ask(20)
    killed.go_on()
    until(lambda: killed.first + 300 in database.numbers())

    killed.kill()
    for writer in others:
        writer.ask(20)
    assert shipper.flush(5)

    assert set(killed.settled) <= settled_in(database)
    assert set(killed.sent) <= set(database.numbers())
    assert len(cut_off_in(database)) <= 1
    for writer in others:
        assert set(writer.settled) == set(range(writer.first, writer.first + 40)) <= settled_in(database)
    assert len(find_writers(tmp_path / "journal")) == count - 1
    assert [event for event, _ in heard.events] == [ENDED]

    for writer in others:
        writer.end()
    assert shipper.stop(10)
    assert find_writers(tmp_path / "journal") == []


@pytest.mark.parametrize("stores", range(8))
def test_a_writer_killed_between_two_stores_of_its_page_loses_nothing(
    tmp_path: Path, start: Start, database: Database, heard: Heard, shipper: Shipper, stores: int
) -> None:
    """Each write has three stores, and each request two writes."""
    writer = start(stores_left=stores)
    writer.go_on()
    writer.wait()
    assert writer.process.returncode == -signal.SIGKILL

    assert shipper.flush(5)

    assert set(writer.settled) <= settled_in(database)
    assert set(writer.sent) <= set(database.numbers())
    assert len(database.stored) == stores // 6 + 1  # the request whose entry was written is recorded, too
    assert [event for event, _ in heard.events] == [ENDED]
    assert find_writers(tmp_path / "journal") == []


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda page: page.write_bytes(page.read_bytes()[:8] + struct.pack("=Q", 7) + page.read_bytes()[16:]),
            "it has version 7, and this gateway reads versions 1 and 2",
        ),
        (lambda page: page.write_bytes(b""), "it has 0 bytes instead of 4096"),
        (lambda page: page.unlink(), "[Errno 2] No such file or directory: "),
    ],
)
def test_the_records_of_a_writer_with_an_unreadable_page_wait_until_it_ends(
    tmp_path: Path, start: Start, database: Database, heard: Heard, spoil: Callable[[Path], None], reason: str
) -> None:
    writer, other = start(0), start(1)
    [first, _] = find_writers(tmp_path / "journal")
    page = first / PAGE_NAME
    writer.ask(5)
    kept = tmp_path / "kept"
    page.rename(kept)  # the writer keeps its mapping of this file
    page.write_bytes(kept.read_bytes())
    spoil(page)
    shipper = Shipper(tmp_path / "journal", database, log=heard)
    shipper.start()
    try:
        other.ask(5)
        until(lambda: settled_in(database) == set(range(other.first, other.first + 5)))
        assert not shipper.flush(0.4)
        assert shipper.behind().size == 1
        [(event, fields)] = heard.events
        assert (event, fields["level"], fields["file"]) == (UNREAD, "error", str(page))
        assert fields["reason"].startswith(reason)

        writer.kill()
        assert shipper.flush(5)
    finally:
        shipper.stop(5)
    assert settled_in(database) == {*range(5), *range(other.first, other.first + 5)}


def test_a_directory_that_is_being_made_is_left_alone(tmp_path: Path, database: Database, heard: Heard) -> None:
    hidden = left_behind(tmp_path, {1: settled_frames(range(3))}, writer=".new-a")
    left_behind(tmp_path, {1: settled_frames(range(3, 5))}, writer="b")
    shipper = Shipper(tmp_path / "journal", database, log=heard)
    shipper.start()

    assert shipper.flush(5)
    assert shipper.stop(5)

    assert database.numbers() == [3, 4]
    assert (hidden / "000001.seg").exists()
