"""The bench runs and its books add up. What it measures is nobody's business here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ROWS = [
    "POST /generate to the mock, fsync interval",
    "POST /generate to the mock, fsync always",
    "cache hit",
    "added latency at 1 connection, p50, fsync always",
    "resident memory, idle",
    "resident memory, after this load",
    "start to first 200, without the local model",
    "plain nginx proxy",
    "POST /generate, fsync always, to nginx",
    "cache hit to nginx",
]


@pytest.mark.skipif(sys.platform != "linux", reason="the bench needs /proc")
def test_a_quick_bench_fills_its_table_and_the_accounting_adds_up() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "|"]
    budget, scenarios, accounting = (cells[start:end] for start, end in _tables(cells))
    assert [row[0] for row in budget] == ROWS
    assert all(row[3] for row in budget), "a figure is missing"
    assert len(scenarios) == 4
    assert [row[-1] for row in accounting] == ["OK"] * 4


def _tables(cells: list[list[str]]) -> list[tuple[int, int]]:
    """Where the lines of each table begin and end: a head and a rule stand before them."""
    rules = [number for number, row in enumerate(cells) if set("".join(row)) == {"-"}]
    return [(rule + 1, after - 1) for rule, after in zip(rules, [*rules[1:], len(cells) + 1], strict=True)]
