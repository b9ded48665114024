"""Short runs of the benchmarks: they finish, fill their tables, and the gateway's accounting matches the load."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmarks.report import with_section
from tests.fork_server import BENCH, fork_server

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
    "POST /v1/chat/completions, passed through, fsync always",
    "POST /v1/messages, translated, fsync always",
]


@pytest.mark.skipif(sys.platform != "linux", reason="the bench needs /proc")
def test_a_quick_bench_fills_its_table_and_the_accounting_adds_up() -> None:
    budget, scenarios, accounting = _tables(_run_forked("--quick")[0])
    assert [row[0] for row in budget] == ROWS
    assert all(row[3] for row in budget), "a figure is missing"
    assert len(scenarios) == 6
    assert [row[-1] for row in accounting] == ["OK"] * 6


def test_a_quick_bench_of_the_reports_fills_its_table_and_the_sums_match(tmp_path: Path) -> None:
    for said in ("2,000 of 2,000", "written by an earlier run"):
        output, errors = _run_forked("reports", "--quick", "--folder", str(tmp_path))
        assert said in errors
        budget, timings = _tables(output)
        names = {row[0].removesuffix(", p99") for row in budget}
        assert names >= {"summary, 90 days", "records of a customer", "breakdown by key and model, 30 days"}
        assert all(row[3] for row in budget), "a figure is missing"
        assert names < {row[0] for row in timings}
        assert {row[1] for row in timings} == {"3"}


@pytest.mark.skipif(sys.platform != "linux", reason="the bench needs /proc")
def test_a_quick_bench_of_shipping_measures_both_databases_and_ships_every_record() -> None:
    size = ("--records", "60", "--batch", "20", "--customers", "10", "--runs", "1")
    for database, has_server in (("sqlite", False), ("postgres", True)):
        output, _ = _run_forked("shipping", *size, "--database", database)
        [[(customers, tree, *figures)]] = _tables(output)
        assert (customers, tree) == ("10", "this tree")
        assert (figures[-2] != "–") is has_server
        assert all(figures)


@pytest.mark.skipif(sys.platform != "linux", reason="the bench needs /proc")
def test_a_quick_bench_of_the_tails_measures_every_target_and_the_accounting_adds_up() -> None:
    output, _ = _run_forked("tail", "--quick", "--tree", f"other={REPOSITORY}")
    ratios, latencies, accounting = _tables(output)
    assert [row[0] for row in ratios if row[0].startswith("p")] == [
        "p99 at 200/s, to nginx",
        "p99 at 200/s, to other",
        "p50 at 200/s beside a busy process, to nginx",
        "p50 at 200/s beside a busy process, to other",
    ]
    assert all(float(row[3].removesuffix(" ×")) > 0 for row in ratios)
    targets = ["nginx", "other", "this tree"]
    assert [row[:2] for row in latencies] == [
        *(["200/s", target] for target in ["mock without a proxy", *targets]),
        *(["200/s beside a busy process", target] for target in targets),
    ]
    for _, _, *figures in latencies:
        p50, p90, p99, p999, most = map(float, figures[:5])
        assert 0 < p50 <= p90 <= p99 <= p999
        assert most >= p999 - 0.1, "rounded to fewer digits"
    assert all(float(row[7].replace(",", "")) > 0 for row in latencies[1:]), "CPU time was measured"
    assert [row[0] for row in accounting] == ["other", "this tree"]
    assert [row[-1] for row in accounting] == ["OK"] * 2
    assert accounting[0][1] == accounting[1][1] != "0", "both got the same arrivals"


@pytest.mark.skipif(sys.platform != "linux", reason="the bench needs /proc")
def test_a_quick_comparison_of_two_trees_measures_both_and_the_accounting_adds_up() -> None:
    changes, accounting = _tables(_run_forked("compare", "--quick", "--tree", f"other={REPOSITORY}")[0])
    assert len(changes) == 5 * 4 + 7
    assert all(row[1] == "other" and row[2] and row[3] and row[4].endswith("%") for row in changes)
    assert [row[0] for row in accounting] == ["other", "this tree"]
    assert [row[-1] for row in accounting] == ["OK"] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="the bench needs /proc")
def test_a_brief_bench_of_the_processes_measures_workers_memory_and_keys() -> None:
    sizes = ("--seconds", "1.2", "--rounds", "1", "--rate", "50", "--keys", "20")
    speeds, memory, keys = _tables(_run_forked("processes", *sizes)[0])
    assert [row[:2] for row in speeds] == [[load, n] for load in ("at the rate", "as fast as it can") for n in "12"]
    assert [row[0] for row in memory] == ["control", "supervisor", "worker", "worker"]
    assert all(float(row[1]) > 0 for row in memory)
    assert [row[0] for row in keys] == ["nothing changes", "a key is made each second"]
    figures = [cell for row in speeds for cell in row[2:5]] + [cell for row in keys for cell in row[1:5]]
    assert all(float(cell.split(" ")[0].replace(",", "")) > 0 for cell in figures)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "# B\n\nnew\n"),
        ("# A\n\none\n", "# A\n\none\n\n# B\n\nnew\n"),
        ("# A\n\none\n\n# B\n\nold\n\n## of B\n\n# C\n\nx\n", "# A\n\none\n\n# B\n\nnew\n\n# C\n\nx\n"),
    ],
)
def test_a_run_replaces_its_own_section_of_the_results(text: str, expected: str) -> None:
    assert with_section(text, "B", "new\n") == expected


def _run_forked(*arguments: str) -> tuple[str, str]:
    """Run a benchmark that forks its gateways, as imports take half of its time. Returns standard output and error."""
    code, output, errors = fork_server().run(BENCH, arguments, REPOSITORY, os.environ)
    assert code == 0, errors + output
    return output, errors


def _tables(text: str) -> list[list[list[str]]]:
    """Return the cells of each table's rows, without its header and separator."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    rules = [number for number, row in enumerate(cells) if set("".join(row)) == {"-"}]
    ends = [rule - 1 for rule in rules[1:]] + [len(cells)]
    return [cells[rule + 1 : end] for rule, end in zip(rules, ends, strict=True)]
