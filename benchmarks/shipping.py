"""Measure the control process's CPU time per record, from the journal to a new SQLite database.

A journal of realistic records is written once. Then each checkout ships copies of it, in turns, in batches as large as
the shipper finds them at the given rate. Fails if a record is missing, never on a figure.
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
from benchmarks.report import table
from benchmarks.shipped import LIMITS, WRITER, Cost
from benchmarks.targets import ROOT
from benchmarks.trees import THIS, Tree, tree_argument, with_this, without_paths
from llm_gateway.domain.usage import UsageRecord, encode_record
from llm_gateway.journal.frames import Kind, encode_frame
from llm_gateway.journal.segments import Position

SEGMENT_BYTES = 16 * 1024 * 1024
OPEN_REQUESTS = 32
"""Requests whose intents precede the first settle."""
START_MS = int(datetime(2026, 6, 1, 12, 10, tzinfo=UTC).timestamp() * 1000)
CUSTOMERS = (200, 10_000)


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


def _measure(tree: Tree, prepared: Path) -> Cost:
    """Ship a copy of the prepared journal with the code of `tree`, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        data_dir = Path(name) / "data"
        shutil.copytree(prepared, data_dir)
        found = subprocess.run(
            [sys.executable, "-m", "benchmarks.shipped", data_dir],
            env=os.environ | {"PYTHONPATH": f"{tree.path / 'src'}:{ROOT}"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
    return msgspec.json.decode(found.stdout, type=Cost)


def _line(customers: int, tree: Tree, costs: Sequence[Cost]) -> list[str]:
    figures = [
        [(cost.journal_s + cost.store_s) / cost.records * 1e6 for cost in costs],
        [cost.journal_s / cost.records * 1e6 for cost in costs],
        [cost.store_s / cost.records * 1e6 for cost in costs],
    ]
    whole = figures[0]
    return [
        f"{customers:,}",
        tree.name,
        *(f"{median(of_stage):.1f}" for of_stage in figures),
        f"{min(whole):.1f} to {max(whole):.1f}",
        f"{median(cost.written / cost.records for cost in costs):,.0f}",
    ]


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks shipping", description=__doc__)
    add = parser.add_argument
    add("--tree", type=tree_argument, action="append", default=[], metavar="[NAME=]PATH", help="another checkout")
    add("--records", type=int, default=20_000, help="records of a run (default: 20000)")
    add("--batch", type=int, default=1500, help="records that the shipper finds at a look (default: 1500)")
    add("--customers", type=int, action="append", help="number of customers, repeatable (default: 200 and 10000)")
    add("--runs", type=int, default=5, help="runs of each checkout, whose median counts (default: 5)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Measure and print the table. Returns the exit code."""
    given = _parse(arguments)
    trees = with_this(given.tree)
    lines: list[list[str]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        known = facts(Path(name))
        for customers in given.customers or CUSTOMERS:
            prepared = Path(name) / str(customers)
            history = History(Shape(records=given.records, customers=customers), START_MS)
            moments = [START_MS + number * 1000 // given.batch for number in range(given.records)]
            JournalFiles(prepared).write(history.made_at(moments), given.batch)
            costs: dict[str, list[Cost]] = {tree.name: [] for tree in trees}
            for _ in range(given.runs):
                for tree in trees:
                    costs[tree.name].append(_measure(tree, prepared))
            lines += [_line(customers, tree, costs[tree.name]) for tree in trees]
            if any(cost.records != given.records for of_tree in costs.values() for cost in of_tree):
                print(f"Records are missing: {costs}", file=sys.stderr)
                return 1
    heads = ("CPU µs/record", "journal", "database", "min to max", "bytes written/record")
    print(table(("customers", "checkout", *heads), lines))
    command = " ".join(["python -m benchmarks shipping", *without_paths(arguments)])
    about = f"{given.records:,} records in batches of {given.batch:,}, median of {given.runs} runs in turns"
    others = [tree for tree in trees if tree is not THIS]
    print(
        "\n".join(f"- {fact}" for fact in [about, *known, *others, THIS, f"{datetime.now(UTC):%Y-%m-%d}, `{command}`"])
    )
    return 0
