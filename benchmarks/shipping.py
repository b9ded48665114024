"""Measure the control process's CPU time per record, from the journal to a new database, and that of the database.

A journal of realistic records is written once. Then each checkout ships copies of it, in turns, in batches as large as
the shipper finds them at the given rate; all batches but the first are measured. Fails if a record is missing, never on
a figure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

from benchmarks.history import History, Shape
from benchmarks.machine import facts
from benchmarks.measured_databases import TITLES
from benchmarks.new_databases import DATABASES, NewDatabases
from benchmarks.report import table, with_section
from benchmarks.shipped import LIMITS, WRITER, Cost
from benchmarks.targets import ROOT
from benchmarks.trees import Tree, tree_argument, with_this, without_paths
from llm_gateway.domain.usage import UsageRecord, encode_record
from llm_gateway.journal.frames import Kind, encode_frame
from llm_gateway.journal.segments import Position
from tests.postgres_server import CannotRun

SEGMENT_BYTES = 16 * 1024 * 1024
OPEN_REQUESTS = 32
"""Requests whose intents precede the first settle."""
START_MS = int(datetime(2026, 6, 1, 12, 10, tzinfo=UTC).timestamp() * 1000)
CUSTOMERS = (200, 10_000)
RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "What storing a record costs"
WRITTEN = {"sqlite": "bytes written/record", "postgres": "bytes of log/record"}


class RecordsMissing(Exception):
    """A checkout did not ship all records; the text has its figures."""


class Piece(NamedTuple):
    """Entries in the journal's order, and whether they complete a record."""

    data: bytes
    is_settle: bool


class JournalFiles:
    """The segments of a prepared journal, and the position after each batch."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._folder = data_dir / "journal" / WRITER
        self._folder.mkdir(parents=True)

    def write(self, records: Sequence[UsageRecord], batch: int) -> None:
        """Write the entries of all records, and where each batch of `batch` records ends."""
        limits: list[Position] = []
        segment, written, settled = 1, bytearray(), 0
        for kind, record, payload in _entries(records):
            entry = encode_frame(kind, record.id, payload, segment)
            if len(written) + len(entry) > SEGMENT_BYTES:
                self._close(segment, written)
                segment, written = segment + 1, bytearray()
                entry = encode_frame(kind, record.id, payload, segment)
            written += entry
            settled += kind == "S"
            if kind == "S" and (settled % batch == 0 or settled == len(records)):
                limits.append(Position(segment, len(written)))
        self._close(segment, written)
        (self._data_dir / LIMITS).write_bytes(msgspec.json.encode(limits))

    def _close(self, segment: int, written: bytearray) -> None:
        (self._folder / f"{segment:06d}.seg").write_bytes(written.ljust(SEGMENT_BYTES, b"\0"))


def _entries(records: Sequence[UsageRecord]) -> Iterator[tuple[Kind, UsageRecord, bytes]]:
    """Yield the entries of all requests: each attempt's intent and, if another one follows, its outcome; the settle."""
    pending: deque[UsageRecord] = deque()
    for record in records:
        for number, attempt in enumerate(record.attempts):
            begun = msgspec.structs.replace(record, attempts=record.attempts[: number + 1])
            yield "I", record, encode_record(begun)
            if attempt is not record.attempts[-1]:
                yield "O", record, encode_record(attempt)
        pending.append(record)
        if len(pending) > OPEN_REQUESTS:
            settled = pending.popleft()
            yield "S", settled, encode_record(settled)
    for settled in pending:
        yield "S", settled, encode_record(settled)


def _measure(tree: Tree, prepared: Path, databases: NewDatabases) -> Cost:
    """Ship a copy of the prepared journal with the code of `tree`, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, databases.new(Path(name)) as database:
        data_dir = Path(name) / "data"
        shutil.copytree(prepared, data_dir)
        found = subprocess.run(
            [sys.executable, "-m", "benchmarks.shipped", data_dir, database.url, str(database.server_pid)],
            env=os.environ | {"PYTHONPATH": f"{tree.path / 'src'}:{ROOT}"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
    return msgspec.json.decode(found.stdout, type=Cost)


def _line(customers: int, tree: Tree, costs: Sequence[Cost]) -> list[str]:
    figures = [
        [(cost.journal_s + cost.store_s) / cost.measured * 1e6 for cost in costs],
        [cost.journal_s / cost.measured * 1e6 for cost in costs],
        [cost.store_s / cost.measured * 1e6 for cost in costs],
    ]
    server = [cost.server_s / cost.measured * 1e6 for cost in costs]
    whole = figures[0]
    return [
        f"{customers:,}",
        tree.name,
        *(f"{median(of_stage):.1f}" for of_stage in figures),
        f"{min(whole):.1f} to {max(whole):.1f}",
        f"{median(server):.1f}" if any(server) else "–",
        f"{median(cost.written / cost.measured for cost in costs):,.0f}",
    ]


def _table(given: argparse.Namespace, trees: Sequence[Tree], databases: NewDatabases, folder: Path) -> str:
    """Ship all journals with all checkouts. Returns the table.

    Raises:
        RecordsMissing: not all records were shipped.
    """
    lines: list[list[str]] = []
    for customers in given.customers or CUSTOMERS:
        prepared = folder / str(customers)
        history = History(Shape(records=given.records, customers=customers, keys=given.keys), START_MS)
        moments = [START_MS + number * 1000 // given.batch for number in range(given.records)]
        JournalFiles(prepared).write(history.made_at(moments), given.batch)
        costs: dict[str, list[Cost]] = {tree.name: [] for tree in trees}
        for _ in range(given.runs):
            for tree in trees:
                costs[tree.name].append(_measure(tree, prepared, databases))
        lines += [_line(customers, tree, costs[tree.name]) for tree in trees]
        if any(cost.records != given.records for of_tree in costs.values() for cost in of_tree):
            raise RecordsMissing(f"Records are missing: {costs}")
    heads = ("CPU µs/record", "journal", "database", "min to max", "server µs/record", WRITTEN[given.database])
    return table(("customers", "checkout", *heads), lines)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks shipping", description=__doc__)
    add = parser.add_argument
    add("--database", choices=DATABASES, default="sqlite", help="where records are stored (default: %(default)s)")
    add("--tree", type=tree_argument, action="append", default=[], metavar="[NAME=]PATH", help="another checkout")
    add("--records", type=int, default=20_000, help="records of a run (default: %(default)s)")
    add("--batch", type=int, default=1500, help="records that the shipper finds at a look (default: %(default)s)")
    add("--customers", type=int, action="append", help="number of customers, repeatable (default: 200 and 10000)")
    add("--keys", type=int, default=0, help="keys of the API; 0 for a single key of the environment (default: 0)")
    add("--runs", type=int, default=5, help="runs of each checkout, whose median counts (default: %(default)s)")
    add("--write", action="store_true", help=f"also write the table to benchmarks/{RESULTS.name}")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Measure and print the table. Returns the exit code."""
    given = _parse(arguments)
    trees = with_this(given.tree)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        known = facts(folder)
        try:
            with DATABASES[given.database](folder) as databases:
                measured, about = _table(given, trees, databases, folder), databases.about
        except (CannotRun, RecordsMissing) as error:
            print(error, file=sys.stderr)
            return 1
    command = " ".join(["python -m benchmarks shipping", *without_paths(arguments)])
    size = f"{given.records:,} records in batches of {given.batch:,}, median of {given.runs} runs in turns"
    load = f"load average over these minutes {os.getloadavg()[1]:.1f}, of which this run is about 1"
    lines = [size, about, *known, load, *map(str, trees), f"{datetime.now(UTC):%Y-%m-%d}, `{command}`"]
    text = measured + "\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"
    print(text)
    if given.write:
        title = f"{TITLE} on {TITLES[given.database]}"
        RESULTS.write_text(with_section(RESULTS.read_text(encoding="utf-8"), title, text), encoding="utf-8")
    return 0
