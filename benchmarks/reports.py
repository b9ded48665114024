"""Measure the duration of usage reports over millions of records, while more are being written."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter, time_ns

import msgspec

from benchmarks.history import History, Shape
from benchmarks.machine import facts
from benchmarks.measured_databases import SERVERS, TITLES, Server
from benchmarks.report import budget_table, table, with_section
from benchmarks.report_timings import Reports, Timing, budget
from benchmarks.trees import without_paths
from llm_gateway.store.database import Database
from llm_gateway.store.record_sums import Group
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME
from llm_gateway.store.rollups import DAY_MS, Totals
from llm_gateway.store.usage import UsageStore
from llm_gateway.store.usage_reports import Grouping, UsageReports
from tests.postgres_server import CannotRun

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "What a report costs"
BYTES_A_RECORD = 1000
BATCH_S = 0.1

END_MS = int(datetime(2026, 6, 1, 12, 30, tzinfo=UTC).timestamp() * 1000)
"""End of the history: at half past twelve a report's period starts with 12 single hours, the maximum."""

ABOUT = """
Makes a long history of usage records (10 million take some minutes and 8 GB), then times every report and search over
it while records are being written, and prints the budget: the limit, target and measured value of each p99.
Fails if the reports do not add up, never on a figure.
"""


class Writer(threading.Thread):
    """Thread that writes `rate` records per second, dated after the history's end, until `stop`."""

    def __init__(self, store: UsageStore, history: History, rate: int) -> None:
        super().__init__(name="writer")
        self._store = store
        self._history = history
        self._rate = rate
        self._ending = threading.Event()
        self._began = perf_counter()
        self.written = 0
        self.took_ms: list[float] = []

    def now_ms(self) -> int:
        """Return the simulated time in milliseconds UTC: the history's end plus the elapsed time."""
        return self._history.end_ms + round((perf_counter() - self._began) * 1000)

    def run(self) -> None:
        """Write a batch every BATCH_S seconds, as the shipper does."""
        while not self._ending.wait(BATCH_S):
            due = round((perf_counter() - self._began) * self._rate) - self.written
            batch = self._history.made_at([self.now_ms()] * due)
            began = perf_counter()
            self._store.write(batch)
            self.took_ms.append((perf_counter() - began) * 1000)
            self.written += due

    def stop(self) -> None:
        """End the thread after the batch that is being written."""
        self._ending.set()
        self.join()


def wrong(store: UsageStore, reports: UsageReports, now_ms: int, requests: int) -> list[str]:
    """Return descriptions of what does not add up; an empty list if everything does."""
    key, end_ms = Grouping((DIMENSION_BY_NAME["key"],)), (now_ms // DAY_MS + 1) * DAY_MS
    days = [(end_ms - (day + 1) * DAY_MS, end_ms - day * DAY_MS) for day in reversed(range(365))]
    by_day = reports.series(key, days)
    whole = store.summary(365, now_ms)
    customers = store.by_customer(365, now_ms, 10**9)
    found = {
        "requests of all": (whole.requests, requests),
        "requests by service": (sum(row.totals.requests for row in store.by_service(365, now_ms)), requests),
        "requests by key": (_requests(reports.totals(key, (days[0][0], end_ms))), requests),
        "requests by key and day": (sum(map(_requests, by_day)), requests),
        "requests by customer": (sum(row.requests for row in customers), requests),
        "cost by customer": (sum(row.cost_nanos for row in customers), whole.cost_nanos),
        "cost by service": (_cost(row.totals for row in store.by_service(365, now_ms)), whole.cost_nanos),
        "cost by provider": (_cost(row.totals for row in store.by_provider(365, now_ms)), whole.cost_nanos),
    }
    return [f"{what}: {is_:,}, not {should:,}" for what, (is_, should) in found.items() if is_ != should]


def markdown(timings: Sequence[Timing], writer: Writer, facts_: Sequence[str]) -> str:
    """Return the budget table, the durations, and the facts about the machine."""
    lines = [
        [
            each.report,
            str(len(each.took_ms)),
            *(f"{each.at(part):.1f}" for part in (0.5, 0.99, 1)),
            f"{median(each.cpu_ms):.1f}",
            _partial(each),
        ]
        for each in timings
    ]
    slowest = f"batches of records took {median(writer.took_ms):.1f} ms (median) to {max(writer.took_ms):.1f} ms"
    return "\n\n".join(
        [
            budget_table(budget(timings)),
            table(("report", "runs", "p50 ms", "p99 ms", "slowest ms", "CPU p50 ms", "ended at 200 ms"), lines),
            "\n".join(f"- {fact}" for fact in [*facts_, slowest]) + "\n",
        ]
    )


def _requests(groups: Mapping[Group, Totals]) -> int:
    return sum(each.requests for each in groups.values())


def _cost(totals: Iterable[Totals]) -> int:
    return sum(each.cost_nanos for each in totals)


def _partial(timing: Timing) -> str:
    return str(sum(timing.partial)) if any(timing.partial) else ""


class _Kept(msgspec.Struct, frozen=True):
    """Description of a database kept from an earlier run: its history, and the seconds it took to write."""

    shape: Shape
    end_ms: int
    seconds: float


def _prepared(folder: Path, server: Server, shape: Shape, say: Callable[[str], None]) -> tuple[Database, float]:
    """Return a database with the history, kept from an earlier run or written now, and the seconds writing took."""
    note = folder / f"{server.name}.json"
    if note.exists():
        kept = msgspec.json.decode(note.read_bytes(), type=_Kept)
        if (kept.shape, kept.end_ms) == (shape, END_MS):
            say(f"Using the records in {folder}, written by an earlier run.")
            database = Database.open(server.start())
            database.migrate()
            return database, kept.seconds
    if shutil.disk_usage(folder).free < shape.records * BYTES_A_RECORD:
        needed = shape.records * BYTES_A_RECORD / 1e9
        raise OSError(f"{folder} has less than {needed:.0f} GB of free space: choose another one with --folder")
    note.unlink(missing_ok=True)
    server.delete()
    say(f"Writing {shape} …")
    url = server.start()
    database = Database.open(url)
    database.migrate()
    seconds = History(shape, END_MS).write(UsageStore(database), url, say)
    note.write_bytes(msgspec.json.encode(_Kept(shape, END_MS, seconds)))
    return database, seconds


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks reports", description=ABOUT)
    add = parser.add_argument
    add("--quick", action="store_true", help="2,000 records, to see that it works; the figures say little")
    add("--records", type=int, default=Shape().records, help="length of the history (default: %(default)s)")
    add("--runs", type=int, default=300, help="how often every report is timed (default: %(default)s)")
    add("--keys", type=int, default=100, help="keys of the API that the requests have (default: %(default)s)")
    add("--database", choices=SERVERS, default="sqlite", help="what is measured (default: %(default)s)")
    add("--write-rate", type=int, default=500, help="records a second written meanwhile (default: %(default)s)")
    add("--folder", type=Path, help="keep the database here, and take it from here the next time")
    add("--write", action="store_true", help=f"also write the tables to benchmarks/{RESULTS.name}")
    return parser.parse_args(arguments)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Measure and print the tables. Returns the exit code."""
    given = _parse(arguments)
    shape, runs = Shape(records=given.records, keys=given.keys), given.runs
    if given.quick:
        shape, runs = Shape(records=2_000, customers=50, keys=10), 3
    kept: AbstractContextManager[str] = nullcontext(str(given.folder))
    with kept if given.folder else tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        with closing(SERVERS[given.database](folder)) as server:
            try:
                database, seconds = _prepared(folder, server, shape, _say)
            except (OSError, CannotRun) as error:
                _say(f"{error}.")
                return 1
            with closing(database):
                text, failures = _measured(
                    database, given.write_rate, shape, runs, lambda: _facts(server, shape, seconds)
                )
    print(text)
    for failure in failures:
        _say(f"The reports do not add up: {failure}")
    if given.write:
        title = f"{TITLE} on {TITLES[given.database]}"
        RESULTS.write_text(with_section(RESULTS.read_text(encoding="utf-8"), title, text), encoding="utf-8")
    return 1 if failures else 0


def _measured(
    database: Database, rate: int, shape: Shape, runs: int, known: Callable[[], list[str]]
) -> tuple[str, list[str]]:
    """Time all reports while records are written. Returns the tables, and what does not add up."""
    store = UsageStore(database)
    before = store.summary(365, END_MS).requests
    writer = Writer(store, History(shape, END_MS, seed=time_ns()), rate)
    reports = Reports(database, writer.now_ms)
    _say(f"Timing the reports while {rate} records a second are written …")
    writer.start()
    try:
        timings = reports.measure(runs)
    finally:
        writer.stop()
    text = markdown(timings, writer, [*known(), f"{rate} records a second were written"])
    return text, wrong(store, UsageReports(database), writer.now_ms(), before + writer.written)


def _facts(server: Server, shape: Shape, seconds: float) -> list[str]:
    size = server.size()
    took, bytes_each = seconds / shape.records * 1e6, size / shape.records
    return [
        str(shape),
        f"made in {seconds:.0f} s ({took:.0f} µs a record), {size / 1e9:.1f} GB ({bytes_each:.0f} bytes a record)",
        server.about,
        *facts(server.folder),
        f"load average over these minutes {os.getloadavg()[1]:.1f}, of which this run is about 1",
        f"{datetime.now(UTC):%Y-%m-%d}, `{' '.join(['python -m benchmarks', *without_paths(sys.argv[1:])])}`",
    ]
