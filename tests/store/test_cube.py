"""The cube agrees with the rollups, whoever adds to it: new records, repricing, and the filling with older records."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given as for_any
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from llm_gateway.domain.quote import Quote
from llm_gateway.domain.usage import Price, Usage, UsageRecord
from llm_gateway.errors import StoreUnavailable
from llm_gateway.store.cube import GRAINS, MARGINS, WHOLE, margin_of
from llm_gateway.store.cube_fill import CubeFill, FilledStep
from llm_gateway.store.cube_periods import Part
from llm_gateway.store.cube_reader import CubeQuery, CubeReader
from llm_gateway.store.cube_table import LONGEST_NAME, built_until
from llm_gateway.store.database import Database
from llm_gateway.store.record_sums import Group
from llm_gateway.store.repricing import Repricing, Wanted
from llm_gateway.store.rollups import Totals
from llm_gateway.store.tables import usage_cube, usage_cube_fill, usage_records
from llm_gateway.store.usage import UsageStore
from tests.store.disturbances import refusing
from tests.store.effort import few, many
from tests.store.histories import (
    DAY_MS,
    HOUR_MS,
    NOW_MS,
    attempt,
    check_cube,
    clear,
    close,
    cube_rows,
    made_records,
    record,
    rollup_rows,
)
from tests.store.test_repricing import provider

PRICE = Price(((0, 10**6),), ((0, 10**6),))
DEAR = Price(((0, 3 * 10**6),), ((0, 5 * 10**6),))
HOUR_NUMBER = NOW_MS // HOUR_MS
EVERYTHING = Wanted(since_ms=0, until_ms=NOW_MS + 10**12)


@pytest.fixture
def store(database: Database) -> UsageStore:
    return UsageStore(database)


def bought(provider_name: str = "p", model: str = "m", tokens: int = 10, at_ms: int = NOW_MS) -> Any:
    usage = Usage(input_tokens=tokens)
    return attempt(at_ms, provider_name, model=model, usage=usage, price=PRICE, cost_nanos=tokens)


def made(*attempts: Any, at_ms: int = NOW_MS, **fields: Any) -> UsageRecord:
    one = record(at_ms, outcome="ok", attempts=list(attempts), **fields)
    close(one)
    return one


def forget_cube(database: Database) -> None:
    """Bring the database into the state after the migration: the stored records are still to be added to the cube."""
    with database.write() as connection:
        connection.execute(sa.delete(usage_cube))
        newest = sa.select(sa.func.coalesce(sa.func.max(usage_records.c.id), "")).scalar_subquery()
        connection.execute(sa.update(usage_cube_fill).values(until=newest, filled=""))


def reprice(database: Database, price: Price = DEAR) -> None:
    providers = [provider(name) for name in ("p", "q", "openai", "anthropic", "ü")]
    Repricing(database, providers, lambda _provider, _attempt: Quote(price), sleep=lambda _: None).run(
        EVERYTHING, dry_run=False, progress=lambda _: None
    )


def test_a_record_is_a_row_of_its_hour_day_and_eight_days_with_all_dimensions(
    store: UsageStore, database: Database
) -> None:
    store.write(
        [
            made(bought(), key_name="k", team_id="t", service="s", task_type="g", agent="codex", latency_ms=7),
            made(bought(), key_name="k", key_id="i", service="s"),
        ]
    )
    counters = (1, 0, 0, 1, 0, 0, 10, 0, 10)
    assert cube_rows(database) == [
        (1, HOUR_NUMBER, "m", "p", "i", "", "s", "general", "", *counters, 0, 0),
        (1, HOUR_NUMBER, "m", "p", "k", "t", "s", "g", "codex", *counters, 7, 0),
        (24, HOUR_NUMBER // 24, "m", "p", "i", "", "s", "general", "", *counters, 0, 0),
        (24, HOUR_NUMBER // 24, "m", "p", "k", "t", "s", "g", "codex", *counters, 7, 0),
        (192, HOUR_NUMBER // 192, "m", "p", "i", "", "s", "general", "", *counters, 0, 0),
        (192, HOUR_NUMBER // 192, "m", "p", "k", "t", "s", "g", "codex", *counters, 7, 0),
    ]


def of_key(team: str | None = "t", service: str = "s", **fields: Any) -> UsageRecord:
    return made(bought(), key_name="k", team_id=team, service=service, agent="codex", **fields)


def test_past_days_are_summed_by_each_margin_and_late_records_are_added(store: UsageStore, database: Database) -> None:
    over_ms = (NOW_MS // DAY_MS + 1) * DAY_MS
    store.write([of_key(latency_ms=7), record(NOW_MS + 2 * DAY_MS)])
    assert store.build_margins(over_ms - 1) is False, "the day is not over"
    assert [cube_rows(database, margin) for margin in MARGINS] == [[], [], []]
    assert [store.build_margins(over_ms), store.build_margins(over_ms)] == [True, False]
    store.write([of_key(service="r"), record(NOW_MS + 2 * DAY_MS)])
    once, twice, latency = (1, 0, 0, 1, 0, 0, 10, 0, 10), (2, 0, 0, 2, 0, 0, 20, 0, 20), (7, 0)
    places = [(1, HOUR_NUMBER), (24, HOUR_NUMBER // 24)]
    by_model, by_key, by_service = MARGINS
    assert cube_rows(database, by_model) == [
        (*place, "m", "p", None, None, None, None, None, *twice, *latency) for place in places
    ]
    assert cube_rows(database, by_key) == [
        (*place, None, None, "k", "t", None, None, None, *twice, *latency) for place in places
    ]
    assert cube_rows(database, by_service) == [
        (*place, None, None, None, None, service, "general", "codex", *once, *figures)
        for place in places
        for service, figures in (("r", (0, 0)), ("s", latency))
    ]
    check_cube(database)


def test_days_are_built_in_their_order_and_reports_read_them_from_a_margin(
    store: UsageStore, database: Database
) -> None:
    days = [NOW_MS // DAY_MS - back for back in (9, 5, 4, 0)]
    store.write([of_key(at_ms=day * DAY_MS + 1) for day in days])
    period = (days[0] * DAY_MS, days[-1] * DAY_MS + DAY_MS)
    for built in (0, 1, 2, 3):
        with database.read() as connection:
            assert built_until(connection) == (days[built - 1] + 1 if built else 0)
        for dimensions in ((), ("key",), ("key", "team"), ("agent",), ("model", "key")):
            assert [totals.requests for totals in read(database, dimensions, period).values()] == [4]
        assert store.build_margins(days[-1] * DAY_MS) is (built < 3)
    with database.write() as connection:  # so that it shows where the figures are from
        connection.execute(sa.update(usage_cube).where(usage_cube.c.hours < 0).values(requests=100))
    assert read(database, ("key",), period)["k",].requests == 301
    assert read(database, ("key", "model"), period)["k", "m"].requests == 4


def test_every_dimension_is_in_one_margin() -> None:
    names = [name for margin in MARGINS for name in margin.names]
    assert sorted(names) == sorted(WHOLE.names)
    assert len({margin.hours(grain) for margin in (WHOLE, *MARGINS) for grain in GRAINS}) == 4 * len(GRAINS)
    assert [margin_of(each).number for each in ((), ("provider",), ("team", "key"), ("agent", "service"))] == [
        1,
        1,
        2,
        3,
    ]
    assert margin_of(("key", "model")) is WHOLE


def test_tokens_count_where_they_were_bought_and_the_request_where_it_was_tried_last(
    store: UsageStore, database: Database
) -> None:
    store.write([made(bought("p", "m", 3), bought("q", "n", 5)), record(outcome="no_provider")])
    rows = read(database, ("provider", "model"), (HOUR_NUMBER * HOUR_MS, (HOUR_NUMBER + 1) * HOUR_MS))
    assert rows == {
        ("p", "m"): Totals(input_tokens=3, cost_nanos=3),
        ("q", "n"): Totals(requests=1, ok_requests=1, input_tokens=5, cost_nanos=5),
        ("", ""): Totals(requests=1, error_requests=1),
    }


def read(database: Database, dimensions: tuple[str, ...], period: Part) -> dict[Group, Totals]:
    reader = CubeReader(database, 100)
    with database.read() as connection:
        return reader.named(connection, reader.totals(connection, CubeQuery(dimensions), [period]))[0]


def test_a_query_of_the_cube_sums_its_period(store: UsageStore, database: Database) -> None:
    day = NOW_MS // DAY_MS * DAY_MS
    store.write([record(at_ms, agent="a") for at_ms in (day - 1, day, day + HOUR_MS, day + DAY_MS)])
    assert read(database, ("agent",), (day, day + DAY_MS))["a",].requests == 2
    assert read(database, ("agent",), (day, day + HOUR_MS))["a",].requests == 1
    assert read(database, (), (day - HOUR_MS, day + 2 * DAY_MS))[()].requests == 4
    assert read(database, ("agent",), (day + 2 * DAY_MS, day + 3 * DAY_MS)) == {}


def test_long_names_are_cut_and_summed_together(store: UsageStore, database: Database) -> None:
    long = "x" * LONGEST_NAME
    store.write([record(service=long + "1"), record(service=long + "2"), record(service=long)])
    assert [(row[6], row[9]) for row in cube_rows(database)] == [(long, 3)] * len(GRAINS)


def test_records_that_are_stored_already_are_added_once(store: UsageStore, database: Database) -> None:
    batch = [made(bought(), service=f"s{number % 3}") for number in range(7)]
    store.write(batch)
    once = cube_rows(database)
    store.write([*batch, *batch])
    assert cube_rows(database) == once
    check_cube(database)


def test_filling_a_new_database_adds_nothing(store: UsageStore, database: Database) -> None:
    store.write([record()])
    before = cube_rows(database)
    assert store.fill_cube() is None
    assert cube_rows(database) == before


def test_older_records_are_added_oldest_first_in_steps(store: UsageStore, database: Database) -> None:
    history = [made(bought(at_ms=NOW_MS + number), at_ms=NOW_MS + number * HOUR_MS) for number in range(5)]
    store.write(history)
    expected = cube_rows(database)
    forget_cube(database)
    fill = CubeFill(database)
    assert fill.step(2) == FilledStep(2, history[1].at_ms, is_last=False)
    assert {row[1] for row in cube_rows(database) if row[0] == 1} == {HOUR_NUMBER, HOUR_NUMBER + 1}
    assert [fill.step(2), fill.step(2)] == [
        FilledStep(2, history[3].at_ms, is_last=False),
        FilledStep(1, history[4].at_ms, is_last=True),
    ]
    assert fill.step(2) is None
    assert cube_rows(database) == expected


def test_a_step_that_fails_adds_nothing(store: UsageStore, database: Database) -> None:
    store.write([record(), record()])
    expected = cube_rows(database)
    forget_cube(database)
    with refusing(database, "UPDATE", "usage_cube_fill"):
        with pytest.raises(IntegrityError):
            store.fill_cube()
        assert cube_rows(database) == []
    assert store.fill_cube() is not None
    assert cube_rows(database) == expected


CHANGES = dict[str, st.SearchStrategy[Any]](
    history=st.lists(made_records(), max_size=12),
    late=st.lists(made_records(), max_size=6),
    rng=st.randoms(use_true_random=False),
)


def check_the_cube_is_complete_whatever_happens_while_it_is_filled(
    database: Database, history: list[UsageRecord], late: list[UsageRecord], rng: random.Random
) -> None:
    """Late records may be older than the mark up to which the cube is filled, or between it and the newest record."""
    clear(database)
    store, fill = UsageStore(database), CubeFill(database)
    store.write(history)
    forget_cube(database)
    doing: list[Callable[[], object]] = [partial(store.write, [each]) for each in late]
    doing += [lambda: reprice(database), lambda: reprice(database, PRICE)]
    doing += [partial(store.build_margins, NOW_MS - days * DAY_MS) for days in (300, 40, 8, 2, 0, 0)]
    rng.shuffle(doing)
    while fill.step(rng.randint(1, 4)) is not None:
        if doing:
            doing.pop()()
    for each in doing:
        each()
    check_cube(database)
    rows = [row for row in cube_rows(database) if any(row[9:])]
    forget_cube(database)
    while fill.step() is not None:
        pass
    assert cube_rows(database) == rows


@many
@for_any(**CHANGES)
def test_the_cube_is_complete_whatever_happens_while_it_is_filled(shared_sqlite: Database, **drawn: Any) -> None:
    check_the_cube_is_complete_whatever_happens_while_it_is_filled(shared_sqlite, **drawn)


@few
@for_any(**CHANGES)
def test_the_cube_is_complete_whatever_happens_while_it_is_filled_on_postgres(
    shared_postgres: Database, **drawn: Any
) -> None:
    check_the_cube_is_complete_whatever_happens_while_it_is_filled(shared_postgres, **drawn)


def test_filling_beside_other_writers_is_exact(store: UsageStore, database: Database) -> None:
    history = [made(bought(at_ms=NOW_MS), at_ms=NOW_MS - 2 * number * HOUR_MS) for number in range(500)]
    store.write(history[::2])
    forget_cube(database)
    late, fill, failures = history[1::2], CubeFill(database), list[BaseException]()
    left = threading.Event()

    def work(step: Callable[[], bool]) -> None:
        try:
            is_left = True
            while is_left:
                with suppress(StoreUnavailable):  # another thread has the write lock: try again
                    is_left = step()
        except BaseException as error:
            failures.append(error)

    def write() -> bool:
        store.write(late[-20:])
        del late[-20:]
        return bool(late)

    def run_repricing() -> bool:
        reprice(database)
        return not left.is_set()

    def fill_step() -> bool:
        is_left = fill.step(20) is not None
        if not is_left:
            left.set()
        return is_left

    steps = (write, run_repricing, fill_step, lambda: store.build_margins(NOW_MS - DAY_MS) or not left.is_set())
    threads = [threading.Thread(target=work, args=[step]) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    check_cube(database)
    assert sum(row[9] for row in cube_rows(database) if row[0] == 24) == len(history)
    assert rollup_rows(database)
