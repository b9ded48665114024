"""Deletion by age: a clock that jumps deletes no record, and a correct clock is not refused forever."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.store.bulk import Pause, no_pause
from llm_gateway.store.cube_fill import FilledStep
from llm_gateway.store.database import Database
from llm_gateway.store.retention import FILE_NAME, TOLERANCE_MS, Belief, BelievedClock, Retention
from llm_gateway.store.usage import UsageStore
from tests.store.histories import DAY_MS, HOUR_MS, NOW_MS, record, stored_ids

KEPT_DAYS = 90
BIG = st.integers(2, 400).flatmap(lambda days: st.sampled_from([days * DAY_MS, -days * DAY_MS]))
SMALL = st.integers(-HOUR_MS, HOUR_MS)


class World:
    """True time, and a clock that may be wrong by `offset_ms`."""

    def __init__(self) -> None:
        self.true_ms = NOW_MS
        self.offset_ms = 0

    def clock_ms(self) -> int:
        return self.true_ms + self.offset_ms

    def elapsed_s(self) -> float:
        return self.true_ms / 1000

    def clock(self, belief: Belief) -> BelievedClock:
        return BelievedClock(belief, self.clock_ms, self.elapsed_s)


# A spell: the clock's error, the number of hourly runs it lasts, and the runs before which the gateway restarts.
SPELLS = st.lists(st.tuples(st.one_of(SMALL, BIG), st.integers(1, 23), st.sets(st.integers(0, 22))), max_size=12)


@given(SPELLS)
def test_a_clock_that_is_wrong_for_less_than_a_day_deletes_no_young_record(
    spells: list[tuple[int, int, set[int]]],
) -> None:
    world = World()
    clock = world.clock(Belief(NOW_MS))
    for offset_ms, runs, restarts in spells:
        for wrong_ms, hours in ((offset_ms, runs), (0, 1)):  # the clock is right between two spells
            world.offset_ms = wrong_ms
            for run in range(hours):
                if run in restarts:
                    clock = world.clock(clock.belief)
                world.true_ms += HOUR_MS
                reading = clock.read()
                assert not reading.is_accepted
                assert reading.is_refused == (wrong_ms > TOLERANCE_MS)
                if not reading.is_refused:
                    assert reading.safe_ms <= world.true_ms + HOUR_MS


@given(st.integers(2, 4000), st.sets(st.integers(0, 30)))
def test_a_gateway_stopped_for_long_deletes_nothing_for_a_day_of_running(days: int, restarts: set[int]) -> None:
    world = World()
    belief = Belief(NOW_MS)
    world.true_ms += days * DAY_MS
    clock = world.clock(belief)
    refused = 0
    while (reading := clock.read()).is_refused:
        refused += 1
        assert refused <= 25
        world.true_ms += HOUR_MS
        if refused in restarts:
            reading = clock.read()  # the last run before the stop
            if not reading.is_refused:
                break
            world.true_ms += 14 * HOUR_MS  # stopped overnight
            clock = world.clock(clock.belief)
    assert refused == 24
    assert reading.is_accepted
    assert reading.safe_ms == world.true_ms
    world.true_ms += HOUR_MS
    assert clock.read().difference_ms == 0


@given(st.integers(2, 400), st.integers(2, 400))
def test_a_changed_difference_restarts_the_24_hours(first: int, second: int) -> None:
    world = World()
    clock = world.clock(Belief(NOW_MS))
    for days in (first, first + second):
        world.offset_ms = days * DAY_MS
        for _ in range(24):
            world.true_ms += HOUR_MS
            assert clock.read().is_refused


@given(st.integers(-400, 400), st.integers(0, 48))
def test_a_restart_does_not_make_a_wrong_clock_right(days: int, hours: int) -> None:
    """Records stored while the clock is ahead carry its time; it must not become the believed time."""
    world = World()
    kept = world.clock(Belief(NOW_MS)).belief
    world.offset_ms = days * DAY_MS
    world.true_ms += hours * HOUR_MS
    assert world.clock(kept).read().safe_ms <= NOW_MS + hours * HOUR_MS + TOLERANCE_MS


REFUSED = "old usage records are not deleted: the system's clock has jumped ahead"


class Books:
    """A database with records and its retention."""

    def __init__(self, path: Path, database: Database) -> None:
        self.path = path
        self.database = database
        self.usage = UsageStore(self.database)
        self.world = World()
        self.logged: list[dict[str, Any]] = []
        self.retention = self.start()

    def start(self) -> Retention:
        self.retention = Retention(
            self.usage, self.path, KEPT_DAYS, self.log, clock_ms=self.world.clock_ms, elapsed_s=self.world.elapsed_s
        )
        return self.retention

    def log(self, event: str, *, level: str = "info", **fields: Any) -> None:
        self.logged.append({"event": event, "level": level, **fields})

    def run(self) -> None:
        """Do one whole run, as the gateway does every hour."""
        while self.retention.step():
            pass

    def write(self, *days_ago: float) -> None:
        self.usage.write([record(int(self.world.clock_ms() - days * DAY_MS)) for days in days_ago])

    def count(self) -> int:
        return len(stored_ids(self.database))


@pytest.fixture
def books(tmp_path: Path, database: Database) -> Books:
    return Books(tmp_path, database)


def test_each_deletion_of_old_records_is_logged_once(books: Books) -> None:
    books.write(0, 1, 89, 91, 100)
    books.run()
    assert books.count() == 3
    assert books.logged == [
        {"event": "old usage records deleted", "level": "info", "count": 2, "older_than": "2024-07-06"}
    ]
    books.run()
    assert len(books.logged) == 1


@pytest.mark.parametrize("has_file", [False, True])
@pytest.mark.parametrize("days_ahead", [2, 100, 10_000_000])
def test_a_clock_ahead_at_startup_deletes_nothing_and_is_logged_once(
    books: Books, has_file: bool, days_ahead: int
) -> None:
    books.write(0, 1, 89.5)
    if has_file:
        books.run()
    books.world.offset_ms = days_ahead * DAY_MS
    for _ in range(2):  # restarts
        books.start()
        for _ in range(2):
            books.run()
            books.world.true_ms += HOUR_MS
            if days_ahead < 1000:
                books.write(0)  # requests received meanwhile carry the wrong time
    assert books.count() >= 3
    told = [line for line in books.logged if line["level"] == "error"]
    assert {line["event"] for line in told} == {REFUSED}
    assert [line["days_ahead"] for line in told] == [pytest.approx(days_ahead, abs=0.2)] * 2
    books.world.offset_ms = 0
    books.start()
    books.run()
    assert not [line for line in books.logged if "count" in line]


def test_a_clock_ahead_is_no_error_if_it_would_delete_nothing(books: Books) -> None:
    books.write(0, 1)
    books.run()
    books.world.true_ms += 3 * DAY_MS
    books.start()
    books.run()
    assert books.logged == []


def test_a_clock_behind_deletes_only_records_that_are_old_by_it(books: Books) -> None:
    books.write(0, 89, 95, 200)
    books.world.offset_ms = -10 * DAY_MS
    books.run()
    assert books.count() == 3


def test_a_clock_that_stays_ahead_is_accepted_with_a_warning(books: Books) -> None:
    books.write(0, 1, 2)
    books.run()
    books.world.true_ms += 100 * DAY_MS
    books.start()
    for _ in range(25):
        books.run()
        books.world.true_ms += HOUR_MS
    assert books.count() == 0
    assert [(line["level"], line["event"]) for line in books.logged] == [
        ("error", REFUSED),
        ("warning", "the system's clock is accepted again: old usage records are deleted"),
        ("info", "old usage records deleted"),
    ]


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b"[]", b'{"believed_ms": "x"}'])
def test_a_damaged_retention_file_is_replaced(books: Books, content: bytes) -> None:
    (books.path / FILE_NAME).write_bytes(content)
    books.write(0, 91)
    books.run()
    assert books.count() == 1
    assert json.loads((books.path / FILE_NAME).read_bytes())["believed_ms"] == NOW_MS


def test_an_unwritable_data_directory_is_logged_and_does_not_stop_retention(books: Books) -> None:
    (books.path / "retention.new").mkdir()
    books.write(0, 91)
    books.run()
    assert books.count() == 1
    assert (books.logged[0]["level"], books.logged[0]["event"]) == (
        "warning",
        "cannot write retention.json, which protects usage records against a wrong clock",
    )


class Filling(UsageStore):
    """Usage of which 50,000 records at a time are added to the cube, 150,000 in all."""

    steps = 0

    def fill_cube(self, pause: Pause = no_pause) -> FilledStep:
        del pause
        self.steps += 1
        return FilledStep(50_000, NOW_MS, self.steps == 3)


def test_a_long_filling_tells_how_far_it_is(sqlite_database: Database, tmp_path: Path) -> None:
    lines: list[tuple[str, dict[str, Any]]] = []
    usage = Filling(sqlite_database)
    retention = Retention(usage, tmp_path, 90, lambda event, **fields: lines.append((event, fields)))
    assert [retention.step() for _ in range(3)] == [True] * 3
    up_to = datetime.fromtimestamp(NOW_MS / 1000, UTC).strftime("%Y-%m-%d")
    assert lines == [
        ("older usage is being summed by all dimensions", {"records": 100_000, "up_to": up_to}),
        ("older usage is summed by all dimensions", {"records": 150_000}),
    ]
