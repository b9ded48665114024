"""Time reports and searches over stored usage, one after the other, for the budget of the reports."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from time import perf_counter, sleep, thread_time
from typing import TypeAlias
from zoneinfo import ZoneInfo

import msgspec

from benchmarks.budget import Row
from benchmarks.findings import Figure
from llm_gateway.control.management.calendar_period import Period
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.store.database import Database
from llm_gateway.store.ranked_series import RankedSeries
from llm_gateway.store.ranked_usage import RankedUsage
from llm_gateway.store.record_filter import RecordFilter
from llm_gateway.store.record_search import RecordSearch
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME
from llm_gateway.store.rollup_table import RANKED_BY
from llm_gateway.store.rollups import DAY_MS, HOUR_MS
from llm_gateway.store.usage import UsageStore
from llm_gateway.store.usage_reports import Grouping, UsageReports

PAGE = 50
"""Records of a page: the default of the API."""

ROWS = 100
"""Rows of a page of a breakdown: the default of the API."""

LINES = 10
"""Lines of a series: the default of the API."""

FAST, SLOW = (20, 10), (100, 50)
"""Limit and target of the p99 in milliseconds: of reports from few rows, and of those from many."""

BUDGET_DAYS = 90

BERLIN = ZoneInfo("Europe/Berlin")


Runs: TypeAlias = dict[str, tuple[tuple[float, float] | None, Callable[[], object]]]
"""The budget of each report, and how to run it."""


class Timing(msgspec.Struct, frozen=True):
    """Durations of one report, in milliseconds, with its limit and target; without these it is shown only.

    `cpu_ms` is the CPU time of the thread that reads: with SQLite all that a report takes, with Postgres the client's.
    `partial` counts pages that a search returned at its time limit.
    """

    report: str
    budget: tuple[float, float] | None
    took_ms: list[float]
    cpu_ms: list[float]
    partial: list[int]

    def at(self, part: float) -> float:
        """Return a quantile of the durations: `part` 0.99 for p99."""
        return sorted(self.took_ms)[math.ceil(part * len(self.took_ms)) - 1]


class Reports:
    """All reports that are timed. `now_ms` returns the simulated time in milliseconds UTC."""

    def __init__(self, database: Database, now_ms: Callable[[], int]) -> None:
        self._store = UsageStore(database)
        self._reports = UsageReports(database)
        self._series = RankedSeries(self._reports)
        self._ranked = RankedUsage(self._reports)
        self._search = RecordSearch(database)
        self._now_ms = now_ms
        self._random = random.Random(11)
        self._samples = list(self._sampled())

    def measure(self, runs: int) -> list[Timing]:
        """Time every report, one after the other, `runs` times."""
        reports = {**self._of_last_days(), **self._of_records(), **self._of_periods()}
        timings = [Timing(name, budget, [], [], []) for name, (budget, _) in reports.items()]
        for _ in range(runs):
            for timing in timings:
                run = reports[timing.report][1]
                began, cpu_began = perf_counter(), thread_time()
                is_partial = run()
                timing.cpu_ms.append((thread_time() - cpu_began) * 1000)
                timing.took_ms.append((perf_counter() - began) * 1000)
                timing.partial.append(is_partial is True)
                sleep(0.002)  # lets the writer's thread take the GIL between two reports
        return timings

    def _of_last_days(self) -> Runs:
        found: Runs = {}
        store, now = self._store, self._now_ms

        def run(report: Callable[[int, int], object], days: int) -> object:
            return report(days, now())

        reports: dict[str, Callable[[int, int], object]] = {
            "summary": store.summary,
            "by-provider": store.by_provider,
            "by-service": store.by_service,
            "by-customer": lambda days, now_ms: store.by_customer(days, now_ms, PAGE),
        }
        for days in (BUDGET_DAYS, 30, 1):
            for name, report in reports.items():
                limits = SLOW if name == "by-customer" else FAST
                found[f"{name}, {days} days"] = limits, partial(run, report, days)
        return found

    def _of_records(self) -> Runs:
        """Return searches for the values of a random record; those of a page begin at a random time."""
        return {
            "record by its id": (SLOW, lambda: self._found(self._sample().id)),
            "record by x-request-id": (SLOW, lambda: self._found(self._sample().client_request_id or "none")),
            "records of all": (SLOW, lambda: self._page(self._sample(), PAGE)),
            "records of an x-request-id": (
                SLOW,
                lambda: self._page(None, PAGE, client_request_id=self._sample().client_request_id or "none"),
            ),
            "records of a session": (
                SLOW,
                lambda: self._page(None, PAGE, values={"session": self._sample().session or "none"}),
            ),
            "records of a key": (SLOW, lambda: self._with("key")),
            "records of a customer": (SLOW, lambda: self._with("customer")),
            "records that failed": (SLOW, lambda: self._page(self._sample(), PAGE, outcome="failed")),
            "records without a provider": (SLOW, lambda: self._page(self._sample(), PAGE, outcome="no_provider")),
        }

    def _of_periods(self) -> Runs:
        def breakdown(days: int, *names: str) -> Callable[[], object]:
            grouping = _grouping(*names)
            return lambda: self._reports.totals(grouping, self._last_days(days))

        def page(days: int, *names: str) -> Callable[[], object]:
            """Return a page as the dashboard shows it, with what its rows cost in the period before."""
            grouping = _grouping(*names)
            return lambda: self._ranked.page(grouping, *_with_before(self._last_days(days)), 0, ROWS)

        def series(part_ms: int, *names: str) -> Callable[[], object]:
            return lambda: self._lines(names, _parts(self._last_days(30), part_ms))

        def series_in_berlin(*names: str) -> Callable[[], object]:
            """Return a series of days that end hours from midnight UTC, one of them an hour short."""
            return lambda: self._lines(names, Period(*self._last_days(90), BERLIN).buckets("day"))

        return {
            "breakdown by service and model, 30 days": (SLOW, breakdown(30, "service", "model")),
            "breakdown by key and model, 30 days": (SLOW, breakdown(30, "key", "model")),
            "breakdown by key and model, 90 days": (SLOW, breakdown(90, "key", "model")),
            "breakdown by team and agent, 90 days": (SLOW, breakdown(90, "team", "agent")),
            "breakdown by customer, 30 days": (None, breakdown(30, "customer")),
            "page by customer, 30 days": (SLOW, page(30, "customer")),
            "page by customer, 90 days": (SLOW, page(90, "customer")),
            "page by key and model, 90 days": (SLOW, page(90, "key", "model")),
            "series of all, 30 days by the day": (SLOW, series(DAY_MS)),
            "series of a customer, 30 days by the day": (SLOW, self._series_of_customer),
            "series by model, 30 days by the day": (SLOW, series(DAY_MS, "model")),
            "series by key, 30 days by the day": (SLOW, series(DAY_MS, "key")),
            "series by model, 30 days by the hour": (SLOW, series(HOUR_MS, "model")),
            "series by model, 90 days in Berlin": (SLOW, series_in_berlin("model")),
            "series by key, 90 days in Berlin": (SLOW, series_in_berlin("key")),
        }

    def _series_of_customer(self) -> object:
        grouping = Grouping((), {"customer": self._sample().user_id}, RANKED_BY)
        return self._series.lines(grouping, _parts(self._last_days(30), DAY_MS), LINES, attrgetter("cost_nanos"))

    def _lines(self, names: Sequence[str], parts: list[tuple[int, int]]) -> object:
        """Return a series as the API makes it: what the largest groups cost, and all others together."""
        grouping = msgspec.structs.replace(_grouping(*names), counters=RANKED_BY)
        return self._series.lines(grouping, parts, LINES, attrgetter("cost_nanos"))

    def _last_days(self, days: int) -> tuple[int, int]:
        """Return the last days with today, as the API's default period."""
        end_ms = (self._now_ms() // DAY_MS + 1) * DAY_MS
        return end_ms - days * DAY_MS, end_ms

    def _found(self, record_id: str) -> object:
        return self._search.find(record_id)

    def _with(self, name: str) -> bool:
        sample = self._sample()
        return self._page(sample, PAGE, values={name: sample.user_id if name == "customer" else sample.key})

    def _page(self, sample: UsageRecord | None, limit: int, **wanted: object) -> bool:
        """Return whether a page, that ends at the sample, was returned at the time limit."""
        end_ms = self._now_ms() + DAY_MS if sample is None else sample.at_ms + 1
        page = self._search.page(RecordFilter(start_ms=0, end_ms=end_ms, **wanted), limit)  # type: ignore[arg-type]
        return page.scanned_until_ms is not None

    def _sample(self) -> UsageRecord:
        return self._random.choice(self._samples)

    def _sampled(self) -> Iterator[UsageRecord]:
        """Yield records of random times of the last 80 days, half of which have a session and a client's id."""
        while True:
            end_ms = self._now_ms() - self._random.randrange(80 * DAY_MS)
            page = self._search.page(RecordFilter(start_ms=0, end_ms=end_ms), 20)
            yield from page.records
            if self._random.random() < 0.05:
                return


def budget(timings: Sequence[Timing]) -> list[Row]:
    """Return the rows of the budget table."""
    rows = []
    for timing in timings:
        if timing.budget is not None:
            p99 = timing.at(0.99)
            rows.append(Row(f"{timing.report}, p99", "ms", *timing.budget, Figure(p99, p99, p99), 1))
    return rows


def _grouping(*names: str) -> Grouping:
    return Grouping(tuple(DIMENSION_BY_NAME[name] for name in names))


def _with_before(period: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return a period and as long a one before it."""
    start_ms, end_ms = period
    return period, (2 * start_ms - end_ms, start_ms)


def _parts(period: tuple[int, int], part_ms: int) -> list[tuple[int, int]]:
    start_ms, end_ms = period
    return [(at, at + part_ms) for at in range(start_ms, end_ms, part_ms)]
