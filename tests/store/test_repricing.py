"""Repricing gives the reports of a history that had the new prices from the start, interrupted or not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given as for_any
from hypothesis import strategies as st

from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.quote import Quote
from llm_gateway.domain.usage import FREE, AttemptRecord, Price, Usage, UsageRecord, cost
from llm_gateway.errors import RecordsRefused, StoreUnavailable
from llm_gateway.store.database import Database
from llm_gateway.store.repricing import (
    BATCH_RECORDS,
    ModelDifference,
    QuoteOf,
    RepriceReport,
    Repricing,
    Wanted,
    at_quote,
)
from llm_gateway.store.tables import usage_records
from llm_gateway.store.usage import UsageStore
from tests.store.effort import few, many
from tests.store.histories import (
    DAY_MS,
    DEAR,
    HOUR_MS,
    NOW_MS,
    PROVIDERS,
    attempt,
    check_cube,
    check_reports,
    check_sums,
    clear,
    close,
    made_records,
    record,
    record_rows,
    rollup_rows,
    some_price,
    stored_attempts,
)

TOKENS = Usage(input_tokens=10, output_tokens=5)
BEFORE = Price(((0, 10**6),), ((0, 10**6),))
NOW = Price(((0, 2 * 10**6),), ((0, 4 * 10**6),))
EVERYTHING = Wanted(since_ms=0, until_ms=NOW_MS + 10**12)


def provider(name: str) -> Provider:
    return Provider(
        id=f"id-{name}",
        name=name,
        display_name=name,
        kind="openai",
        base_url=None,
        models=("m",),
        is_enabled=True,
        rate_limit_rpm=1,
        rate_limit_tpm=1,
        priority=1,
        timeout_s=1,
        created_at_ms=0,
        updated_at_ms=0,
    )


def bought(name: str = "p", at_ms: int = NOW_MS, **fields: Any) -> AttemptRecord:
    plain = {"usage": TOKENS, "price": BEFORE, "cost_nanos": cost(BEFORE, TOKENS)}
    return attempt(at_ms, name, **{**plain, **fields})


def made(*attempts: AttemptRecord, at_ms: int = NOW_MS, **fields: Any) -> UsageRecord:
    one = record(at_ms, outcome="ok", attempts=list(attempts), **fields)
    close(one)
    return one


def quoted(price: Price | None) -> Quote | None:
    return None if price is None else Quote(price)


def always(price: Price) -> QuoteOf:
    return lambda _provider, _attempt: Quote(price)


class Stopped(Exception):
    pass


class Run:
    """Repricing with fixed prices, stopped after `stop_after` batches were written."""

    def __init__(self, database: Database, prices: dict[str, Price | None], stop_after: int | None = None) -> None:
        self.reports: list[RepriceReport] = []
        self._left = stop_after
        self._repricing = Repricing(
            database, map(provider, prices), lambda provider, _: quoted(prices[provider.name]), sleep=self._sleep
        )

    def __call__(self, wanted: Wanted = EVERYTHING, *, dry_run: bool = False) -> RepriceReport:
        return self._repricing.run(
            wanted, dry_run=dry_run, progress=lambda report: self.reports.append(msgspec.structs.replace(report))
        )

    def _sleep(self, _: float) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Stopped


@pytest.fixture
def store(database: Database) -> UsageStore:
    return UsageStore(database)


def test_repricing_changes_the_record_its_attempt_and_the_reports(store: UsageStore, database: Database) -> None:
    store.write([made(bought()), record(outcome="no_provider")])
    report = Run(database, {"p": NOW})()
    assert (report.records, report.changed, report.pruned, report.unknown, report.gone) == (2, 1, 0, 0, 0)
    assert (report.cost_before_nanos, report.cost_after_nanos) == (15, 40)
    assert report.models == [
        ModelDifference(provider="p", model="m", attempts=1, changed=1, cost_before_nanos=15, cost_after_nanos=40)
    ]
    [[attempt]] = stored_attempts(database)
    assert (attempt.price, attempt.cost_nanos, attempt.cost_status) == (NOW, 40, "exact")
    assert store.summary(1, NOW_MS).cost_nanos == store.by_customer(1, NOW_MS, 1)[0].cost_nanos == 40
    assert store.by_provider(1, NOW_MS)[0].totals.cost_nanos == 40


def test_repricing_changes_no_other_field_of_a_record(store: UsageStore, database: Database) -> None:
    given = made(bought(upstream_model="x", latency_ms=4, error="e"), tags={"a": "b"}, latency_ms=9, cache="bypass")
    store.write([given])
    before = record_rows(database)[0]
    Run(database, {"p": NOW})()
    changed = {
        column.name: new
        for column, old, new in zip(usage_records.c, before, record_rows(database)[0], strict=True)
        if old != new
    }
    assert set(changed) == {"cost_nanos", "attempts"}
    expected = msgspec.structs.replace(given.attempts[0], price=NOW, cost_nanos=40)
    assert stored_attempts(database) == [[expected]]


@pytest.mark.parametrize(
    ("attempt", "price", "nanos", "status"),
    [
        (bought(price=None, cost_nanos=0, cost_status="unpriced"), NOW, 40, "exact"),
        (bought(price=None, cost_nanos=0, cost_status="unpriced", usage_estimated=True), NOW, 40, "estimated"),
        (bought(cost_status="estimated", usage_estimated=True), NOW, 40, "estimated"),
        (bought(cost_status="estimated"), NOW, 40, "estimated"),
        (bought(), FREE, 0, "exact"),
        (bought(), BEFORE, 15, "exact"),
    ],
)
def test_at_quote_sets_price_cost_and_status_and_is_idempotent(
    attempt: AttemptRecord, price: Price, nanos: int, status: str
) -> None:
    after = at_quote(attempt, Quote(price))
    assert (after.price, after.cost_nanos, after.cost_status) == (price, nanos, status)
    assert (after is attempt) == (price == attempt.price)
    assert at_quote(after, Quote(price)) is after


def test_attempts_without_a_new_price_or_without_tokens_do_not_change(store: UsageStore, database: Database) -> None:
    nothing = attempt(provider="known", price=BEFORE, error="refused")
    store.write(
        [
            made(bought("gone")),
            made(bought("unknown")),
            made(bought("unknown", price=None, cost_nanos=0, cost_status="unpriced")),
            made(nothing),
            record(outcome="cached", provider="known", saved_cost_nanos=15),
        ]
    )
    before = (record_rows(database), rollup_rows(database))
    report = Run(database, {"known": NOW, "unknown": None})()
    assert (record_rows(database), rollup_rows(database)) == before
    assert (report.records, report.changed, report.gone, report.unknown) == (5, 0, 1, 2)
    assert {each.provider for each in report.models} == {"gone", "unknown"}


def test_a_renamed_provider_is_found_by_its_id(store: UsageStore, database: Database) -> None:
    store.write([made(bought("old"))])
    renamed = msgspec.structs.replace(provider("old"), name="new")
    prices = {"old": Price(((0, 3 * 10**6),), ((0, 0),)), "new": NOW}
    for name, price in prices.items():
        repricing = Repricing(database, [renamed], always(price), sleep=lambda _: None)
        report = repricing.run(msgspec.structs.replace(EVERYTHING, provider=name), dry_run=False, progress=print)
        assert report.changed == 1
        assert [each.provider for each in report.models] == ["old"]
    assert [row.name for row in store.by_provider(1, NOW_MS)] == ["old"]


@pytest.mark.parametrize(
    ("asked", "changed"),
    [
        ({}, {"a", "b", "c"}),
        ({"provider": "p"}, {"a", "b"}),
        ({"model": "m"}, {"a", "c"}),
        ({"model": "reported"}, {"b"}),
        ({"provider": "p", "model": "m"}, {"a"}),
        ({"provider": "none"}, set()),
        ({"since_ms": NOW_MS - HOUR_MS}, {"a", "b"}),
        ({"since_ms": NOW_MS - HOUR_MS + 1}, {"b"}),
        ({"until_ms": NOW_MS}, {"a", "c"}),
        ({"until_ms": NOW_MS + 1}, {"a", "b", "c"}),
    ],
)
def test_only_attempts_that_match_the_filter_change(
    store: UsageStore, database: Database, asked: dict[str, Any], changed: set[str]
) -> None:
    store.write(
        [
            made(bought(), user_id="a", at_ms=NOW_MS - HOUR_MS),
            made(bought(model="n", upstream_model="reported"), user_id="b"),
            made(bought("q"), user_id="c", at_ms=NOW_MS - 2 * HOUR_MS),
        ]
    )
    report = Run(database, {"p": NOW, "q": NOW})(msgspec.structs.replace(EVERYTHING, **asked))
    assert {row.name for row in store.by_customer(1, NOW_MS, 9) if row.cost_nanos == 40} == changed
    assert report.changed == len(changed) == sum(each.changed for each in report.models)


def test_one_attempt_of_many_is_repriced(store: UsageStore, database: Database) -> None:
    unpriced = bought("p", price=None, cost_nanos=0, cost_status="unpriced")
    store.write([made(unpriced, bought("q"), bought("p"))])
    assert store.summary(1, NOW_MS).unpriced_requests == 1
    Run(database, {"p": NOW, "q": NOW})(msgspec.structs.replace(EVERYTHING, provider="p"))
    assert {row.name: row.totals.cost_nanos for row in store.by_provider(1, NOW_MS)} == {"p": 80, "q": 15}
    totals = store.summary(1, NOW_MS)
    assert (totals.cost_nanos, totals.unpriced_requests, totals.exact_requests) == (95, 0, 1)


def test_pruned_requests_are_counted(store: UsageStore, database: Database) -> None:
    store.write([made(bought(), at_ms=NOW_MS - hours * HOUR_MS) for hours in range(10)])
    store.prune(NOW_MS - 5 * HOUR_MS, 100)
    wanted = Wanted(since_ms=NOW_MS - NOW_MS % HOUR_MS - 8 * HOUR_MS, until_ms=NOW_MS)
    report = Run(database, {"p": NOW})(wanted, dry_run=True)
    assert (report.records, report.pruned) == (5, 3)
    assert Run(database, {"p": NOW})(wanted).pruned == 3
    assert store.summary(1, NOW_MS).cost_nanos == 5 * 15 + 5 * 40


def test_progress_is_reported_after_each_batch(store: UsageStore, database: Database) -> None:
    count = 2 * BATCH_RECORDS + 1
    store.write([made(bought(), at_ms=NOW_MS - count + number) for number in range(count)])
    run = Run(database, {"p": NOW})
    assert run().changed == count
    assert [report.records for report in run.reports] == [BATCH_RECORDS, 2 * BATCH_RECORDS, count]
    assert [report.at_ms for report in run.reports] == [NOW_MS - count - 1 + report.records for report in run.reports]


def test_an_absurd_cost_is_refused(store: UsageStore, database: Database) -> None:
    store.write([made(bought(usage=Usage(output_tokens=10**9)))])
    before = (record_rows(database), rollup_rows(database))
    for nanos in (10**13, 10**30):
        with pytest.raises(RecordsRefused):
            Run(database, {"p": Price(((0, 0),), ((0, nanos),))})()
    assert (record_rows(database), rollup_rows(database)) == before


def test_records_deleted_or_changed_meanwhile_are_not_overwritten(store: UsageStore, database: Database) -> None:
    store.write([made(bought(), user_id=name) for name in "abc"])
    doing: list[Callable[[], object]] = [lambda: store.prune(NOW_MS + 1, 1), Run(database, {"p": NOW})]

    def quote_of(_provider: Provider, _attempt: AttemptRecord) -> Quote:
        while doing:
            doing.pop(0)()
        return Quote(NOW)

    report = Repricing(database, [provider("p")], quote_of, sleep=lambda _: None).run(
        EVERYTHING, dry_run=False, progress=print
    )
    assert report.changed == 0
    assert {row.name: row.cost_nanos for row in store.by_customer(1, NOW_MS, 9)} == {"a": 15, "b": 40, "c": 40}


def with_price(history: list[UsageRecord], prices: dict[str, Price | None]) -> list[UsageRecord]:
    """Return the history with these prices from the start, where they are known."""
    copies = []
    for given in history:
        copy = msgspec.structs.replace(given, attempts=[])
        for one in given.attempts:
            price = prices.get(one.provider)
            if price is not None and (one.usage != Usage() or one.cost_status == "unpriced"):
                status = "estimated" if one.usage_estimated else "exact"
                one = msgspec.structs.replace(  # noqa: PLW2901 - the attempt at its new price
                    one, price=price, cost_nanos=cost(price, one.usage), cost_status=status
                )
            copy.attempts.append(one)
        if copy.attempts:
            close(copy)
        copies.append(copy)
    return copies


REPRICED = dict[str, st.SearchStrategy[Any]](
    history=st.lists(made_records(), max_size=8),
    prices=st.dictionaries(st.sampled_from(PROVIDERS), some_price),
    stops=st.lists(st.integers(0, 1), max_size=2),
    days=st.sampled_from([1, 30, 365]),
)


def check_reports_become_those_of_a_history_with_the_new_prices(
    database: Database, history: list[UsageRecord], prices: dict[str, Price | None], stops: list[int], days: int
) -> None:
    clear(database)
    store = UsageStore(database)
    store.write(history)
    while store.build_block(NOW_MS - 3 * DAY_MS) or store.build_margins(NOW_MS - 3 * DAY_MS):
        pass
    wanted = Wanted(since_ms=0, until_ms=NOW_MS + 100 * DAY_MS)
    stored = (record_rows(database), rollup_rows(database))
    foretold = Run(database, prices)(wanted, dry_run=True)
    assert (record_rows(database), rollup_rows(database)) == stored
    for stop_after in stops:
        try:
            Run(database, prices, stop_after)(wanted)
        except Stopped:
            break
    done = Run(database, prices)(wanted)
    expected = with_price(history, prices)
    check_sums(check_reports(store, expected, days))
    check_cube(database)
    assert done.cost_after_nanos == foretold.cost_after_nanos
    if not stops:
        assert msgspec.structs.replace(done, dry_run=True) == foretold
    again = (record_rows(database), rollup_rows(database))
    assert Run(database, prices)(wanted).changed == 0
    assert (record_rows(database), rollup_rows(database)) == again
    assert sorted(row[0] for row in again[0]) == sorted(given.id for given in history)


@many
@for_any(**REPRICED)
def test_reports_become_those_of_a_history_with_the_new_prices(shared_sqlite: Database, **drawn: Any) -> None:
    check_reports_become_those_of_a_history_with_the_new_prices(shared_sqlite, **drawn)


@few
@for_any(**REPRICED)
def test_reports_become_those_of_new_prices_on_postgres(shared_postgres: Database, **drawn: Any) -> None:
    check_reports_become_those_of_a_history_with_the_new_prices(shared_postgres, **drawn)


def test_a_run_stopped_between_batches_is_completed_by_a_new_run(store: UsageStore, database: Database) -> None:
    count = 3 * BATCH_RECORDS
    history = [made(bought(), at_ms=NOW_MS - number) for number in range(count)]
    store.write(history)
    with pytest.raises(Stopped):
        Run(database, {"p": DEAR}, stop_after=1)()
    changed = sum(attempts[0].price == DEAR for attempts in stored_attempts(database))
    assert changed == 2 * BATCH_RECORDS
    assert store.summary(1, NOW_MS).cost_nanos == changed * cost(DEAR, TOKENS) + (count - changed) * 15
    report = Run(database, {"p": DEAR})()
    assert (report.records, report.changed) == (count, count - changed)
    check_reports(store, with_price(history, {"p": DEAR}), 1)


@pytest.mark.usefixtures("long_on_postgres")
def test_repricing_beside_other_writers_keeps_the_reports_exact(store: UsageStore, database: Database) -> None:
    history = [made(bought(), user_id=f"u{n % 7}", at_ms=NOW_MS - n * HOUR_MS) for n in range(2000)]
    batches = [history[start::20] for start in range(20)]
    store.write(batches.pop())
    failures: list[BaseException] = []

    def write() -> None:
        store.write(batches[-1])
        batches.pop()

    def work(step: Callable[[], object]) -> None:
        try:
            while batches:
                with suppress(StoreUnavailable):  # another thread has the write lock: try again
                    step()
        except BaseException as error:
            failures.append(error)

    steps = [write, lambda: store.build_block(NOW_MS - 2 * DAY_MS), Run(database, {"p": NOW})]
    threads = [threading.Thread(target=work, args=[step]) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    Run(database, {"p": NOW})()
    for days in (1, 30, 90):
        check_reports(store, with_price(history, {"p": NOW}), days)
