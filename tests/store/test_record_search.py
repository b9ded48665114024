"""Searches find every matching record once, newest first, however they are cut into pages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.store import customer_days
from llm_gateway.store.database import Database
from llm_gateway.store.erasure import Erasure
from llm_gateway.store.record_filter import HourFinder, RecordFilter
from llm_gateway.store.record_indexes import customer_days as days_of_customer
from llm_gateway.store.record_search import SEARCH_S, RecordPage, RecordSearch
from llm_gateway.store.rollups import ERRORS
from llm_gateway.store.tables import usage_cube_fill, usage_records, usage_rollups
from llm_gateway.store.usage import UsageStore
from tests.store.histories import DAY_MS, HOUR_MS, NOW_MS, attempt, clear, id_at, made_records, record

FAR_MS = NOW_MS + 100 * DAY_MS
SKEWS = (-59_000, -25_000, 0, 25_000, 59_000)
"""Milliseconds from the time of a record to that in its id."""

SOME: dict[str, list[Any]] = {
    "sessions": [None, "s-1", "other-1"],
    "agents": [None, "codex"],
    "tags": [{}, {"project": "a"}, {"project": ""}],
}


@st.composite
def labelled(draw: st.DrawFn) -> UsageRecord:
    made = draw(made_records())
    made.session, made.agent = draw(st.sampled_from(SOME["sessions"])), draw(st.sampled_from(SOME["agents"]))
    made.tags, made.key_id = draw(st.sampled_from(SOME["tags"])), draw(st.sampled_from([None, "key-1"]))
    made.client_request_id = draw(st.sampled_from([None, "mine", "also-mine"]))
    return made


values = st.fixed_dictionaries(
    {},
    optional={
        "customer": st.sampled_from(["a", "b", "nobody"]),
        "service": st.sampled_from(["x", "y", "none"]),
        "model": st.sampled_from(["m", "n"]),
        "provider": st.sampled_from(["openai", "ü"]),
        "key": st.sampled_from(["k", "key-1"]),
        "session": st.sampled_from(["s-1", "other-1", "-1"]),
        "agent": st.sampled_from(["codex", "nemo"]),
    },
)
filters = st.builds(
    RecordFilter,
    start_ms=st.sampled_from([0, NOW_MS - 30 * DAY_MS, NOW_MS - HOUR_MS]),
    end_ms=st.sampled_from([FAR_MS, NOW_MS, NOW_MS - DAY_MS + 1]),
    values=values,
    client_request_id=st.sampled_from([None, None, None, "mine", "no"]),
    outcome=st.sampled_from([None, None, "ok", "cached", "failed", "refused_budget", "error"]),
    tag=st.sampled_from([None, None, ("project", None), ("project", "a")]),
    cost_status=st.sampled_from([None, None, "exact", "unpriced"]),
    min_cost_nanos=st.sampled_from([None, None, 1]),
    min_latency_ms=st.sampled_from([None, None, 60_000]),
)


def matches(made: UsageRecord, wanted: RecordFilter) -> bool:
    found = {
        "customer": made.user_id, "service": made.service, "model": made.model, "provider": made.provider,
        "key": made.key, "session": made.session, "agent": made.agent,
    }  # fmt: skip
    tag, value = wanted.tag or (None, None)
    return (
        wanted.start_ms <= made.at_ms < wanted.end_ms
        and all(found[name] == value for name, value in wanted.values.items())
        and wanted.client_request_id in (None, made.client_request_id)
        and (made.outcome in ERRORS if wanted.outcome == "error" else wanted.outcome in (None, made.outcome))
        and (tag is None or (bool(made.tags.get(tag)) if value is None else made.tags.get(tag) == value))
        and wanted.cost_status in (None, made.cost_status)
        and made.cost_nanos >= (wanted.min_cost_nanos or 0)
        and made.latency_ms >= (wanted.min_latency_ms or 0)
    )


def stopped() -> float:
    """Return the time of a clock that stands still: a search with it always has the time to find all records."""
    return 0.0


def pages(search: RecordSearch, wanted: RecordFilter, limit: int) -> Iterator[RecordPage]:
    position = None
    for _ in range(10_000):
        page = search.page(wanted, limit, position)
        yield page
        if page.position is None:
            return
        assert position is None or page.position < position, "each page leads on"
        position = page.position
    pytest.fail("the pages do not end")


@given(st.lists(labelled(), max_size=12), filters, st.integers(1, 5), st.sampled_from([20, 1_000_000]))
def test_pages_have_every_matching_record_once(
    shared_sqlite: Database, history: list[UsageRecord], wanted: RecordFilter, limit: int, readings: int
) -> None:
    clear(shared_sqlite)
    UsageStore(shared_sqlite).write(history)
    ticks = count()  # the clock moves on by a whole search after this many readings
    search = RecordSearch(shared_sqlite, clock=lambda: next(ticks) // readings * SEARCH_S)
    found = [each for page in pages(search, wanted, limit) for each in page.records]
    expected = sorted((made for made in history if matches(made, wanted)), key=lambda made: made.id, reverse=True)
    assert [each.id for each in found] == [made.id for made in expected]
    for each, made in zip(found, expected, strict=True):
        each.instance = made.instance  # stored as a number, and not shown
        assert each == made


def test_pages_lead_on_however_slow_the_database_is(database: Database) -> None:
    history = [record(NOW_MS - second * 1000) for second in range(100)]
    UsageStore(database).write(history)
    ticks = count()
    search = RecordSearch(database, clock=lambda: next(ticks) * SEARCH_S)
    wanted = RecordFilter(start_ms=NOW_MS - 60_000, end_ms=NOW_MS + 1, values={"key": "k"})
    found = [each.id for page in pages(search, wanted, 7) for each in page.records]
    assert found == [each.id for each in history[:61]]


def test_a_search_without_records_is_over_at_once(database: Database) -> None:
    ticks = count()
    search = RecordSearch(database, clock=lambda: next(ticks) * SEARCH_S)
    wanted = RecordFilter(start_ms=0, end_ms=NOW_MS, values={"customer": "alice"})
    assert search.page(wanted, 10) == RecordPage([])


def test_a_search_ends_after_its_time_and_says_how_far_it_came(database: Database) -> None:
    UsageStore(database).write([record(NOW_MS - day * DAY_MS, latency_ms=day) for day in range(40)])
    ticks = count()
    search = RecordSearch(database, clock=lambda: next(ticks) * SEARCH_S / 20)
    page = search.page(RecordFilter(start_ms=0, end_ms=NOW_MS + 1, min_latency_ms=39), 10)
    assert page.records == []
    assert page.position is not None
    assert page.scanned_until_ms is not None
    assert NOW_MS - 40 * DAY_MS < page.scanned_until_ms < NOW_MS
    whole = RecordSearch(database, clock=stopped).page(
        RecordFilter(start_ms=0, end_ms=NOW_MS + 1, min_latency_ms=39), 10
    )
    assert (len(whole.records), whole.position, whole.scanned_until_ms) == (1, None, None)


def test_a_record_is_found_by_its_id_and_the_newest_by_the_clients_id(database: Database) -> None:
    mine = [record(NOW_MS + second, client_request_id="retry/ü-77") for second in range(3)]
    other = record(client_request_id="other-77", attempts=[attempt(why="retry:503")], tags={"a": "b"})
    UsageStore(database).write([*mine, other])
    search = RecordSearch(database)
    for key, expected in ((mine[0].id, mine[0]), ("retry/ü-77", mine[2]), ("other-77", other), (other.id, other)):
        found = search.find(key)
        assert found is not None
        assert (found.id, found.attempts, found.tags) == (expected.id, expected.attempts, expected.tags)
    for missing in ("77", "", "ü-77", mine[0].id.upper(), "0" * 36, "\x00"):
        assert search.find(missing) is None


def test_a_search_reads_no_further_in_an_hour_than_to_its_last_request(database: Database) -> None:
    hour_ms = NOW_MS // HOUR_MS * HOUR_MS
    mine = record(hour_ms - 1000, user_id="mine")
    UsageStore(database).write([mine, *(record(hour_ms - minute * 60_000) for minute in range(1, 60))])
    readings = count()
    search = RecordSearch(database, clock=lambda: next(readings) * 1e-6)
    wanted = RecordFilter(start_ms=hour_ms - HOUR_MS, end_ms=hour_ms, values={"customer": "mine"})
    assert [each.id for each in search.page(wanted, 10).records] == [mine.id]
    assert next(readings) < 10, "the first three windows of the hour are searched, and not the other 58 minutes"


def test_only_the_minutes_in_which_a_customer_called_are_searched(database: Database) -> None:
    """Minutes of several batches add up; those of an hour from before they were kept are not known."""
    hour_ms = NOW_MS // HOUR_MS * HOUR_MS
    store, minute_ms = UsageStore(database), 60_000
    mine = [record(hour_ms + minute * minute_ms + 59_999, user_id="mine") for minute in (59, 58, 30, 0, -1, -70)]
    for batch in (mine[::2], mine[1::2], [record(hour_ms + 15 * minute_ms)]):
        store.write(batch)
    wanted = RecordFilter(start_ms=NOW_MS - DAY_MS, end_ms=FAR_MS, values={"customer": "mine"})

    def stretches() -> list[tuple[int, int, int]]:
        with database.read() as connection:
            found = [*HourFinder(connection, wanted, is_cube_whole=True).stretches()]
        relative = [((start - hour_ms) // minute_ms, (end - hour_ms) // minute_ms, n) for start, end, n in found]
        return [each for each in relative if each[0] < each[1]]

    assert stretches() == [(58, 60, 4), (30, 31, 4), (-1, 1, 5), (-70, -69, 1)]
    with database.write() as connection:
        old = sa.update(usage_rollups).where(usage_rollups.c.bucket == hour_ms // HOUR_MS)
        connection.execute(old.values(minutes=-1))
    store.write([record(hour_ms + 40 * minute_ms, user_id="mine")])
    assert stretches() == [(-1, 60, 6), (-70, -69, 1)]
    erased = Erasure(database, sleep=lambda _: None).run("mine", FAR_MS)
    assert erased is not None
    wanted = RecordFilter(start_ms=0, end_ms=FAR_MS, values={"customer": erased.label})
    assert len(RecordSearch(database, clock=stopped).page(wanted, 10).records) == 7


def test_minutes_that_lie_far_apart_are_read_in_pages(database: Database) -> None:
    """On Postgres several are read at a time; some have more records than a page."""
    mine = [record(NOW_MS - at * HOUR_MS // 3, user_id="mine") for at in range(60) for _ in range(1 + at % 3 * 2)]
    UsageStore(database).write([*mine, *(record(NOW_MS - at * HOUR_MS // 3) for at in range(60))])
    search, wanted = RecordSearch(database), RecordFilter(start_ms=0, end_ms=FAR_MS, values={"customer": "mine"})
    for limit in (3, 40, 500):
        found = [each.id for page in pages(search, wanted, limit) for each in page.records]
        assert found == sorted((each.id for each in mine), reverse=True)


@pytest.mark.parametrize("most_rows", [2, 500])
@pytest.mark.parametrize("slow", [True, False])
def test_days_of_a_customer_with_many_records_are_searched_otherwise(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch, most_rows: int, slow: bool
) -> None:
    """Some requests come within a minute of midnight, and their ids are of another day."""
    monkeypatch.setattr(customer_days, "MOST_ROWS", most_rows)
    midnight_ms = NOW_MS // DAY_MS * DAY_MS
    near = [(midnight_ms - day * DAY_MS + at, skew) for day in range(2) for at in (-20_000, 20_000) for skew in SKEWS]
    far = [(midnight_ms - hours * HOUR_MS, 0) for hours in range(5, 24 * 14, 67)]
    crowd = [(midnight_ms - 9 * DAY_MS + second * 1000, 0) for second in range(20)]
    mine = [
        record(at_ms, id=id_at(at_ms + skew), user_id="mine", outcome="failed" if at_ms % 3 else "ok")
        for at_ms, skew in near + far + crowd
    ]
    UsageStore(postgres_database).write([*mine, *(record(at_ms) for at_ms, _ in near + far)])
    ticks = count()
    search = RecordSearch(postgres_database, clock=lambda: next(ticks) * SEARCH_S if slow else 0.0)
    for values, limit in (
        ({"customer": "mine"}, 5),
        ({"customer": "mine", "key": "k"}, 40),
        ({"customer": "nobody"}, 5),
    ):
        expected = [each.id for each in mine if values["customer"] == each.user_id]
        wanted = RecordFilter(start_ms=0, end_ms=FAR_MS, values=values)
        found = [each.id for page in pages(search, wanted, limit) for each in page.records]
        assert found == sorted(expected, reverse=True)
    wanted = RecordFilter(
        start_ms=midnight_ms - 12 * DAY_MS, end_ms=midnight_ms, outcome="ok", values={"customer": "mine"}
    )
    found = [each.id for page in pages(search, wanted, 7) for each in page.records]
    assert found == sorted((each.id for each in mine if matches(each, wanted)), reverse=True)


def test_an_index_finds_the_days_of_a_customer(postgres_database: Database) -> None:
    """Shown where no other index can be used, since the planner reads a small table as a whole."""
    with postgres_database.read() as connection:
        connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        query = sa.select(usage_records.c.id).where(days_of_customer([20_000, 20_001], "mine"))
        compiled = query.compile(connection)
        plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {compiled}", compiled.params).scalars())
    assert "usage_records_customers" in plan
    assert "Filter" not in plan


def test_records_that_are_not_in_the_cube_yet_are_found(database: Database) -> None:
    old = record(NOW_MS - 5 * DAY_MS, key_name="early")
    with database.write() as connection:
        connection.execute(sa.delete(usage_cube_fill))
        connection.execute(sa.insert(usage_cube_fill).values(until=old.id, filled=""))
    UsageStore(database).write([old])
    search = RecordSearch(database, clock=stopped)
    page = search.page(RecordFilter(start_ms=0, end_ms=FAR_MS, values={"key": "early"}), 10)
    assert [each.id for each in page.records] == [old.id]


@pytest.mark.parametrize(
    ("index", "wanted"),
    [
        ("usage_records_failures", {"outcome": "failed"}),
        ("usage_records_sessions", {"values": {"session": "s-1"}}),
        ("usage_records_sessions", {"values": {"session": "s-1", "key": "k"}, "outcome": "failed"}),
    ],
)
def test_sessions_and_failures_are_found_by_an_index(sqlite_database: Database, index: str, wanted: Any) -> None:
    plans: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "usage_records" in statement and not statement.startswith("EXPLAIN"):
            raw = connection.connection.driver_connection
            plans.extend(row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    with sqlite_database.read() as connection:
        sa.event.listen(connection.engine, "before_cursor_execute", explain)
    RecordSearch(sqlite_database).page(RecordFilter(start_ms=0, end_ms=FAR_MS, **wanted), 10)
    RecordSearch(sqlite_database).find("mine")
    assert [index in plan for plan in plans] == [True, False]
    assert "usage_records_client_ids" in plans[-1]
    assert not any("SCAN" in plan or "TEMP B-TREE" in plan for plan in plans)
