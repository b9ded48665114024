"""A journal whose records are in the database before their answers, over the real shipper."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import JournalUnavailable, StoreUnavailable
from llm_gateway.journal.committed_journal import CommittedJournal
from llm_gateway.journal.shipper import Shipper
from tests.journal.samples import Database, Heard, frame, intent, request_id, settled, until
from tests.journal.shipping import Journal
from tests.waiting import wait_until

PATIENCE_S = 0.3
AWAY = StoreUnavailable("gone")


class Host:
    """A journal, its shipper and the database, which is `known_away` to the journal or not."""

    def __init__(self, directory: Path, database: Database, log: Heard, patience_s: float = PATIENCE_S) -> None:
        self.asked: list[int] = []
        self.known_away = False
        self.lost_asks = 0
        self.database = database
        self.shipper = Shipper(directory / "journal", database, log=log, is_awaited=True)
        self.journal = CommittedJournal.open(
            directory, fsync="off", log=log, segment_bytes=1_000_000, reserve_bytes=1000
        )
        self._loop = asyncio.get_running_loop()
        self.journal.connect(self._ask, lambda: not self.known_away, patience_s)

    def _ask(self, entries: int) -> None:
        self.asked.append(entries)
        if self.lost_asks:
            self.lost_asks -= 1
        else:
            self.shipper.commit(self.journal.name, entries, self._answer)

    def _answer(self, entries: int) -> None:
        self._loop.call_soon_threadsafe(self.journal.stored, entries)

    async def call(self, number: int) -> bool:
        """Write the entries of a call, and return whether its record is in the database when its answer may leave."""
        await self.journal.intent(request_id(number), intent(number))
        self.journal.settle(request_id(number), settled(number))
        await self.journal.durable()
        return request_id(number) in self.database.stored


@pytest.fixture
async def host(tmp_path: Path, database: Database, heard: Heard) -> AsyncIterator[Host]:
    host = Host(tmp_path, database, heard)
    host.shipper.start()
    yield host
    database.is_down = None
    await host.journal.sync_and_close()
    assert await asyncio.to_thread(host.shipper.stop, 5)


async def test_an_answer_waits_until_its_record_is_in_the_database(host: Host) -> None:
    assert [await host.call(number) for number in range(5)] == [True] * 5
    assert host.journal.uncommitted == 0


async def test_the_records_of_a_moment_share_a_commit(host: Host) -> None:
    assert all(await asyncio.gather(*map(host.call, range(200))))
    assert len(host.database.batches) < 20
    assert len(host.asked) < 20


async def test_a_request_to_commit_that_got_lost_is_repeated(host: Host) -> None:
    host.lost_asks = 1
    host.journal.connect(host._ask, lambda: True, patience_s=60)
    assert await asyncio.wait_for(host.call(1), 20)
    assert host.asked == [2, 2]


async def test_no_call_is_begun_while_the_database_is_known_to_be_away(host: Host) -> None:
    host.known_away = True
    with pytest.raises(JournalUnavailable, match="no call is made") as refused:
        await host.call(1)
    assert refused.value.retry_after_s == 5
    assert host.journal.appended == 0
    assert not host.journal.can_commit()
    host.known_away = False
    assert await host.call(2)


async def test_an_answer_that_was_paid_leaves_while_the_database_is_away_and_its_record_is_stored_later(
    host: Host, heard: Heard
) -> None:
    host.database.is_down = AWAY
    assert await asyncio.gather(*map(host.call, range(3))) == [False] * 3
    assert host.journal.uncommitted == 3
    late = "answers leave before their usage records are in the database"
    assert heard.names().count(late) == 1

    host.database.is_down = None
    await until(lambda: host.database.numbers() == [0, 1, 2])
    await until(lambda: "usage records are in the database before their answers again" in heard.names())
    assert await host.call(3)


async def test_no_call_is_begun_while_an_answer_has_waited_for_long(
    tmp_path: Path, database: Database, heard: Heard
) -> None:
    host = Host(tmp_path, database, heard)  # whose shipper does not run yet
    host.journal.connect(host._ask, lambda: True, patience_s=60, stalled_s=0.2)
    answer = asyncio.create_task(host.call(1))
    await until(lambda: host.asked)
    assert host.journal.can_commit()
    await until(lambda: not host.journal.can_commit())
    with pytest.raises(JournalUnavailable):
        await host.call(2)

    host.shipper.start()
    assert await answer
    assert host.journal.can_commit()
    await host.journal.sync_and_close()
    assert await asyncio.to_thread(host.shipper.stop, 5)


async def test_after_an_answer_left_uncommitted_no_call_is_begun_until_all_that_was_written_by_then_is_stored(
    host: Host, heard: Heard
) -> None:
    host.database.is_down = AWAY
    await asyncio.gather(*map(host.call, range(3)))
    again = "usage records are in the database before their answers again"
    host.journal.stored(2)
    assert not host.journal.can_commit(), "a database that is slow, and makes some progress, is not enough"
    assert again not in heard.names()
    host.journal.stored(6)
    assert host.journal.can_commit()
    assert heard.names().count(again) == 1


async def test_a_database_that_comes_back_gets_no_try_for_each_request_to_commit(host: Host) -> None:
    host.database.is_down = AWAY
    await host.call(1)
    tries = len(host.database.batches)
    for _ in range(100):
        host.shipper.commit(host.journal.name, 2, host._answer)
        await asyncio.sleep(0)
    assert len(host.database.batches) <= tries + 1
    assert not host.shipper.is_storing
    host.database.is_down = None
    await until(lambda: host.shipper.is_storing)


async def test_the_shipper_answers_for_what_is_stored_already(host: Host) -> None:
    assert await host.call(1)
    told: list[int] = []
    host.shipper.commit(host.journal.name, 1, told.append)
    await until(lambda: told)
    assert told == [2]


def test_of_a_long_backlog_that_grows_the_part_is_told_that_earlier_looks_saw(journal: Journal, heard: Heard) -> None:
    def grow(first: int) -> None:
        for start in range(first, first + 2500, 500):
            journal.append(b"".join(frame("S", n, settled(n)) for n in range(start, start + 500)))
            journal.rotate()

    class Growing(Database):
        """A database whose records become more while it stores them."""

        def __call__(self, records: list[UsageRecord]) -> None:
            super().__call__(records)
            if len(self.batches) < 4:
                grow(2500 * len(self.batches))

    growing, told = Growing(), list[tuple[int, int]]()
    grow(0)
    shipper = Shipper(journal.root, growing, log=heard, is_awaited=True)
    shipper.commit("writer", 2500, lambda entries: told.append((entries, len(growing.batches))))
    shipper.start()
    wait_until(lambda: told and told[-1][0] >= 2500, 20)
    assert told[-1] == (2500, 2)
    assert shipper.stop(20)
    assert len(growing.stored) == 10_000
